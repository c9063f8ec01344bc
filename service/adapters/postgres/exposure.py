"""What is not settled, summed by buyer or seller out of the projections."""

import json
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.watching import OWED, PARSED, UNSETTLED_STATES
from service.domain.session import Funding
from service.domain.units import AtomicUsdc, UnixMillis
from service.ports import ExposureBy, ExposureRow, SourceName, Unsettled

_COLUMN: Final[dict[ExposureBy, str]] = {"buyer": "payer", "seller": "seller_id"}
_FUNDINGS: Final[tuple[Funding, ...]] = ("verified", "unverified", "insufficient", "revoked")
"""From the best to the worst."""
_SUMS: Final = f"""
       count(*) FILTER (WHERE s.state = 'open') AS open_sessions,
       count(*) FILTER (WHERE s.state = 'closing') AS closing_sessions,
       coalesce(sum({OWED}), 0)::numeric(40, 0) AS unsettled,
       coalesce(sum((p #>> '{{terms,deposit}}')::numeric), 0)::numeric(40, 0) AS deposits,
       min(s.opened_at) AS oldest_at
"""
_WORST: Final = (
    "max(array_position(ARRAY['"
    + "', '".join(_FUNDINGS)
    + "'], p ->> 'funding')) FILTER (WHERE s.state = 'open')"
)
_SOURCE: Final = """
jsonb_build_array(s.payer, p #> '{terms,mint}', p #> '{terms,swigAddress}',
                  p #> '{terms,swigRoleId}', p -> 'sourceTokenAccount')::text
"""
_REVOKED: Final = sa.text(f"""
SELECT count(*) AS sessions FROM sessions s {PARSED}
 WHERE s.state = 'open' AND p ->> 'funding' = 'revoked'
""")  # noqa: S608  our own constants


class PostgresExposureStore:
    """See `ExposureStore`; one for one process."""

    def __init__(self, store: PostgresEventStore) -> None:
        self._fetch = store.fetch

    async def exposures(
        self, by: ExposureBy, *, seller_id: str | None, limit: int, after: str | None, sources: int
    ) -> list[ExposureRow]:
        """See `ExposureStore`."""
        statement = _page(by, of_one=seller_id is not None, first=after is None)
        values = {"seller": seller_id, "after": after, "limit": limit, "sources": sources}
        used = {name: values[name] for name in statement.compile().params}
        return [_row(row, sources) for row in await self._fetch(statement, used)]

    async def total(self, *, seller_id: str | None) -> Unsettled:
        """See `ExposureStore`."""
        values = {} if seller_id is None else {"seller": seller_id}
        return _sums((await self._fetch(_total(of_one=seller_id is not None), values))[0])

    async def revoked_sessions(self) -> int:
        """See `ExposureStore`."""
        return int((await self._fetch(_REVOKED))[0].sessions)


@cache
def _page(by: ExposureBy, *, of_one: bool, first: bool) -> sa.TextClause:
    """The names of the page from an index alone, then the sessions of these names."""
    column = _COLUMN[by]
    unsettled = f"state IN {UNSETTLED_STATES}" + (" AND seller_id = :seller" if of_one else "")
    behind = "" if first else f" AND {column} > :after"
    return sa.text(f"""
WITH page AS MATERIALIZED (
  SELECT {column} AS name FROM sessions WHERE {unsettled}{behind}
   GROUP BY {column} ORDER BY {column} LIMIT :limit
), held AS (
  SELECT page.name, sessions.* FROM page JOIN sessions ON sessions.{column} = page.name
   WHERE {unsettled})
SELECT s.name, {_SUMS}, {_WORST} AS worst,
       (array_agg(DISTINCT {_SOURCE}))[1:(CAST(:sources AS int) + 1)] AS sources
  FROM held s {PARSED}
 GROUP BY s.name ORDER BY s.name
""")  # noqa: S608  our own constants


@cache
def _total(*, of_one: bool) -> sa.TextClause:
    seller = " AND s.seller_id = :seller" if of_one else ""
    return sa.text(f"""
SELECT {_SUMS} FROM sessions s {PARSED} WHERE s.state IN {UNSETTLED_STATES}{seller}
""")  # noqa: S608  our own constants


def _row(row: sa.Row[Any], sources: int) -> ExposureRow:
    names = [SourceName(*json.loads(text)) for text in row.sources]
    worst: int | None = row.worst
    return ExposureRow(
        name=row.name,
        held=_sums(row),
        funding=None if worst is None else _FUNDINGS[worst - 1],
        sources=tuple(names[:sources]),
        more_sources=len(names) > sources,
    )


def _sums(row: sa.Row[Any]) -> Unsettled:
    return Unsettled(
        open_sessions=row.open_sessions,
        closing_sessions=row.closing_sessions,
        unsettled=AtomicUsdc(int(row.unsettled)),
        deposits=AtomicUsdc(int(row.deposits)),
        oldest_at=None if row.oldest_at is None else UnixMillis(row.oldest_at),
    )
