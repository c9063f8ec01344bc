"""SPL delegation as the authority: the payer approved our key as delegate of its token account.

Spec: spl-token `ApproveChecked`. An account has one delegate, and a later approval replaces the
earlier one, whoever it was for; and it may exceed the balance. So both are read before signing.
"""

from service.adapters.solana.transfer import build, transfer_instruction
from service.domain.errors import Corrupt
from service.domain.failures import Finding
from service.domain.onchain import TokenAccount, TransferOrder, UnsignedTransaction
from service.ports import Chain


def delegate_finding(order: TransferOrder, account: TokenAccount | None) -> Finding | None:
    """What keeps the delegate `order.authority` from moving the amount; `None` when nothing."""
    if account is None:
        return Finding("source_account_missing", order.source)
    held, delegated, owed = account.amount, account.delegated_amount, order.amount
    checks = (
        (account.mint != order.mint, "wrong_mint", f"the payer's account holds {account.mint}"),
        (account.frozen, "source_account_frozen", order.source),
        (
            account.delegate != order.authority,
            "delegate_revoked",
            f"the delegate is {account.delegate or 'nobody'}",
        ),
        (delegated < owed, "allowance_too_small", f"{delegated} is delegated, {owed} is owed"),
        (held < owed, "insufficient_funds", f"{held} is held, {owed} is owed"),
    )
    return next((Finding(code, detail) for fails, code, detail in checks if fails), None)


class DelegateAuthority:
    """The `Authority` port for payers that approved `pubkey` as delegate."""

    def __init__(self, chain: Chain, pubkey: str) -> None:
        self._chain = chain
        self._pubkey = pubkey

    @property
    def pubkey(self) -> str:
        """The delegate."""
        return self._pubkey

    async def source_finding(self, order: TransferOrder) -> Finding | None:
        """Read the payer's account, and the mint where the token program has extensions."""
        account = await self._chain.token_account(order.source, "confirmed")
        return delegate_finding(order, account) or await self._mint_finding(order)

    def unsigned(self, order: TransferOrder, blockhash: str) -> UnsignedTransaction:
        """The transaction whose payment the delegate signs.

        Raises:
            Corrupt: the order names an address that is none.
        """
        try:
            return build(order, transfer_instruction(order), blockhash)
        except ValueError as error:
            raise Corrupt(f"settlement {order.settlement_id} cannot be built: {error}") from error

    async def _mint_finding(self, order: TransferOrder) -> Finding | None:
        mint = await self._chain.mint(order.mint)
        if mint is None:
            return Finding("wrong_mint", f"{order.mint} is not a mint")
        if mint.decimals != order.decimals:
            return Finding("wrong_decimals", f"the mint has {mint.decimals} decimals")
        if mint.extensions:
            return Finding("mint_unsupported", ", ".join(mint.extensions))
        return None
