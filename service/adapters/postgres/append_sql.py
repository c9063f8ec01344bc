"""The statements of one group commit, inside a transaction that the caller began."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Final

import asyncpg

from service.adapters.postgres.connections import Connection
from service.adapters.postgres.tables import LOOKUPS
from service.domain.errors import (
    ClaimTaken,
    Corrupt,
    DatabaseUnavailable,
    InvalidRequest,
    LedgerError,
    RecipientInUse,
    WrongPosition,
)
from service.ports import StreamAppend

if TYPE_CHECKING:
    from service.adapters.postgres.group_commit import Pending

# The ordinary append in one statement, which is one transaction and one round trip: one voucher on
# a stream that exists. The heads are locked in the order of the rows (sorted by name) and compared
# under the lock; what stands elsewhere is left out, and the caller learns it from what comes back.
# Every look-up goes from a row to one head by its key, so 512 rows cost 512 times one.
_PLAIN: Final = """
WITH held AS MATERIALIZED (
  SELECT w.*
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::int[], $5::bytea[], $6::bytea[],
                $7::bytea[], $8::uuid[], $9::text[], $10::numeric[], $11::bytea[])
         AS w (stream_id, position, type, schema_version, payload, prev_hash, hash, event_id,
               seller_id, cumulative_amount, projection)
   CROSS JOIN LATERAL (
         SELECT FROM streams s
          WHERE s.stream_id = w.stream_id AND s.position = w.position - 1
            AND s.head_hash = w.prev_hash
            FOR UPDATE) AS head
), moved AS (
  UPDATE streams s SET position = h.position, head_hash = h.hash, projection = h.projection
    FROM held h WHERE s.stream_id = h.stream_id
)
INSERT INTO events (stream_id, position, type, schema_version, payload, prev_hash, hash, event_id,
                    seller_id, cumulative_amount)
SELECT stream_id, position, type, schema_version, payload, prev_hash, hash, event_id, seller_id,
       cumulative_amount FROM held
RETURNING stream_id
"""
_LOCK_HEADS: Final = """
SELECT stream_id, position, head_hash FROM streams WHERE stream_id = ANY($1::text[])
 ORDER BY stream_id FOR UPDATE
"""
_NEW_STREAMS: Final = """
INSERT INTO streams (stream_id, kind, seller_id, position, head_hash, projection)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[], $6::bytea[])
ON CONFLICT DO NOTHING RETURNING stream_id
"""
_CLAIMS: Final = """
INSERT INTO claims (scope, key, request_hash, response)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[])
ON CONFLICT DO NOTHING RETURNING scope, key
"""
_EVENTS: Final = """
INSERT INTO events (stream_id, position, type, schema_version, payload, prev_hash, hash, event_id,
                    seller_id, cumulative_amount)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::int[], $5::bytea[], $6::bytea[],
                     $7::bytea[], $8::uuid[], $9::text[], $10::numeric[])
"""
_HEADS: Final = """
UPDATE streams SET position = new.position, head_hash = new.head_hash, projection = new.projection
  FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[])
       AS new (stream_id, position, head_hash, projection)
 WHERE streams.stream_id = new.stream_id
"""
_WRITTEN: Final = (
    "SELECT count(*) FROM events WHERE event_id = ANY($1::uuid[]) AND stream_id = ANY($2::text[])"
)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Which appends were refused. `must_redo`: rows of refused ones were written, roll back."""

    refused: "dict[Pending, LedgerError]"
    must_redo: bool = False


def is_plain(pending: "Pending") -> bool:
    """Whether `write_plain` can write it: one event on a stream that exists, nothing beside it."""
    streams = pending.append.streams
    return (
        len(streams) == 1
        and len(streams[0].rows) == 1
        and streams[0].expected > 0
        and not streams[0].lookups
        and not pending.append.claims
    )


async def write_plain(
    connection: Connection, batch: "Sequence[Pending]"
) -> "tuple[list[Pending], list[Pending]]":
    """Write plain appends, committed on return; gives those written and those left out."""
    ordered = sorted(batch, key=lambda pending: pending.append.streams[0].stream_id)
    projections = [pending.append.streams[0].projection for pending in ordered]
    rows = await connection.fetch(_PLAIN, *_event_columns(ordered), projections)
    held = {row["stream_id"] for row in rows}
    written = [pending for pending in batch if not pending.streams.isdisjoint(held)]
    return written, [pending for pending in batch if pending.streams.isdisjoint(held)]


async def write(connection: Connection, batch: "Sequence[Pending]", *, in_doubt: bool) -> Verdicts:
    """Write the appends that stand at their expected positions; say why for the others.

    The order of the locks (heads by name, then new streams by name, then claims) is the same in
    every process, so that two batches can wait for each other but never in a circle.
    """
    names = sorted({name for pending in batch for name in pending.streams})
    heads = {
        row["stream_id"]: (row["position"], row["head_hash"])
        for row in await connection.fetch(_LOCK_HEADS, names)
    }
    refused: dict[Pending, LedgerError] = {}
    accepted: list[Pending] = []
    for pending in batch:
        error = _judge(pending, heads)
        if error is None:
            accepted.append(pending)
        elif not (in_doubt and await _was_written(connection, pending)):
            refused[pending] = error
    if not await _insert_new_streams(connection, accepted):
        # They were opened since the heads were read: by another process, or by our own COMMIT whose
        # answer was lost. The heads are there now, so the next pass tells which.
        return Verdicts(refused, must_redo=True)
    if taken := await _claim(connection, accepted):
        return Verdicts(refused | taken, must_redo=True)
    await _insert_events(connection, accepted)
    await _update_heads(connection, accepted)
    await _write_lookups(connection, accepted)
    return Verdicts(refused)


