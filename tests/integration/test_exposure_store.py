"""Sums over what is not settled, and what the chain would pay for it, out of a real log."""

from collections.abc import Sequence
from typing import Any

import pytest
from fakes import TOKEN_PROGRAM
from settlement_rig import AUTHORITY

from service.adapters.solana.funding_delegate import DelegateFunding
from service.adapters.solana.rpc import SolanaRpc
from service.application import exposure
from service.application.close_session import close_session
from service.application.exposure import Exposure, ExposurePage, exposure_page
from service.domain import events as e
from service.domain.funding import FundingReading, SourceRef
from service.domain.units import AtomicUsdc, Slot
from service.local.chain import LOCALNET_GENESIS_HASH
from tests.integration.watch_rig import HOW, WatchRig, amount_policy, rig_fixture, wallet

__all__ = ["rig_fixture"]


async def page_of(rig: WatchRig, **wanted: Any) -> ExposurePage:
    chain = wanted.pop("chain", rig.world.chain)
    return await exposure_page(
        rig.exposures,
        {"delegate": DelegateFunding(chain, AUTHORITY, TOKEN_PROGRAM)},
        HOW,
        **{"by": "buyer", "seller_id": None, "limit": 50, "after": None, **wanted},
    )


async def rows_of(rig: WatchRig, **wanted: Any) -> dict[str, Exposure]:
    return {row.row.name: row for row in (await page_of(rig, **wanted)).rows}


async def signed(rig: WatchRig, channel: str, amount: int) -> None:
    """A channel of a seller who does not use this ledger, with a voucher that we signed."""
    stream = await rig.open(
        channel, "signer", seller="wallet_x", settles="signed", deposit=AtomicUsdc(90)
    )
    event = e.VoucherSigned(rig.clock.now(), AtomicUsdc(amount), 1, "{}", bytes(64), bytes(32))
    await rig.log.ledger.record(stream.stream_id, lambda _: [event])


async def test_the_sums_of_each_buyer_and_seller_are_those_of_their_sessions(
    rig: WatchRig,
) -> None:
    await rig.grant("rich", 1_000)
    first = await rig.open("a", "rich", deposit=AtomicUsdc(70))
    rig.clock.time += 5_000
    second = await rig.open("b", "rich", seller="slr_2", deposit=AtomicUsdc(50))
    other = await rig.open("c", "poor")
    for stream, amount in ((first, 30), (second, 20), (other, 7)):
        assert await rig.pay(stream, amount) == "accepted"
    await signed(rig, "d", 60)
    await close_session(rig.log.ledger, first, HOW, source=None, by="slr_1", now=rig.clock.now())
    page = await page_of(rig)
    buyers = {row.row.name: row for row in page.rows}
    assert set(buyers) == {wallet(name) for name in ("rich", "poor", "signer")}
    rich, poor = buyers[wallet("rich")], buyers[wallet("poor")]
    held = rich.row.held
    assert (held.open_sessions, held.closing_sessions) == (1, 1)
    assert (held.unsettled, held.deposits) == (50, 120)
    assert held.oldest_at == rig.clock.now() - 5_000
    assert (rich.available, rich.headroom) == (1_000, 950)
    assert rich.slot is not None
    assert (poor.row.held.unsettled, poor.available, poor.headroom) == (7, 0, -7)
    assert buyers[wallet("signer")].row.held.unsettled == 60
    assert page.total is not None
    assert (page.total.open_sessions, page.total.closing_sessions) == (3, 1)
    assert (page.total.unsettled, page.total.deposits) == (117, 210)
    sellers = await rows_of(rig, by="seller")
    assert {name: row.row.held.unsettled for name, row in sellers.items()} == {
        "slr_1": 37, "slr_2": 20, "wallet_x": 60,
    }  # fmt: skip
    assert sellers["slr_1"].available == 1_000
    assert poor.row.funding == "unverified"
    await close_session(rig.log.ledger, other, HOW, source=None, by="slr_1", now=rig.clock.now())
    assert (await rows_of(rig))[wallet("poor")].row.funding is None


async def test_a_seller_sees_its_own_sessions_only(rig: WatchRig) -> None:
    for channel, seller in (("a", "slr_1"), ("b", "slr_2")):
        assert await rig.pay(await rig.open(channel, seller=seller), 10) == "accepted"
    for by, name in (("buyer", wallet("buyer")), ("seller", "slr_2")):
        page = await page_of(rig, by=by, seller_id="slr_2")
        assert [(row.row.name, row.row.held.unsettled) for row in page.rows] == [(name, 10)]
        assert page.total is not None
        assert page.total.unsettled == 10


async def test_pages_follow_upon_each_other_and_only_the_first_has_totals(rig: WatchRig) -> None:
    buyers = sorted(f"buyer {number}" for number in range(5))
    for number, buyer in enumerate(buyers):
        await rig.open(f"c{number}", payer=buyer)
    seen: list[str] = []
    after: str | None = None
    for turn in range(3):
        page = await page_of(rig, limit=2, after=after)
        assert (page.total is not None) == (turn == 0)
        seen += [row.row.name for row in page.rows]
        after = page.next_name
    assert (sorted(seen), after) == (buyers, None)


