"""One-shot payments beside the log: caps that races keep, counts that last, and the replay."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from typing import Any

import asyncpg
import pytest
from charge_rig import AMOUNT, DESTINATION, PAYER, RECIPIENT, keypair
from fakes import FakeClock
from payment_rig import TERMS, Sponsor, bought, claim_of, name_of, payment_of, prepare, stream_of
from settlement_rig import FakeWorld

from service.adapters.postgres.connections import driver_address, reader_engine
from service.adapters.postgres.payments import PostgresPaymentStore, PostgresTallies
from service.adapters.postgres.replay_store import PostgresReplayStore
from service.application import sponsor_payment
from service.application.replay import Replay, Report, Scope
from service.application.sponsor_payment import SponsorTerms
from service.domain.errors import (
    ChainUnavailable,
    SellerNotRegistered,
    SponsorshipRefused,
    Unavailable,
)
from service.domain.onchain import Simulation
from service.domain.units import UnixMillis
from service.ports import PaymentCounts, SignerUnavailable
from tests.integration.log_fixtures import Log, opened

DAY = 86_400_000
NOON = 1_700_000_000_000 // DAY * DAY + DAY // 2
_numbers = count(1)


@pytest.fixture(name="log")
async def log_fixture(ledger_url: str) -> AsyncIterator[Log]:
    async with opened(ledger_url) as log:
        yield log


@pytest.fixture(name="world")
async def world_fixture() -> FakeWorld:
    world = FakeWorld()
    await prepare(world, held=100 * AMOUNT)
    return world


def sponsor_of(log: Log, world: FakeWorld, *, now: int = NOON, **changes: object) -> Sponsor:
    """A process of its own, at a time of day."""
    terms: SponsorTerms = replace(TERMS, **changes)  # type: ignore[arg-type]
    return Sponsor(log, world.chain, FakeClock(now), terms=terms)


async def fresh(world: FakeWorld) -> bytes:
    return await bought(world, str(next(_numbers)))


async def outcome(sponsor: Sponsor, raw: bytes) -> str:
    """The status of a payment that was taken on, or the code of its refusal."""
    try:
        return (await sponsor.submit(raw)).settlement.status
    except SponsorshipRefused as refused:
        return refused.reason


CAPS = [
    ({"per_day": 3}, "global_settle_cap_exceeded"),
    ({"per_seller_per_day": 3}, "seller_settle_cap_exceeded"),
    ({"per_day": 9, "per_seller_per_day": 3}, "seller_settle_cap_exceeded"),
]


@pytest.mark.parametrize(("caps", "code"), CAPS)
async def test_a_cap_holds_among_processes_that_race(
    log: Log, world: FakeWorld, caps: dict[str, int], code: str
) -> None:
    sponsors = [sponsor_of(log, world, **caps) for _ in range(4)]
    raws = [await fresh(world) for _ in range(12)]
    outcomes = await asyncio.gather(*(outcome(sponsors[n % 4], raw) for n, raw in enumerate(raws)))
    taken = [raw for raw, was in zip(raws, outcomes, strict=True) if was != code]
    assert sorted(outcomes) == sorted([code] * 9 + ["signed"] * 3)
    assert [await payment_of(log, raw) is not None for raw in raws] == [r in taken for r in raws]


async def test_a_cap_counts_a_day_and_a_known_payment_never_again(
    log: Log, world: FakeWorld
) -> None:
    today, tomorrow = (sponsor_of(log, world, now=NOON + n * DAY, per_day=1) for n in (0, 1))
    first, second, third = [await fresh(world) for _ in range(3)]
    assert await outcome(today, first) == "signed"
    assert await outcome(today, second) == "global_settle_cap_exceeded"
    assert await outcome(today, first) == "in_flight"
    assert await outcome(tomorrow, second) == "signed"
    assert await outcome(tomorrow, third) == "global_settle_cap_exceeded"


async def test_a_cap_counts_payments_of_a_time_without_one(log: Log, world: FakeWorld) -> None:
    free, capped = sponsor_of(log, world), sponsor_of(log, world, per_day=2)
    for _ in range(2):
        assert await outcome(free, await fresh(world)) == "signed"
    assert await outcome(capped, await fresh(world)) == "global_settle_cap_exceeded"


async def test_a_sellers_cap_is_not_used_up_by_another(log: Log, world: FakeWorld) -> None:
    sponsor = sponsor_of(log, world, per_seller_per_day=1)
    other = str(keypair("other seller").pubkey())
    await world.set_tokens(other, amount=0)
    assert await outcome(sponsor, await fresh(world)) == "signed"
    to_other = await bought(world, "to another", other)
    assert (await sponsor.submit(to_other, claim_of(other))).settlement.status == "signed"
    assert await outcome(sponsor, await fresh(world)) == "seller_settle_cap_exceeded"


async def test_a_payment_that_is_submitted_twice_at_once_takes_one_number(
    log: Log, world: FakeWorld
) -> None:
    sponsors = [sponsor_of(log, world, per_day=2) for _ in range(4)]
    twice, other, last = [await fresh(world) for _ in range(3)]
    await asyncio.gather(*(outcome(sponsor, twice) for sponsor in sponsors))
    assert await payment_of(log, twice) is not None
    assert await outcome(sponsors[0], other) == "signed"
    assert await outcome(sponsors[0], last) == "global_settle_cap_exceeded"


async def test_a_refused_payment_takes_no_number(log: Log, world: FakeWorld) -> None:
    sponsor = sponsor_of(log, world, per_day=1)
    await world.set_tokens(PAYER, amount=0)
    assert await outcome(sponsor, await fresh(world)) == "insufficient_balance"
    await world.set_tokens(PAYER, amount=AMOUNT)
    assert await outcome(sponsor, await fresh(world)) == "signed"


async def test_only_sellers_are_paid_where_that_is_wanted(log: Log, world: FakeWorld) -> None:
    raw = await fresh(world)
    strict = sponsor_of(log, world, sellers_only=True)
    with pytest.raises(SellerNotRegistered):
        await strict.submit(raw)
    assert await payment_of(log, raw) is None
    strict.seller_id = "slr_1"
    assert (await strict.submit(raw)).seller_id == "slr_1"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "recipient_account_missing"),
        ({"owner": PAYER}, "recipient_mismatch"),
        ({"frozen": True}, "simulation_failed"),
    ],
)
async def test_an_account_that_would_not_serve_the_recipient_is_refused(
    log: Log, world: FakeWorld, changes: dict[str, object], code: str
) -> None:
    _, account = world.fake.written.pop(DESTINATION)
    if changes:
        world.fake.write(replace(account, **changes))  # type: ignore[arg-type]
    assert await outcome(sponsor_of(log, world), await fresh(world)) == code


async def test_a_chain_or_a_key_that_does_not_answer_leaves_no_payment(
    log: Log, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sponsor_payment, "SUBMIT_SECONDS", 0.05)

    class Failing:
        def __init__(self, port: Any, method: str, failure: Exception | None) -> None:
            self._port, self._method, self._failure = port, method, failure

        def __getattr__(self, name: str) -> Any:
            return self._fail if name == self._method else getattr(self._port, name)

        async def _fail(self, *_args: Any, **_options: Any) -> Any:
            if self._failure is not None:
                raise self._failure
            await asyncio.Event().wait()

    raw = await fresh(world)
    for method in ("simulate", "token_account", "latest_blockhash", "sign"):
        for failure in (ChainUnavailable("down"), SignerUnavailable("down"), None):
            sponsor = Sponsor(
                log,
                world.chain,
                FakeClock(),
                wrap=lambda port, m=method, f=failure: Failing(port, m, f),
            )
            with pytest.raises(Unavailable):
                await sponsor.submit(raw)
            assert await payment_of(log, raw) is None
    assert await outcome(sponsor_of(log, world), raw) == "signed"


async def test_what_the_chain_has_and_the_log_has_not_is_said(log: Log, world: FakeWorld) -> None:
    raw = await fresh(world)
    await sponsor_of(log, world).submit(raw)

    class Knowing:
        def __getattr__(self, name: str) -> Any:
            return getattr(world.chain, name)

        async def simulate(self, _transaction: bytes, *, complete: bool = True) -> Simulation:
            return Simulation("AlreadyProcessed" if not complete else None, (), 0)

    forgetful = Sponsor(log, Knowing(), FakeClock())  # type: ignore[arg-type]
    other = await fresh(world)
    assert await outcome(forgetful, other) == "already_processed"
    assert await outcome(forgetful, raw) == "in_flight"


async def test_many_who_prepare_at_once_share_one_reading(log: Log, world: FakeWorld) -> None:
    readings = 0
    latest = world.fake.latest_blockhash

    async def counted() -> object:
        nonlocal readings
        readings += 1
        await asyncio.sleep(0)
        return await latest()

    world.fake.latest_blockhash = counted  # type: ignore[method-assign, assignment]
    sponsor = sponsor_of(log, world)
    found = await asyncio.gather(*(sponsor.sponsor.blockhash() for _ in range(50)))
    assert (readings, len(set(found))) == (1, 1)
    world.fake.advance(1)
    sponsor.clock.forward_to(sponsor.clock.now() + 1_000)
    assert await sponsor.sponsor.blockhash() != found[0]


# --- what is counted ------------------------------------------------------------------------


async def test_payments_are_counted_as_the_log_has_them(log: Log, world: FakeWorld) -> None:
    store = PostgresPaymentStore(log.store)
    yesterday = sponsor_of(log, world, now=NOON - DAY)
    today = sponsor_of(log, world)
    old, new, lost = [await fresh(world) for _ in range(3)]
    for sponsor, raw in ((yesterday, old), (today, new)):
        await sponsor.submit(raw)
        await sponsor.work(world, stream_of(raw))
    await today.submit(lost)
    midnight = UnixMillis(NOON - DAY // 2)
    assert await store.counts(midnight) == PaymentCounts(total=3, recent=2, settled=2, failed=0)
    assert await store.submitted(midnight, None) == 2
    assert await store.submitted(midnight, RECIPIENT) == 2
    assert await store.submitted(midnight, PAYER) == 0
    settled = await store.last_settled(10)
    signatures = [(await payment_of(log, raw)).signature for raw in (new, old)]  # type: ignore[union-attr]
    assert [row.signature for row in settled] == signatures
    assert (settled[0].payer, settled[0].recipient, settled[0].amount) == (PAYER, RECIPIENT, AMOUNT)
    assert [row.signature for row in await store.last_settled(1)] == signatures[:1]


async def test_tallies_outlive_a_process_and_add_up_among_several(
    log: Log, ledger_url: str
) -> None:
    engine = reader_engine(ledger_url, pool_size=2)
    store, day = PostgresPaymentStore(log.store), NOON // DAY
    assert await store.tally("prepare", day) == (0, 0)
    for moment in (NOON, NOON - DAY):
        both = [PostgresTallies(engine) for _ in range(2)]
        for tallies in both:
            await tallies.start()
            for _ in range(10):
                tallies.add("prepare", UnixMillis(moment))
            tallies.add("other", UnixMillis(moment))
        await asyncio.gather(*(tallies.stop() for tallies in both))
    assert await store.tally("prepare", day) == (40, 20)
    assert await store.tally("other", day) == (4, 2)
    await engine.dispose()


async def test_tallies_are_kept_while_the_database_does_not_answer(
    log: Log, ledger_url: str
) -> None:
    broken = reader_engine(ledger_url.replace("test_", "gone_", 1), pool_size=1)
    tallies = PostgresTallies(broken)
    tallies.add("prepare", UnixMillis(NOON))
    await tallies.flush()
    working = reader_engine(ledger_url, pool_size=1)
    tallies._engine = working
    await tallies.flush()
    assert await PostgresPaymentStore(log.store).tally("prepare", NOON // DAY) == (1, 1)
    await broken.dispose()
    await working.dispose()


# --- the log ----------------------------------------------------------------------------------


async def replayed(log: Log, url: str, **scope: object) -> Report:
    engine = reader_engine(url, pool_size=3)
    try:
        return await Replay(PostgresReplayStore(engine), log.store).run(Scope(**scope))  # type: ignore[arg-type]
    finally:
        await engine.dispose()


async def test_payments_replay_to_what_is_stored_and_are_remade_from_the_log(
    log: Log, world: FakeWorld, ledger_url: str
) -> None:
    sponsor = sponsor_of(log, world)
    of_seller, of_nobody = [await fresh(world) for _ in range(2)]
    await sponsor.submit(of_nobody)
    sponsor.seller_id = "slr_1"
    await sponsor.submit(of_seller)
    await sponsor.work(world, stream_of(of_seller))
    report = await replayed(log, ledger_url)
    assert (report.streams, report.differences) == (2, [])

    owners = "SELECT DISTINCT stream_id, seller_id FROM events"
    root = await asyncpg.connect(driver_address(ledger_url))
    assert {tuple(row) for row in await root.fetch(owners)} == {
        (stream_of(of_seller), "slr_1"),
        (stream_of(of_nobody), ""),
    }
    tables = ("payments", "settlements", "attempts", "streams")
    before = [await root.fetch(f"SELECT * FROM {t} ORDER BY stream_id") for t in tables]  # noqa: S608
    await root.execute("UPDATE payments SET status = 'settled', seller_id = 'slr_2'")
    await root.execute("UPDATE streams SET seller_id = 'slr_2'")
    await root.execute("DELETE FROM settlements")
    assert (await replayed(log, ledger_url)).count == 6
    assert (await replayed(log, ledger_url, rebuild=True)).remaining == 0
    after = [await root.fetch(f"SELECT * FROM {t} ORDER BY stream_id") for t in tables]  # noqa: S608
    assert after == before
    await root.close()
    shown = await log.queries.settlement(name_of(of_seller))
    assert shown is not None
    assert (shown.stream_id, shown.seller_id, shown.status) == (
        stream_of(of_seller),
        "slr_1",
        "settled",
    )