def refusal(error: asyncpg.PostgresError) -> LedgerError:
    """What a statement's error means for the append that caused it."""
    match error:
        case asyncpg.UniqueViolationError(constraint_name="sellers_recipient"):
            return RecipientInUse("another seller has this recipient on this network")
        case asyncpg.UniqueViolationError(constraint_name="events_pkey" | "streams_pkey"):
            return WrongPosition("another writer was first")
        case asyncpg.DataError():
            return InvalidRequest(f"the log cannot store a value of this request: {error}")
        case asyncpg.IntegrityConstraintViolationError():
            return Corrupt(f"the database refused the append: {error}")
        case _:
            return DatabaseUnavailable(f"the database refused the append: {type(error).__name__}")


def _judge(pending: "Pending", heads: Mapping[str, tuple[int, bytes]]) -> LedgerError | None:
    for stream in pending.append.streams:
        position, head_hash = heads.get(stream.stream_id, (0, None))
        if position != stream.expected:
            return WrongPosition(f"{stream.stream_id} stands at {position}")
        if head_hash is not None and head_hash != stream.rows[0].prev_hash:
            return Corrupt(f"{stream.stream_id}: the head's hash is not the one decided upon")
    return None


async def _was_written(connection: Connection, pending: "Pending") -> bool:
    count = await connection.fetchval(_WRITTEN, pending.event_ids, list(pending.streams))
    return bool(pending.event_ids) and count == len(pending.event_ids)


def _streams(accepted: "Sequence[Pending]", *, new: bool) -> list[StreamAppend]:
    found = [s for pending in accepted for s in pending.append.streams if (s.expected == 0) is new]
    return sorted(found, key=lambda stream: stream.stream_id)


async def _insert_new_streams(connection: Connection, accepted: "Sequence[Pending]") -> bool:
    """Whether all streams that must not exist yet did not; waits for whoever is opening one."""
    new = _streams(accepted, new=True)
    if not new:
        return True
    rows = await connection.fetch(
        _NEW_STREAMS,
        [s.stream_id for s in new],
        [s.kind for s in new],
        [s.seller_id for s in new],
        [s.rows[-1].position for s in new],
        [s.rows[-1].hash for s in new],
        [s.projection for s in new],
    )
    return len(rows) == len(new)


async def _claim(
    connection: Connection, accepted: "Sequence[Pending]"
) -> "dict[Pending, LedgerError]":
    wanted = sorted(
        ((c.scope, c.key, c, pending) for pending in accepted for c in pending.append.claims),
        key=lambda item: item[:2],
    )
    if not wanted:
        return {}
    rows = await connection.fetch(
        _CLAIMS,
        [scope for scope, *_ in wanted],
        [key for _, key, *_ in wanted],
        [claim.request_hash for *_, claim, _ in wanted],
        [claim.response for *_, claim, _ in wanted],
    )
    made = {(row["scope"], row["key"]) for row in rows}
    return {p: ClaimTaken(scope, key) for scope, key, _, p in wanted if (scope, key) not in made}


async def _insert_events(connection: Connection, accepted: "Sequence[Pending]") -> None:
    columns = _event_columns(accepted)
    if columns[0]:
        await connection.execute(_EVENTS, *columns)


def _event_columns(appends: "Sequence[Pending]") -> tuple[list[object], ...]:
    """The rows of `events`, column by column; the ids are in the order of the rows."""
    ids = iter([event_id for pending in appends for event_id in pending.event_ids])
    rows = [
        (
            row.stream_id,
            row.position,
            row.type,
            row.schema_version,
            row.payload,
            row.prev_hash,
            row.hash,
            next(ids),
            stream.seller_id,
            None if amount is None else Decimal(amount),
        )
        for pending in appends
        for stream in pending.append.streams
        for row, amount in zip(stream.rows, stream.amounts, strict=True)
    ]
    columns = tuple(list(column) for column in zip(*rows, strict=True))
    return columns or ([],)


async def _update_heads(connection: Connection, accepted: "Sequence[Pending]") -> None:
    old = _streams(accepted, new=False)
    if not old:
        return
    await connection.execute(
        _HEADS,
        [s.stream_id for s in old],
        [s.rows[-1].position for s in old],
        [s.rows[-1].hash for s in old],
        [s.projection for s in old],
    )


async def _write_lookups(connection: Connection, accepted: "Sequence[Pending]") -> None:
    """The rows of the side tables, those of one table and form together."""
    grouped: dict[str, list[tuple[object, ...]]] = {}
    for pending in accepted:
        for stream in pending.append.streams:
            for table, values in stream.lookups:
                statement = _upsert(table, tuple(values))
                grouped.setdefault(statement, []).append(tuple(values.values()))
    for statement, rows in grouped.items():
        await connection.executemany(statement, rows)


@cache
def _upsert(table_name: str, columns: tuple[str, ...]) -> str:
    table = LOOKUPS[table_name]
    keys = [column.name for column in table.primary_key.columns]
    values = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    update = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in keys)
    return (
        f"INSERT INTO {table_name} ({', '.join(columns)}) VALUES ({values}) "  # noqa: S608  our own names
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {update}"
    )
