"""Opens that race for one buyer's money: the deposits never pass what the chain allows."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from buyer_rig import (
    DEPOSIT,
    PAYER,
    SELLER,
    TOKEN_ACCOUNT,
    Process,
    allow,
    keypair,
    processes,
)

from service.application.close_session import close_session, remove
from service.application.deposits import release_settled
from service.application.sellers import NewSeller, register_seller
from service.domain import events as e
from service.domain.errors import (
    ChainUnavailable,
    DepositExceeded,
    FundingSourceRefused,
    InvalidAmount,
    InvalidWallet,
    LedgerError,
    RecipientNotAllowed,
    SellerNotRegistered,
    SessionKeysNotConfigured,
    WalletNotOnboarded,
    WrongPosition,
)
from service.domain.funding import FundingReading
from service.domain.session import Session
from service.domain.units import AtomicUsdc, Slot, UnixMillis

RACERS = 32
_COUNT_SESSIONS = sa.text("SELECT count(*) FROM sessions")
_ANY: Any = 1


@pytest.fixture
async def pair(ledger_url: str) -> AsyncIterator[list[Process]]:
    async with processes(ledger_url, 2) as two:
        await two[0].onboard()
        yield two


@pytest.fixture
async def one(ledger_url: str) -> AsyncIterator[Process]:
    async with processes(ledger_url) as (process,):
        await process.onboard()
        yield process


async def outcomes(pair: list[Process], racers: int) -> list[Session | LedgerError]:
    """What became of opens that all begin at once, dealt out to the processes in turn."""
    found = await asyncio.gather(
        *(pair[number % len(pair)].open() for number in range(racers)), return_exceptions=True
    )
    for outcome in found:
        assert isinstance(outcome, Session | LedgerError), outcome
    return found  # type: ignore[return-value]  checked above


@pytest.mark.parametrize("count", [1, 2])
async def test_of_32_opens_against_an_allowance_for_one_exactly_one_succeeds(
    pair: list[Process], count: int
) -> None:
    found = await outcomes(pair[:count], RACERS)
    assert Counter(type(outcome) for outcome in found) == {Session: 1, DepositExceeded: RACERS - 1}
    (won,) = (outcome for outcome in found if isinstance(outcome, Session))
    held = await pair[0].reservations()
    assert [(r.stream_id, r.amount) for r in held.open] == [
        (pair[0].stream_of(won).stream_id, DEPOSIT)
    ]
    assert await pair[0].log.store.fetch(_COUNT_SESSIONS) == [(1,)]


async def test_as_many_opens_of_two_processes_succeed_as_the_allowance_covers(
    pair: list[Process],
) -> None:
    await allow(pair[0].world, 5 * DEPOSIT + 1)
    found = await outcomes(pair, 12)
    assert Counter(type(outcome) for outcome in found) == {Session: 5, DepositExceeded: 7}
    assert len((await pair[0].reservations()).open) == 5


async def test_a_refused_open_leaves_no_key_and_no_session_behind(one: Process) -> None:
    await one.open()
    with pytest.raises(DepositExceeded):
        await one.open()
    assert await one.keys.counts() == {one.secrets[0].key_id: 1}
    assert await one.log.store.fetch(_COUNT_SESSIONS) == [(1,)]


async def test_the_first_event_binds_buyer_source_seller_deposit_timeout_and_signer(
    one: Process,
) -> None:
    session = await one.open(idle_timeout_seconds=600)
    terms = session.terms
    assert (terms.payer, terms.recipient, terms.deposit) == (PAYER, SELLER, DEPOSIT)
    assert (terms.source_token_account, terms.idle_timeout_seconds) == (TOKEN_ACCOUNT, 600)
    assert terms.session_pubkey == session.session_pubkey
    assert (terms.opened_by, terms.settles) == ("buyer", "signed")
    assert session.funding == "verified"
    held = await one.log.ledger.read(one.stream_of(session))
    assert held is not None
    assert (held.state, held.position) == (session, 2)


async def test_the_money_of_an_ended_session_covers_the_next_one(one: Process) -> None:
    first = await one.open()
    await one.sign(first, DEPOSIT)
    stream = one.stream_of(first)
    await close_session(one.log.ledger, stream, one.how, source=None, by=PAYER, now=UnixMillis(2))
    with pytest.raises(DepositExceeded):  # nothing was paid yet: it is still promised
        await one.open()
    slot = (await one.funding.readings([one.how.source_of(first)]))[0].slot
    await _finalize(one, first, slot)
    await one.open()
    held = await one.reservations()
    assert len(held.open) == 1
    assert held.slot == slot


async def test_a_close_without_a_payment_makes_room_at_once(one: Process) -> None:
    first = await one.open()
    await close_session(
        one.log.ledger, one.stream_of(first), one.how, source=None, by=PAYER, now=UnixMillis(2)
    )
    await one.open()


async def test_a_session_that_its_seller_removed_makes_room(one: Process) -> None:
    first = await one.open()
    await remove(one.log.ledger, one.stream_of(first), by=SELLER, now=UnixMillis(2))
    await one.open()


async def test_a_closing_session_keeps_only_what_it_owes_back(one: Process) -> None:
    first = await one.open()
    await one.sign(first, 10)
    await close_session(
        one.log.ledger, one.stream_of(first), one.how, source=None, by=PAYER, now=UnixMillis(2)
    )
    with pytest.raises(DepositExceeded):
        await one.open(DEPOSIT - 9)
    await one.open(DEPOSIT - 10)


async def test_no_open_relies_on_a_reading_from_before_a_released_payment(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider lags behind the settlement: the money that it still shows is gone."""
    first = await one.open()
    await one.sign(first, DEPOSIT)
    await close_session(
        one.log.ledger, one.stream_of(first), one.how, source=None, by=PAYER, now=UnixMillis(2)
    )
    source = one.how.source_of(first)
    (stale,) = await one.funding.readings([source])
    await one.world.advance(2)
    await allow(one.world, DEPOSIT - 1, balance=DEPOSIT)
    await _finalize(one, first, Slot(stale.slot + 2))
    (fresh,) = await one.funding.readings([source])
    answers = iter([stale, stale, stale])

    async def lagging(_: object) -> list[FundingReading]:
        return [next(answers, fresh)]

    monkeypatch.setattr(one.funding, "readings", lagging)
    with pytest.raises(DepositExceeded, match=f"0 is reserved .* of {DEPOSIT - 1}"):
        await one.open()
    assert next(answers, None) is None


