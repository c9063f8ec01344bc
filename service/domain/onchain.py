"""What a Solana cluster shows, and what is asked of it, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc, BlockHeight, Lamports, Slot

Commitment = Literal["processed", "confirmed", "finalized"]

_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class LatestBlockhash:
    """A blockhash to sign with, and the view of the chain it belongs to."""

    blockhash: str
    last_valid_block_height: BlockHeight
    tip_height: BlockHeight
    slot: Slot
    first_available_slot: Slot


@dataclass(frozen=True, slots=True)
class RawAccount:
    """An account as it is stored; `owner` is the program that it belongs to."""

    address: str
    owner: str
    lamports: Lamports
    data: bytes


@dataclass(frozen=True, slots=True)
class AccountsReading:
    """Several accounts at one slot; `None` where there is none."""

    slot: Slot
    accounts: tuple[RawAccount | None, ...]


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """An SPL token account at a slot. Amounts are atomic units."""

    address: str
    mint: str
    owner: str
    program: str
    amount: AtomicUsdc
    delegate: str | None
    delegated_amount: AtomicUsdc
    frozen: bool
    slot: Slot


@dataclass(frozen=True, slots=True)
class Mint:
    """An SPL mint. `extensions` names every Token-2022 extension that it carries."""

    address: str
    program: str
    decimals: int
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignatureStatus:
    """One provider's answer for one signature; `level` is `None` when it knows nothing of it."""

    level: Commitment | None
    slot: Slot | None
    error: object | None
    context_slot: Slot


@dataclass(frozen=True, slots=True)
class ChainHeights:
    """Block heights and history bounds as one provider sees them."""

    tip: BlockHeight
    finalized: BlockHeight
    finalized_slot: Slot
    first_available_slot: Slot


@dataclass(frozen=True, slots=True)
class FinalizedTransaction:
    """A finalized transaction as fetched: its error, and each token account's change.

    `raw_hash` is the SHA-256 of the wire bytes, signatures included; `message_hash` of what was
    signed.
    """

    signature: str
    slot: Slot
    error: object | None
    token_changes: Mapping[str, int]
    memos: tuple[str, ...]
    raw_hash: bytes
    message_hash: bytes
    logs: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a simulation says: `error` is `None` when the transaction would succeed.

    `inner_programs` are the programs that other programs invoked, in order; `None` where the
    provider does not say.
    """

    error: object | None
    logs: tuple[str, ...]
    units_consumed: int
    inner_programs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TransferOrder:
    """All that one settlement transaction says, beside its blockhash.

    `amount` in atomic units, `compute_unit_price` in micro-lamports per compute unit. A source with
    another owner than `source_owner` pays nothing; settlements of old logs do not name it.
    """

    settlement_id: str
    amount: AtomicUsdc
    source: str
    destination: str
    recipient: str
    mint: str
    decimals: int
    token_program: str
    authority: str
    fee_payer: str
    create_recipient_account: bool
    compute_unit_limit: int
    compute_unit_price: int
    authority_kind: FundingKind = "delegate"
    source_owner: str | None = None
    swig_address: str | None = None
    swig_role_id: int | None = None


@dataclass(frozen=True, slots=True)
class UnsignedTransaction:
    """A message to sign, and whose signatures it needs, in their order in the transaction."""

    message: bytes
    signers: tuple[str, ...]

    def signed(self, signatures: Mapping[str, bytes]) -> bytes:
        """The wire bytes. Spec: Solana transactions: count, 64-byte signatures, message.

        Raises:
            KeyError: a signer's signature is missing.
        """
        ordered = [signatures[signer] for signer in self.signers]
        return bytes([len(ordered)]) + b"".join(ordered) + self.message


def message_of(transaction: bytes) -> bytes:
    """The message inside wire bytes, as `UnsignedTransaction.signed` makes them."""
    return transaction[1 + _SIGNATURE_BYTES * transaction[0] :]


def chain_id_of(genesis_hash: str) -> str:
    """The CAIP-2 id of the cluster with this genesis hash.

    Spec: CAIP-30, which cuts the genesis hash to 32 characters.
    """
    return f"solana:{genesis_hash[:32]}"
