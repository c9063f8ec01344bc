"""What session grants need of the database beside their streams."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class GrantRow:
    """One row of a listing: a grant's projection and the cursor behind it."""

    projection: bytes
    cursor: str


class GrantStore(Protocol):
    """The side table of grants. Every method raises `DatabaseUnavailable` when it cannot answer."""

    async def grants(self, owner: str, *, limit: int, after: str | None) -> list[GrantRow]:
        """A page of an owner's grants, the newest first.

        Raises:
            InvalidRequest: no page gave this cursor.
        """
        ...