async def test_the_worst_funding_of_the_open_sessions_is_shown(rig: WatchRig) -> None:
    await rig.grant(amount=30)
    await rig.open("a", deposit=AtomicUsdc(30))
    await rig.watch().look()
    assert (await rows_of(rig))[wallet("buyer")].row.funding == "verified"
    small = await rig.open("b", deposit=AtomicUsdc(31), source_token_account=None)
    assert (await rows_of(rig))[wallet("buyer")].row.funding == "unverified"
    await rig.revoke()
    await rig.due()
    await rig.watch().look()
    assert (await rows_of(rig))[wallet("buyer")].row.funding == "revoked"
    assert await rig.exposures.revoked_sessions() == 1
    assert (await rig.session(small)).funding == "unverified"
    await rig.due()
    await rig.watch(amount_policy(age_seconds=1)).look()
    rig.clock.time += 1_000
    await rig.due()
    await rig.watch(amount_policy(age_seconds=1)).look()
    assert await rows_of(rig) == {}
    assert await rig.exposures.revoked_sessions() == 0


async def test_what_a_client_wrote_cannot_break_the_sums(rig: WatchRig) -> None:
    """JSON in the database knows no U+0000, which a string of a request may hold."""
    for number, text in enumerate(("a\x00b", "a\\u0000q", "\\\x00", '"\\', "\ud7ff\U0010ffff")):
        stream = await rig.open(f"c{number}", grant_id=text)
        assert await rig.pay(stream, 10) == "accepted"
    assert (await rows_of(rig))[wallet("buyer")].row.held.unsettled == 50
    assert await rig.exposures.revoked_sessions() == 0


async def test_a_chain_that_does_not_answer_leaves_the_sums(rig: WatchRig) -> None:
    await rig.grant()
    await rig.open("a")
    dead = SolanaRpc("http://127.0.0.1:9", LOCALNET_GENESIS_HASH)
    try:
        row = (await rows_of(rig, chain=dead))[wallet("buyer")]
    finally:
        await dead.close()
    assert (row.row.held.open_sessions, row.available, row.headroom, row.slot) == (
        1, None, None, None,
    )  # fmt: skip


async def test_a_buyer_who_owns_no_account_has_no_headroom(rig: WatchRig) -> None:
    await rig.open("a", payer="not an address")
    row = (await rows_of(rig))["not an address"]
    assert (row.available, row.headroom) == (None, None)


async def test_an_account_that_is_named_in_two_ways_is_counted_once(rig: WatchRig) -> None:
    await rig.grant(amount=100)
    known = await rig.open("a")
    await rig.watch().look()
    assert (await rig.session(known)).source_token_account is not None
    await rig.open("b")
    assert (await rows_of(rig))[wallet("buyer")].available == 100
    await rig.grant("other", 11)
    await rig.open("c", "other")
    seller = (await rows_of(rig, by="seller"))["slr_1"]
    assert seller.available == 111
    assert len(seller.row.sources) == 3


async def test_an_account_that_two_roles_reach_is_counted_once_by_the_larger(
    rig: WatchRig,
) -> None:
    class Wallets:
        async def readings(self, refs: Sequence[SourceRef]) -> list[FundingReading]:
            allowed = {1: 70, 2: 90}
            return [
                FundingReading(
                    AtomicUsdc(100), AtomicUsdc(allowed[ref.swig_role_id or 0]), slot, None
                )
                for ref, slot in zip(refs, (Slot(9), Slot(8)), strict=True)
            ]

    for role in (1, 2):
        await rig.open(f"c{role}", swig_address=wallet("swig"), swig_role_id=role)
    sources: Any = {"swig": Wallets()}
    page = await exposure_page(
        rig.exposures, sources, HOW, by="buyer", seller_id=None, limit=9, after=None
    )
    assert [(row.available, row.slot) for row in page.rows] == [(90, 8)]


async def test_a_page_reads_a_bounded_number_of_sources(
    rig: WatchRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposure, "EXPOSURE_SOURCES_MAX", 3)
    for number in range(4):
        await rig.open(f"c{number}", f"buyer {number}")
        await rig.open(f"d{number}", f"buyer {number % 2}", seller="slr_2")
    buyers = await rows_of(rig)
    assert sorted(row.available is None for row in buyers.values()) == [False, False, False, True]
    sellers = await rows_of(rig, by="seller")
    assert sellers["slr_1"].row.more_sources
    assert sellers["slr_1"].available is None
    assert sellers["slr_2"].available == 0


async def test_an_empty_log_owes_nothing(rig: WatchRig) -> None:
    page = await page_of(rig)
    assert page.rows == ()
    assert page.total is not None
    assert (page.total.unsettled, page.total.oldest_at) == (0, None)
