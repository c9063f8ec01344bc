"""A wallet that pays on the chain with a key in memory. Needs `session-ledger-client[solana]`.

Spec: SPL Token, Memo and Compute Budget programs; x402 v2, scheme `exact` for SVM.
"""

import secrets
import time
from typing import Final

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from session_ledger.buyer.errors import AutoPayError
from session_ledger.buyer.offers import Requirement
from session_ledger.buyer.transactions import Signed
from session_ledger.json_text import JsonValue
from session_ledger.rpc import Rpc, RpcError
from session_ledger.transfers import Transfer, signed, token_account
from session_ledger.x402 import wire

_MEMO_PROGRAM: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
_TRANSFER_CHECKED: Final = 12
_COMPUTE_UNITS: Final = 20_000
_COMPUTE_PRICE: Final = 1
_DECIMALS_AT: Final = 44
_NONCE_BYTES: Final = 16
_CONFIRM_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.2


class ChainWallet:
    """The key of `seed` (32 bytes) at the node `rpc_url`. Safe to share between threads."""

    def __init__(self, rpc_url: str, seed: bytes) -> None:
        self._rpc = Rpc(rpc_url)
        self._keypair = Keypair.from_seed(seed)

    @property
    def address(self) -> str:
        """See `PaymentWallet`."""
        return str(self._keypair.pubkey())

    def close(self) -> None:
        """Close the connections to the node."""
        self._rpc.close()

    def transfer(self, asked: Requirement) -> Signed:
        """See `PaymentWallet`.

        Raises:
            AutoPayError: the node does not answer, or does not know the token.
        """
        try:
            raw = signed(self._keypair, self._transfer(asked), self._rpc.latest_blockhash())
        except RpcError as error:
            raise AutoPayError(f"the payment could not be made: {error}") from error
        return Signed(raw, _own_signature(raw, 0))

    def sponsored(self, asked: Requirement) -> Signed:
        """See `PaymentWallet`.

        Raises:
            AutoPayError: as for `transfer`.
        """
        extra = wire.optional_object(asked.accepted or {}, "extra") or {}
        sponsor = Pubkey.from_string(wire.key_of(extra, "feePayer"))
        memo = wire.optional_memo(extra) or secrets.token_hex(_NONCE_BYTES)
        try:
            transfer = self._transfer(asked)
            blockhash = Hash.from_string(self._rpc.latest_blockhash())
        except RpcError as error:
            raise AutoPayError(f"the payment could not be made: {error}") from error
        steps = [
            set_compute_unit_limit(_COMPUTE_UNITS),
            set_compute_unit_price(_COMPUTE_PRICE),
            _moved(self._keypair.pubkey(), transfer),
            Instruction(_MEMO_PROGRAM, memo.encode(), []),
        ]
        message = MessageV0.try_compile(sponsor, steps, [], blockhash)
        own = self._keypair.sign_message(to_bytes_versioned(message))
        signatures = [
            own if key == self._keypair.pubkey() else Signature.default()
            for key in message.account_keys[: message.header.num_required_signatures]
        ]
        raw = bytes(VersionedTransaction.populate(message, signatures))
        return Signed(raw, str(own))

    def send(self, raw: bytes, signature: str) -> bool:
        """See `PaymentWallet`. Sending the same bytes again moves nothing twice.

        Raises:
            AutoPayError: the node does not answer, or nothing is known in two minutes.
        """
        deadline = time.monotonic() + _CONFIRM_SECONDS
        try:
            while time.monotonic() < deadline:
                found = self._status(signature)
                if found is None:
                    if not self._sent(raw):
                        return False
                elif found.get("err") is not None:
                    return False
                elif found.get("confirmationStatus") in {"confirmed", "finalized"}:
                    return True
                time.sleep(_POLL_SECONDS)
        except RpcError as error:
            raise AutoPayError(f"the payment may have been sent: {error}") from error
        raise AutoPayError("the payment was sent and is not confirmed yet; it is kept")

    def _status(self, signature: str) -> dict[str, JsonValue] | None:
        match self._rpc.call(
            "getSignatureStatuses", [signature], {"searchTransactionHistory": True}
        ):
            case {"value": [{**found}]}:
                return found
            case _:
                return None

    def _sent(self, raw: bytes) -> bool:
        """False once the chain will not take it any more and has not taken it."""
        blockhash = str(VersionedTransaction.from_bytes(raw).message.recent_blockhash)
        known = self._rpc.call("isBlockhashValid", blockhash, {"commitment": "confirmed"})
        try:
            self._rpc.send(raw)
        except RpcError:
            match known:
                case {"value": False}:
                    return False
                case _:
                    raise
        return True

    def _transfer(self, asked: Requirement) -> Transfer:
        mint = self._rpc.account(asked.asset)
        if mint is None or len(mint.data) <= _DECIMALS_AT:
            raise RpcError(f"there is no token {asked.asset} on this chain")
        offer = asked.direct
        return Transfer(
            mint=Pubkey.from_string(asked.asset),
            token_program=Pubkey.from_string(mint.owner),
            decimals=mint.data[_DECIMALS_AT],
            recipient=Pubkey.from_string(asked.recipient),
            amount=asked.amount,
            memo=None if offer is None else offer.memo,
            reference=None if offer is None else offer.reference,
        )


def _moved(owner: Pubkey, transfer: Transfer) -> Instruction:
    mint, program = transfer.mint, transfer.token_program
    source = token_account(owner, mint, program)
    destination = token_account(transfer.recipient, mint, program)
    accounts = [
        AccountMeta(source, is_signer=False, is_writable=True),
        AccountMeta(mint, is_signer=False, is_writable=False),
        AccountMeta(destination, is_signer=False, is_writable=True),
        AccountMeta(owner, is_signer=True, is_writable=False),
    ]
    data = bytes([_TRANSFER_CHECKED]) + transfer.amount.to_bytes(8, "little")
    return Instruction(program, data + bytes([transfer.decimals]), accounts)


def _own_signature(raw: bytes, index: int) -> str:
    return str(VersionedTransaction.from_bytes(raw).signatures[index])
