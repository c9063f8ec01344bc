"""A transaction of somebody else's, as one provider shows it: what moved, by whom, with what said.

Token balances are the ground of every judgement: they hold what each instruction of every level
did, of programs that nobody here has heard of too. Instructions only say who asked for it.
"""

from dataclasses import dataclass

from service.domain.units import Slot


@dataclass(frozen=True, slots=True)
class TokenBalance:
    """What one owner held in one token account, before and after, in atomic units.

    An account that changed hands inside the transaction stands here once for each owner.
    """

    account: str
    owner: str
    mint: str
    token_program: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class TokenTransfer:
    """A transfer instruction, of the transaction itself or of a program that it called.

    `amount` is what left the source: a mint with a transfer fee credits less.
    """

    source: str
    destination: str
    authority: str
    amount: int


@dataclass(frozen=True, slots=True)
class ObservedTransaction:
    """A landed transaction. `block_time` in Unix seconds, `None` where the provider has none.

    `signers` are in their order, the fee payer first; `accounts` are all that it names, those of
    lookup tables too; `memos` and `transfers` are of all levels. `raw_hash` is the SHA-256 of the
    wire bytes.
    """

    signature: str
    slot: Slot
    block_time: int | None
    error: object | None
    signers: tuple[str, ...]
    accounts: tuple[str, ...]
    balances: tuple[TokenBalance, ...]
    transfers: tuple[TokenTransfer, ...]
    memos: tuple[str, ...]
    raw_hash: bytes

    def net(self, owner: str, mint: str) -> int:
        """What the owner gained (or lost) of the mint over all of its accounts, atomic units."""
        return sum(
            balance.after - balance.before
            for balance in self.balances
            if (balance.owner, balance.mint) == (owner, mint)
        )
