"""Several streams decided about together: one append, on states that are proven or just read."""

from collections.abc import Sequence
from typing import Any

import pytest
from log_fixtures import opened, terms, voucher_event

from service.application.commit import Change, Joint
from service.application.streams import session_stream
from service.domain.errors import ClaimTaken
from service.domain.events import Event
from service.domain.session import open_session, remove_session
from service.domain.units import UnixMillis
from service.ports import Claim

ONE = session_stream("slr_1", "one")
TWO = session_stream("slr_1", "two")
NOW = UnixMillis(1_000)


async def open_both(log: Any) -> None:
    for stream, name in ((ONE, "one"), (TWO, "two")):
        await log.ledger.commit(stream, lambda s, name=name: open_session(s, terms(name), NOW))


async def test_a_stream_that_gets_no_event_was_read_just_now(ledger_url: str) -> None:
    async with opened(ledger_url) as here, opened(ledger_url) as there:
        await open_both(here)
        await there.ledger.commit(TWO, lambda session: remove_session(session, by="x", now=NOW))
        seen: list[str] = []

        def decide(states: Sequence[Any]) -> list[Sequence[Event]]:
            seen.append(states[1].state)
            return [[voucher_event(10)], []]

        outcomes = await here.ledger.commit_together([], joint=Joint([ONE, TWO], decide))
        assert seen == ["open", "removed"]
        assert [outcome.position for outcome in outcomes] == [2, 2]
        assert outcomes[1].state.state == "removed"


async def test_a_stream_that_moved_meanwhile_makes_the_whole_decision_again(
    ledger_url: str,
) -> None:
    async with opened(ledger_url) as here, opened(ledger_url) as there:
        await open_both(here)
        await there.ledger.commit(TWO, lambda _: [voucher_event(10)])
        seen: list[tuple[int, int]] = []

        def decide(states: Sequence[Any]) -> list[Sequence[Event]]:
            seen.append((states[0].cumulative_amount, states[1].cumulative_amount))
            return [[voucher_event(s.cumulative_amount + 10, 2)] for s in states]

        await here.ledger.commit_together([], joint=Joint([ONE, TWO], decide))
        assert seen == [(0, 0), (0, 10)]
        for stream, total in ((ONE, 10), (TWO, 20)):
            held = await there.ledger.read(stream)
            assert held is not None
            assert held.state is not None
            assert held.state.cumulative_amount == total


async def test_what_is_decided_together_and_beside_it_is_written_whole_or_not_at_all(
    ledger_url: str,
) -> None:
    async with opened(ledger_url) as log:
        await open_both(log)
        claim = Claim("scope", "key", b"hash")
        three = session_stream("slr_1", "three")
        change = Change(three, lambda s: open_session(s, terms("three"), NOW))
        joint = Joint([ONE, TWO], lambda _: [[voucher_event(10)], [voucher_event(10)]])

        async def claims(_: Sequence[Any]) -> list[Claim]:
            return [claim]

        outcomes = await log.ledger.commit_together([change], claims, joint)
        assert [len(outcome.rows) for outcome in outcomes] == [1, 1, 1]
        more = Joint([ONE, TWO], lambda _: [[voucher_event(20, 2)], [voucher_event(20, 2)]])
        with pytest.raises(ClaimTaken):
            await log.ledger.commit_together([], claims, more)
        for stream in (ONE, TWO):
            held = await log.ledger.read(stream)
            assert held is not None
            assert held.position == 2
