"""A log, and vouchers of a channel that are appended to it.

Test modules import `log_fixture` to have the fixture.
"""

from collections.abc import AsyncIterator

import pytest

from service.application.commit import Outcome
from service.application.streams import session_stream
from service.domain import events as e
from service.domain.session import Session
from tests.integration.log_fixtures import Log, opened, opening, voucher_event


@pytest.fixture(name="log")
async def log_fixture(ledger_url: str) -> AsyncIterator[Log]:
    async with opened(ledger_url) as log:
        yield log


async def accept(log: Log, channel_id: str, amount: int) -> Outcome[Session]:
    """Open the channel if it is new and accept a voucher that the state decides about."""

    def decide(session: Session | None) -> list[e.SessionEvent]:
        start = opening(channel_id) if session is None else []
        if session is not None and amount <= session.cumulative_amount:
            return []
        sequence = 1 if session is None else session.voucher_count + 1
        return [*start, voucher_event(amount, sequence)]

    return await log.ledger.commit(session_stream("slr_1", channel_id), decide)
