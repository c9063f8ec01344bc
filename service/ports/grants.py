"""What session grants need of the database beside their streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.domain.units import UnixMillis


@dataclass(frozen=True, slots=True)
class GrantRow:
    """One row of a listing: a grant's projection and the cursor behind it."""

    projection: bytes
    cursor: str


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What may still be taken from a wallet, in atomic units, as one moment shows it.

    `wallet` is what its grants that are not over still allow, what its sessions owe and are not
    settled for, and what is left of the deposits of sessions that it opened. `grant` is the part of
    one grant: what it still allows, and what is owed under it.
    """

    wallet: int
    grant: int


class GrantStore(Protocol):
    """The side table of grants. Every method raises `DatabaseUnavailable` when it cannot answer."""

    async def grants(self, owner: str, *, limit: int, after: str | None) -> list[GrantRow]:
        """A page of an owner's grants, the newest first.

        Raises:
            InvalidRequest: no page gave this cursor.
        """
        ...

    async def outstanding(
        self, owner: str, grant_id: str, *, account: str, reserved: Sequence[str], now: UnixMillis
    ) -> Outstanding:
        """What may still be taken from the owner, or out of the token account that pays for it.

        `reserved` are the streams of sessions with a deposit on the account. The cost is in
        proportion to the owner's grants and to the sessions that are not settled.
        """
        ...
