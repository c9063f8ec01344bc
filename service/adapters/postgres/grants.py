"""The side table of session grants: an owner's listing."""

import re
from typing import Final

import sqlalchemy as sa

from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.tables import grants, streams
from service.domain.errors import InvalidRequest
from service.ports import GrantRow

_CURSOR: Final = re.compile(r"([0-9]{1,18})\.([A-Za-z0-9_-]{43})\Z", re.ASCII)


class PostgresGrantStore:
    """See `GrantStore`; one for one process."""

    def __init__(self, store: PostgresEventStore) -> None:
        self._fetch = store.fetch

    async def grants(self, owner: str, *, limit: int, after: str | None) -> list[GrantRow]:
        """See `GrantStore`."""
        order = grants.c.registered_at, grants.c.grant_id
        query = (
            sa.select(*order, streams.c.projection)
            .join(streams, streams.c.stream_id == grants.c.stream_id)
            .where(grants.c.owner == owner)
            .order_by(*(column.desc() for column in order))
            .limit(limit)
        )
        if after is not None:
            found = _CURSOR.match(after)
            if found is None:
                raise InvalidRequest("cursor must be one that an earlier page gave")
            behind = sa.literal(int(found[1])), sa.literal(found[2])
            query = query.where(sa.tuple_(*order) < sa.tuple_(*behind))
        return [
            GrantRow(bytes(row.projection), f"{row.registered_at}.{row.grant_id}")
            for row in await self._fetch(query)
        ]
