"""Where session keys are kept, sealed, beside the log. Raises `DatabaseUnavailable` throughout."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A session's key as it is stored; `key_id` names the secret that opens it."""

    stream_id: str
    session_pubkey: str
    key_id: str
    sealed: bytes = field(repr=False)


class SessionKeyStore(Protocol):
    """One row for each session that may still sign. Every write is durable on return."""

    async def put(self, key: SealedKey) -> None:
        """Keep a new key. Its session need not exist yet."""
        ...

    async def get(self, stream_id: str) -> SealedKey | None: ...

    async def delete(self, stream_ids: Sequence[str]) -> None:
        """Forget keys; those that are not there are no matter."""
        ...

    async def counts(self) -> dict[str, int]:
        """How many keys each secret seals, by its id."""
        ...

    async def sealed_by(self, key_ids: Sequence[str], limit: int) -> list[SealedKey]:
        """Keys that one of these secrets seals."""
        ...

    async def reseal(self, before: Sequence[SealedKey], after: Sequence[SealedKey]) -> int:
        """Replace those that are still as they were before; gives how many were."""
        ...

    async def sweep(self) -> int:
        """Forget the keys of sessions that sign no more, and of opens that came to nothing an hour
        ago; gives how many."""
        ...
