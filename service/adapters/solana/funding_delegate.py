"""SPL delegation as a funding source: the payer approved our key as delegate of its token account.

Spec: spl-token `ApproveChecked`. An account has one delegate, and a later approval replaces the
earlier one, whoever it was for; and it may exceed the balance. So both are read before signing.
"""

from collections.abc import Sequence

from solders.pubkey import Pubkey
from spl.token.instructions import approve_checked
from spl.token.models import ApproveCheckedParams

from service.adapters.solana import accounts
from service.adapters.solana.batches import read_all
from service.adapters.solana.transfer import (
    associated_token_address,
    build,
    compiled,
    transfer_instruction,
)
from service.domain.errors import Corrupt, FundingSourceRefused, InvalidWallet
from service.domain.failures import Finding
from service.domain.funding import FundingReading, GrantOrder, GrantTransaction, SourceRef
from service.domain.onchain import TokenAccount, TransferOrder, UnsignedTransaction
from service.domain.settlement_plan import LAMPORTS_PER_SIGNATURE
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc, Slot
from service.ports import Chain


def delegate_finding(order: TransferOrder, account: TokenAccount | None) -> Finding | None:
    """What keeps the delegate `order.authority` from moving the amount; `None` when nothing."""
    owner = order.source_owner
    if account is not None and owner is not None and account.owner != owner:
        detail = f"the owner is {account.owner}, the payer is {owner}"
        return Finding("source_owner_mismatch", detail)
    finding = _standing_finding(order.source, order.mint, order.authority, account)
    if finding or account is None:
        return finding
    held, delegated, owed = account.amount, account.delegated_amount, order.amount
    if delegated < owed:
        return Finding("allowance_too_small", f"{delegated} is delegated, {owed} is owed")
    if held < owed:
        return Finding("insufficient_funds", f"{held} is held, {owed} is owed")
    return None


class DelegateFunding:
    """The `FundingSource` port for payers that approved `pubkey` as delegate."""

    kind: FundingKind = "delegate"

    def __init__(self, chain: Chain, pubkey: str, token_program: str) -> None:
        self._chain = chain
        self._pubkey = pubkey
        self._token_program = token_program

    @property
    def pubkey(self) -> str:
        """The delegate."""
        return self._pubkey

    async def locate(self, payer: str, swig_address: str | None, mint: str) -> SourceRef:  # noqa: ARG002  the port's
        """The payer's associated token account."""
        try:
            address = associated_token_address(payer, mint, self._token_program)
        except ValueError as error:
            raise InvalidWallet(f"{payer!r} is not a Solana address") from error
        return SourceRef(kind="delegate", token_account=address, owner=payer, mint=mint)

    async def readings(self, refs: Sequence[SourceRef]) -> list[FundingReading]:
        """Each account's balance and what of it is delegated to us."""
        found = await read_all(self._chain, [ref.token_account for ref in refs])
        readings: list[FundingReading] = []
        for ref, (slot, raw) in zip(refs, found, strict=True):
            account = raw and accounts.token_account(raw.address, raw.owner, raw.data, slot)
            readings.append(self._reading(ref, account, slot))
        return readings

    async def source_finding(self, order: TransferOrder) -> Finding | None:
        """Read the payer's account, and the mint where the token program has extensions."""
        account = await self._chain.token_account(order.source, "confirmed")
        return delegate_finding(order, account) or await mint_finding(self._chain, order)

    def unsigned(self, order: TransferOrder, blockhash: str) -> UnsignedTransaction:
        """The transaction whose payment the delegate signs.

        Raises:
            Corrupt: the order names an address that is none.
        """
        try:
            return build(order, transfer_instruction(order), blockhash)
        except ValueError as error:
            raise Corrupt(f"settlement {order.settlement_id} cannot be built: {error}") from error

    async def grant(self, order: GrantOrder) -> list[GrantTransaction]:
        """One transaction: the buyer approves our key, up to the spend limit. An account has one
        delegate, so this replaces an earlier one, whoever it is."""
        ref = await self.locate(order.buyer, None, order.mint)
        account = await self._chain.token_account(ref.token_account, "confirmed")
        if account is None:
            raise FundingSourceRefused(
                f"{order.buyer} has no account for {order.mint}: send it some USDC first"
            )
        if account.owner != order.buyer:
            raise FundingSourceRefused(
                f"the account {ref.token_account} belongs to {account.owner}, not to the buyer"
            )
        if account.frozen:
            raise FundingSourceRefused(
                f"the account {ref.token_account} is frozen: only the mint's issuer can thaw it"
            )
        if order.fee_payer == order.buyer and (
            await self._chain.lamports(order.buyer) < LAMPORTS_PER_SIGNATURE
        ):
            raise FundingSourceRefused(
                f"{order.buyer} holds no SOL, and the fee is paid in SOL: send it about 0.001 SOL"
            )
        buyer = Pubkey.from_string(order.buyer)
        approve = approve_checked(
            ApproveCheckedParams(
                program_id=Pubkey.from_string(order.token_program),
                source=Pubkey.from_string(ref.token_account),
                mint=Pubkey.from_string(order.mint),
                delegate=Pubkey.from_string(self._pubkey),
                owner=buyer,
                amount=order.spend_limit,
                decimals=order.decimals,
            )
        )
        latest = await self._chain.latest_blockhash()
        unsigned = compiled([approve], order.fee_payer, latest.blockhash)
        height = latest.last_valid_block_height
        return [GrantTransaction("approve_delegate", unsigned.message, unsigned.signers, height)]

    def _reading(self, ref: SourceRef, account: TokenAccount | None, slot: Slot) -> FundingReading:
        finding = _standing_finding(ref.token_account, ref.mint, self._pubkey, account)
        if account is not None and account.owner != ref.owner:
            finding = Finding("source_owner_mismatch", f"the owner is {account.owner}")
        ours = account is not None and account.delegate == self._pubkey
        return FundingReading(
            balance=AtomicUsdc(0) if account is None else account.amount,
            allowance=account.delegated_amount if account and ours else AtomicUsdc(0),
            slot=slot,
            finding=finding,
        )


async def mint_finding(chain: Chain, order: TransferOrder) -> Finding | None:
    """What keeps the order's mint from being paid in; `None` when nothing does."""
    mint = await chain.mint(order.mint)
    if mint is None:
        return Finding("wrong_mint", f"{order.mint} is not a mint")
    if mint.decimals != order.decimals:
        return Finding("wrong_decimals", f"the mint has {mint.decimals} decimals")
    if mint.extensions:
        return Finding("mint_unsupported", ", ".join(mint.extensions))
    return None


def _standing_finding(
    address: str, mint: str, delegate: str, account: TokenAccount | None
) -> Finding | None:
    """What keeps the delegate from moving anything at all."""
    if account is None:
        return Finding("source_account_missing", address)
    checks = (
        (account.mint != mint, "wrong_mint", f"the payer's account holds {account.mint}"),
        (account.frozen, "source_account_frozen", address),
        (
            account.delegate != delegate,
            "delegate_revoked",
            f"the delegate is {account.delegate or 'nobody'}",
        ),
    )
    return next((Finding(code, detail) for fails, code, detail in checks if fails), None)
