"""Rows of a side table that are looked at again and again, each at a time of its own."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from service.adapters.postgres.event_store import PostgresEventStore


class DueRows:
    """The rows of one table by `key`: `check_at` is when one is due, `note` what a look left.

    Whoever looks schedules the next look; where nobody does, the lease ends and it is due again.
    """

    def __init__(
        self, store: PostgresEventStore, table: str, *, key: str, note: str, kind: str, watched: str
    ) -> None:
        """`kind` is the type of `note`, `watched` the condition of rows that can be due."""
        self._fetch = store.fetch
        # SKIP LOCKED in both: a row that an append holds is about to change, and to wait for one
        # while holding others could end in a circle.
        self._lease = sa.text(f"""
UPDATE {table} SET check_at = now() + make_interval(secs => :seconds)
 WHERE {key} IN (
   SELECT {key} FROM {table} WHERE {watched} AND check_at <= now()
    ORDER BY check_at LIMIT :limit FOR UPDATE SKIP LOCKED)
RETURNING {key} AS key, {note} AS note
""")  # noqa: S608  our own constants
        self._schedule = sa.text(f"""
WITH wanted AS (
  SELECT r.{key}, w.seconds, w.note
    FROM unnest(CAST(:keys AS text[]), CAST(:seconds AS float8[]), CAST(:notes AS {kind}[]))
         AS w (key, seconds, note)
    JOIN {table} r ON r.{key} = w.key
     FOR UPDATE OF r SKIP LOCKED)
UPDATE {table} SET check_at = now() + make_interval(secs => wanted.seconds), {note} = wanted.note
  FROM wanted WHERE {table}.{key} = wanted.{key}
RETURNING {table}.{key}
""")  # noqa: S608  our own constants

    async def lease(self, *, seconds: float, limit: int) -> list[tuple[str, Any]]:
        """Keys and notes of rows that are due; they are due again after so many seconds."""
        rows = await self._fetch(self._lease, {"seconds": seconds, "limit": limit})
        return [(row.key, row.note) for row in rows]

    async def schedule(self, looks: Sequence[tuple[str, float | None, Any]]) -> None:
        """Keys, each with the seconds until it is due (`None`: never) and what to note."""
        values = {
            "keys": [key for key, _, _ in looks],
            "seconds": [seconds for _, seconds, _ in looks],
            "notes": [note for _, _, note in looks],
        }
        await self._fetch(self._schedule, values)