async def test_an_open_that_lost_many_races_goes_on_racing(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = iter([WrongPosition("another open was first")] * 6)
    append = one.log.ledger.commit_together

    async def racing(*given: Any) -> Any:
        if (error := next(lost, None)) is not None:
            raise error
        return await append(*given)

    monkeypatch.setattr(one.log.ledger, "commit_together", racing)
    assert (await one.open()).state == "open"
    assert next(lost, None) is None


async def test_the_watchers_release_happens_once_whoever_calls_it(pair: list[Process]) -> None:
    first = await pair[0].open()
    ledgers = [process.log.ledger for process in pair]
    assert await release_settled(ledgers[0], TOKEN_ACCOUNT, UnixMillis(2)) == 0
    await close_session(
        ledgers[0], pair[0].stream_of(first), pair[0].how, source=None, by="b", now=UnixMillis(2)
    )
    released = await asyncio.gather(
        *(release_settled(ledger, TOKEN_ACCOUNT, UnixMillis(3)) for ledger in ledgers * 2)
    )
    assert sum(released) == 1
    assert (await pair[0].reservations()).open == ()
    assert await release_settled(ledgers[1], "nobody's", UnixMillis(3)) == 0


# --- who may open what ----------------------------------------------------------------------


async def test_a_wallet_that_never_onboarded_opens_nothing_without_a_proof(
    ledger_url: str,
) -> None:
    async with processes(ledger_url) as (process,):
        with pytest.raises(WalletNotOnboarded):
            await process.open()
        await process.open(proved=True)


async def test_a_permission_that_has_ended_opens_nothing_even_with_a_proof(one: Process) -> None:
    now = one.clock.now() // 1_000
    await one.onboard(expires_at=now + 60)
    session = await one.open()
    assert session.terms.valid_until == now + 60
    one.clock.forward_to((now + 60) * 1_000)
    with pytest.raises(WalletNotOnboarded):
        await one.open(proved=True)


async def test_only_recipients_that_the_buyer_chose_are_paid(one: Process) -> None:
    other = str(keypair("another seller").pubkey())
    await one.onboard(recipients=(other,))
    for proved in (False, True):
        with pytest.raises(RecipientNotAllowed):
            await one.open(proved=proved)
    await one.open(recipient=other)


async def test_the_limit_of_the_onboarding_bounds_the_open_deposits(one: Process) -> None:
    await allow(one.world, 10 * DEPOSIT)
    await one.onboard(spend_limit=AtomicUsdc(2 * DEPOSIT))
    await one.open()
    await one.open()
    with pytest.raises(DepositExceeded):
        await one.open(1)


async def test_an_onboarding_is_for_its_own_funding_source(one: Process) -> None:
    await one.onboard(source="another account")
    with pytest.raises(WalletNotOnboarded):
        await one.open()
    await one.open(proved=True)


async def test_a_delegation_is_found_under_the_wallet_its_account_or_any_name(
    one: Process,
) -> None:
    await allow(one.world, 4 * DEPOSIT)
    for named in (PAYER, TOKEN_ACCOUNT, str(keypair("no such account").pubkey()), None):
        session = await one.open(named=named)
        assert session.terms.source_token_account == TOKEN_ACCOUNT
        assert session.terms.funding_kind == "delegate"


async def test_without_an_onboarding_only_the_payers_own_names_are_a_delegation(
    ledger_url: str,
) -> None:
    async with processes(ledger_url) as (process,):
        with pytest.raises(FundingSourceRefused) as refused:
            await process.open(named=str(keypair("no such account").pubkey()), proved=True)
        assert refused.value.reason == "swig_account_missing"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"delegate": None, "delegated_amount": 0}, "delegate_revoked"),
        ({"frozen": True}, "source_account_frozen"),
    ],
)
async def test_a_source_that_cannot_pay_is_refused_with_its_finding(
    one: Process, changes: dict[str, object], reason: str
) -> None:
    await one.world.set_tokens(PAYER, **changes)
    with pytest.raises(FundingSourceRefused) as refused:
        await one.open()
    assert refused.value.reason == reason


