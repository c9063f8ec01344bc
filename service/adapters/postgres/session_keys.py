"""The `SessionKeyStore` port: one row for each session that may still sign."""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.tables import session_keys
from service.ports import SealedKey

_RESEAL: Final = sa.text("""
UPDATE session_keys k SET key_id = new.key_id, sealed = new.sealed
  FROM unnest(CAST(:streams AS text[]), CAST(:before AS bytea[]), CAST(:key_ids AS text[]),
              CAST(:sealed AS bytea[])) AS new (stream_id, before, key_id, sealed)
 WHERE k.stream_id = new.stream_id AND k.sealed = new.before
RETURNING k.stream_id
""")
_SWEEP: Final = sa.text("""
DELETE FROM session_keys k
 WHERE EXISTS (SELECT FROM sessions s WHERE s.stream_id = k.stream_id AND s.state <> 'open')
    OR (k.created_at < now() - interval '1 hour'
        AND NOT EXISTS (SELECT FROM sessions s WHERE s.stream_id = k.stream_id))
RETURNING k.stream_id
""")


class PostgresSessionKeys:
    """See `SessionKeyStore`; one for one process."""

    def __init__(self, store: PostgresEventStore) -> None:
        self._fetch = store.fetch

    async def put(self, key: SealedKey) -> None:
        """See `SessionKeyStore`."""
        values = {
            "stream_id": key.stream_id,
            "session_pubkey": key.session_pubkey,
            "key_id": key.key_id,
            "sealed": key.sealed,
        }
        await self._fetch(
            sa.insert(session_keys).values(values).returning(session_keys.c.stream_id)
        )

    async def get(self, stream_id: str) -> SealedKey | None:
        """See `SessionKeyStore`."""
        rows = await self._fetch(
            sa.select(session_keys).where(session_keys.c.stream_id == stream_id)
        )
        return _key(rows[0]) if rows else None

    async def delete(self, stream_ids: Sequence[str]) -> None:
        """See `SessionKeyStore`."""
        chosen = sa.delete(session_keys).where(session_keys.c.stream_id.in_(stream_ids))
        await self._fetch(chosen.returning(session_keys.c.stream_id))

    async def counts(self) -> dict[str, int]:
        """See `SessionKeyStore`."""
        query = sa.select(session_keys.c.key_id, sa.func.count().label("total"))
        rows = await self._fetch(query.group_by(session_keys.c.key_id))
        return {row.key_id: row.total for row in rows}

    async def sealed_by(self, key_ids: Sequence[str], limit: int) -> list[SealedKey]:
        """See `SessionKeyStore`."""
        query = sa.select(session_keys).where(session_keys.c.key_id.in_(key_ids)).limit(limit)
        return [_key(row) for row in await self._fetch(query)]

    async def reseal(self, before: Sequence[SealedKey], after: Sequence[SealedKey]) -> int:
        """See `SessionKeyStore`."""
        values: dict[str, Any] = {
            "streams": [key.stream_id for key in after],
            "before": [key.sealed for key in before],
            "key_ids": [key.key_id for key in after],
            "sealed": [key.sealed for key in after],
        }
        return len(await self._fetch(_RESEAL, values))

    async def sweep(self) -> int:
        """See `SessionKeyStore`."""
        return len(await self._fetch(_SWEEP))


def _key(row: sa.Row[Any]) -> SealedKey:
    return SealedKey(row.stream_id, row.session_pubkey, row.key_id, bytes(row.sealed))