async def test_a_seller_who_is_registered_is_paid_what_it_presented(one: Process) -> None:
    prices = {"pricePerUnit": "10"}
    new = NewSeller("seller", SELLER, "localnet", prices, shared_recipient=True)
    oldest, _ = await register_seller(one.log.ledger, new, UnixMillis(1))
    await register_seller(one.log.ledger, new, UnixMillis(2))
    session = await one.open()
    assert (session.terms.seller_id, session.terms.settles) == (oldest.seller_id, "presented")


async def test_unregistered_sellers_can_be_refused(ledger_url: str) -> None:
    async with processes(ledger_url, serves_unregistered=False) as (process,):
        await process.onboard()
        with pytest.raises(SellerNotRegistered):
            await process.open()


async def test_a_chain_that_does_not_answer_opens_nothing(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: object) -> list[FundingReading]:
        raise ChainUnavailable("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(one.funding, "readings", silent)
        with pytest.raises(ChainUnavailable):
            await one.open()
    assert await one.log.store.fetch(_COUNT_SESSIONS) == [(0,)]
    await one.open()


async def test_nothing_is_opened_for_nothing_or_for_oneself(one: Process) -> None:
    with pytest.raises(InvalidAmount):
        await one.open(0)
    with pytest.raises(InvalidWallet):
        await one.open(recipient=PAYER)


async def test_without_a_secret_no_session_is_opened(ledger_url: str) -> None:
    async with processes(ledger_url, secrets=()) as (process,):
        await process.onboard()
        with pytest.raises(SessionKeysNotConfigured, match="SESSION_KEY_SECRETS"):
            await process.open()


async def _finalize(process: Process, session: Session, slot: Slot) -> None:
    """Let the session's settlement end with a payment at the slot, by events alone."""

    def end(held: object) -> list[e.SessionEvent]:
        assert isinstance(held, Session)
        assert held.settlement is not None
        name = held.settlement.settlement_id
        now = UnixMillis(3)
        return [
            e.AttemptSigned(
                at=now,
                settlement_id=name,
                number=1,
                transaction=b"t",
                signature="s",
                message_hash=bytes(32),
                blockhash="b",
                last_valid_block_height=_ANY,
                tip_height=_ANY,
                min_context_slot=_ANY,
                first_available_slot=_ANY,
                fee=_ANY,
                fee_payer="f",
                creates_recipient_account=False,
                cluster_id="c",
            ),
            e.AttemptSent(now, name, 1, "provider", "accepted"),
            e.SettlementFinalized(now, name, 1, "s", slot, "-1", "1", bytes(32)),
        ]

    await process.log.ledger.commit(process.stream_of(session), end)
