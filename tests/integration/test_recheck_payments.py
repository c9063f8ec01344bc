"""Direct payments over a real log: accepted once, watched until final, reversed with evidence."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from charge_rig import AMOUNT, BUYER, MINT, PAYER, RECIPIENT, memo, pay, wire
from direct_rig import header_of
from fakes import DEPTHS, FINALIZED_DEPTH, FakeClock, block_time
from settlement_rig import SOL, FakeWorld
from solders.transaction import VersionedTransaction
from structlog.testing import capture_logs

from service.adapters.postgres.connections import driver_address, reader_engine
from service.adapters.postgres.direct_payments import PostgresDirectStore
from service.adapters.postgres.replay_store import PostgresReplayStore
from service.application.accept_payment import AcceptPayment, DirectTerms
from service.application.commit import Ledger
from service.application.payment_challenges import PaymentChallenges
from service.application.recheck_payments import Rechecked, RecheckPayments
from service.application.replay import Replay, Scope
from service.application.seller_terms import SellerTerms
from service.application.streams import direct_stream
from service.domain.direct_errors import PaymentWasReversed
from service.domain.direct_events import PaymentAccepted
from service.domain.direct_judgement import Refusal
from service.domain.direct_payment import DirectPayment
from service.domain.errors import ChainUnavailable, DatabaseUnavailable
from service.domain.limits import BLOCKHASH_WINDOW_BLOCKS, EXPIRY_MARGIN_BLOCKS
from service.domain.onchain import SignatureStatus
from service.domain.seller import Seller
from service.domain.terms import Limits
from service.domain.units import Slot, UnixMillis
from service.observability import Metrics
from service.watcher import PaymentWatcher
from session_ledger.challenge import NETWORKS
from session_ledger.x402.direct import PaymentRequirements
from tests.integration.log_fixtures import Log, opened

URL = "https://shop.example/premium"
REQUIRED = PaymentRequirements("localnet", AMOUNT, URL, RECIPIENT, MINT)
GONE = BLOCKHASH_WINDOW_BLOCKS + EXPIRY_MARGIN_BLOCKS + FINALIZED_DEPTH
SELLER = SellerTerms.of(
    Seller(
        seller_id="slr_1",
        name="Shop",
        recipient=RECIPIENT,
        network="localnet",
        unknown_channels="register",
        require_nonce=False,
        shared_recipient=False,
        limits=Limits(None, None, None),
        registered_at=UnixMillis(0),
        price_books=({"pricePerUnit": "1"},),
        keys=(),
    )
)


@dataclass
class Shop:
    """One process over a log and a fake chain that outlive it."""

    log: Log
    world: FakeWorld
    root: asyncpg.Connection
    commitment: Any = "confirmed"
    clock: FakeClock = field(default_factory=FakeClock)

    @property
    def store(self) -> PostgresDirectStore:
        return PostgresDirectStore(self.log.store)

    def accepting(self, store: Any = None, chain: Any = None) -> AcceptPayment:
        """A process of its own."""
        return AcceptPayment(
            ledger=Ledger(store or self.log.store),
            store=self.store,
            chain=chain or self.world.chain,
            challenges=PaymentChallenges(b"key"),
            clock=self.clock,
            terms=DirectTerms(NETWORKS["localnet"], self.commitment, 300, unbound=True),
        )

    def rechecking(self, chain: Any = None) -> RecheckPayments:
        return RecheckPayments(
            ledger=Ledger(self.log.store),
            store=self.store,
            chain=chain or self.world.chain,
            clock=self.clock,
            every_seconds=0,
        )

    async def pay(
        self, *, blocks: int = DEPTHS["confirmed"], text: bytes = b""
    ) -> tuple[bytes, str]:
        """A payment in a block that deep; gives its bytes and its header."""
        latest = await self.world.chain.latest_blockhash()
        steps = [pay(), *([memo(text)] if text else [])]
        raw = wire(steps, blockhash=latest.blockhash, fee_payer=PAYER, signers=[BUYER])
        await self.world.chain.send(raw)
        await self.world.advance(1 + blocks)
        self.clock.forward_to(block_time(self.world.fake.tip) * 1_000)
        return raw, header_of(signature_of(raw), PAYER, AMOUNT, MINT)

    async def bought(self) -> tuple[bytes, str]:
        """An accepted payment that the next look finds; gives its bytes and its header."""
        raw, header = await self.pay()
        accepted = await self.accepting().verify(SELLER, header, REQUIRED)
        assert isinstance(accepted, PaymentAccepted), accepted
        await self.make_due()
        return raw, header

    async def make_due(self) -> None:
        await self.root.execute("UPDATE direct_payments SET check_at = now()")

    async def look(self, chain: Any = None) -> Rechecked:
        looked = await self.rechecking(chain).look()
        assert looked.failed == []
        return looked

    async def payment(self, raw: bytes) -> DirectPayment:
        held = await Ledger(self.log.store).read(direct_stream(signature_of(raw)))
        assert held is not None
        assert held.state is not None
        return held.state

    async def types(self, raw: bytes) -> list[str]:
        stream_id = direct_stream(signature_of(raw)).stream_id
        return [logged.row.type async for logged in self.log.store.read(stream_id)]


def signature_of(raw: bytes) -> str:
    return str(VersionedTransaction.from_bytes(raw).signatures[0])


class Altered:
    """A chain of which some answers are others."""

    def __init__(self, chain: Any, **answers: Any) -> None:
        self._chain = chain
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        return self._answers.get(name) or getattr(self._chain, name)


@pytest.fixture(name="shop")
async def shop_fixture(ledger_url: str) -> AsyncIterator[Shop]:
    world = FakeWorld()
    await world.fund(PAYER, SOL)
    await world.set_tokens(PAYER, amount=100 * AMOUNT)
    await world.set_tokens(RECIPIENT, amount=0)
    await world.advance(40)
    async with opened(ledger_url) as log:
        root = await asyncpg.connect(driver_address(ledger_url))
        yield Shop(log, world, root)
        await root.close()


async def test_t12_a_payment_that_becomes_final_is_said_to_be_once(shop: Shop) -> None:
    raw, _ = await shop.bought()
    assert (await shop.look()).finalized == 0
    assert (await shop.payment(raw)).status == "accepted"
    await shop.world.advance(FINALIZED_DEPTH)
    looks = await asyncio.gather(*(shop.look() for _ in range(4)))
    assert sum(looked.finalized for looked in looks) == 1
    assert await shop.types(raw) == ["payment_accepted", "payment_finalized"]
    await shop.make_due()
    assert (await shop.look()).payments == 0


async def test_t12_a_payment_whose_fork_is_lost_is_reversed_when_it_can_never_land(
    shop: Shop,
) -> None:
    raw, header = await shop.bought()
    await shop.world.drop_fork(10)
    first = shop.world.fake.tip
    await shop.look()
    (row,) = await shop.root.fetch("SELECT missing_height FROM direct_payments")
    assert row["missing_height"] == first
    for blocks in (1, GONE - 1):
        await shop.world.advance(blocks)
        assert (await shop.look()).reversed == []
    assert (await shop.payment(raw)).status == "accepted"
    await shop.world.advance(1)
    looks = await asyncio.gather(*(shop.look() for _ in range(4)))
    assert [gone for looked in looks for gone in looked.reversed] == [
        (signature_of(raw), "slr_1", "dropped")
    ]
    payment = await shop.payment(raw)
    assert payment.status == "reversed"
    assert payment.reversal is not None
    assert (payment.reversal["cause"], payment.reversal["missingHeight"]) == ("dropped", first)
    feed = await shop.log.queries.feed("slr_1", "0-0", 10)
    assert [event.row.type for event in feed] == ["payment_accepted", "payment_reversed"]
    again = await shop.accepting().verify(SELLER, header, REQUIRED)
    assert isinstance(again, Refusal)
    assert (again.code, again.error) == ("payment_reversed", "Payment already processed")
    with pytest.raises(PaymentWasReversed):
        await shop.accepting().delivery_failed("slr_1", signature_of(raw), URL)


async def test_t12_a_payment_that_lands_again_in_another_fork_is_final_there(shop: Shop) -> None:
    raw, _ = await shop.bought()
    before = (await shop.payment(raw)).slot
    await shop.world.drop_fork(10)
    await shop.look()
    await shop.world.advance(20)
    await shop.world.chain.send(raw)
    await shop.world.advance(3)
    await shop.look()
    (row,) = await shop.root.fetch("SELECT missing_height FROM direct_payments")
    assert row["missing_height"] is None
    await shop.world.advance(FINALIZED_DEPTH)
    assert (await shop.look()).finalized == 1
    payment = await shop.payment(raw)
    assert (payment.status, payment.slot > before) == ("finalized", True)


async def test_t12_what_a_provider_cannot_know_reverses_nothing(shop: Shop) -> None:
    """Its history does not reach back, or its status is older than its heights."""
    raw, _ = await shop.bought()
    await shop.world.drop_fork(10)
    await shop.look()
    await shop.world.advance(GONE + 1)
    honest, slot = shop.world.chain, (await shop.payment(raw)).slot

    async def short() -> Any:
        return replace(await honest.heights(), first_available_slot=Slot(slot + 1))

    async def old(_signature: str) -> SignatureStatus:
        heights = await honest.heights()
        return SignatureStatus(None, None, None, Slot(heights.finalized_slot - 1))

    for lie in ({"heights": short}, {"signature_status": old}):
        assert (await shop.look(Altered(honest, **lie))).reversed == []
    assert (await shop.payment(raw)).status == "accepted"
    assert len((await shop.look()).reversed) == 1


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"error": {"InstructionError": [0, "Custom"]}}, "failed"),
        ({"balances": ()}, "not_credited"),
    ],
)
async def test_t12_a_payment_that_is_final_without_its_credit_is_reversed(
    shop: Shop, changes: dict[str, Any], cause: str
) -> None:
    raw, _ = await shop.bought()
    await shop.world.advance(FINALIZED_DEPTH)
    honest = shop.world.chain

    async def other(signature: str, commitment: Any) -> Any:
        found = await honest.transaction(signature, commitment)
        assert found is not None
        return replace(found, **changes)

    looked = await shop.look(Altered(honest, transaction=other))
    assert looked.reversed == [(signature_of(raw), "slr_1", cause)]
    assert await shop.types(raw) == ["payment_accepted", "payment_reversed"]


async def test_t12_at_finalized_a_payment_counts_when_nothing_can_take_it_back(shop: Shop) -> None:
    shop.commitment = "finalized"
    raw, header = await shop.pay()
    early = await shop.accepting().verify(SELLER, header, REQUIRED)
    assert isinstance(early, Refusal)
    assert (early.code, early.retryable) == ("transaction_not_found", True)
    await shop.world.advance(FINALIZED_DEPTH)
    assert isinstance(await shop.accepting().verify(SELLER, header, REQUIRED), PaymentAccepted)
    assert await shop.types(raw) == ["payment_accepted", "payment_finalized"]
    await shop.make_due()
    assert (await shop.look()).payments == 0


async def test_t13_without_a_durable_append_nothing_is_valid(shop: Shop) -> None:
    raw, header = await shop.pay()

    async def fails(_append: Any) -> None:
        raise DatabaseUnavailable("gone")

    broken = Altered(shop.log.store, append=fails)
    with pytest.raises(DatabaseUnavailable):
        await shop.accepting(store=broken).verify(SELLER, header, REQUIRED)
    assert await Ledger(shop.log.store).read(direct_stream(signature_of(raw))) is None
    assert isinstance(await shop.accepting().verify(SELLER, header, REQUIRED), PaymentAccepted)


async def test_t3_processes_that_race_accept_once(shop: Shop) -> None:
    """All have looked it up and judged it before the first appends."""
    _, header = await shop.pay()
    arrived, racers = asyncio.Barrier(8), 8

    async def together(signature: str, commitment: Any) -> Any:
        await arrived.wait()
        return await shop.world.chain.transaction(signature, commitment)

    chain = Altered(shop.world.chain, transaction=together)
    resources = [replace(REQUIRED, resource=f"{URL}/{n % 2}") for n in range(racers)]
    answers = await asyncio.gather(
        *(shop.accepting(chain=chain).verify(SELLER, header, wanted) for wanted in resources)
    )
    assert sum(isinstance(answer, PaymentAccepted) for answer in answers) == 1
    told = {answer.error for answer in answers if isinstance(answer, Refusal)}
    assert told == {"Payment already processed"}


async def test_a_chain_that_does_not_answer_refuses_for_now_and_names_no_provider(
    shop: Shop,
) -> None:
    _, header = await shop.pay()

    async def silent(*_: Any) -> Any:
        raise ChainUnavailable("rpc.example: getTransaction: ReadTimeout")

    chain = Altered(shop.world.chain, transaction=silent, signature_status=silent)
    answer = await shop.accepting(chain=chain).verify(SELLER, header, REQUIRED)
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.retryable) == ("chain_unavailable", True)
    assert answer.error == "Verification error: the chain does not answer"
    await shop.accepting().verify(SELLER, header, REQUIRED)
    await shop.make_due()
    looked = await shop.look(chain)
    assert (looked.payments, looked.unread is None) == (1, False)
    assert (await shop.look()).payments == 1


async def test_direct_payments_replay_to_what_is_stored_and_are_remade_from_the_log(
    shop: Shop, ledger_url: str
) -> None:
    for _ in range(2):
        await shop.bought()
    await shop.world.advance(FINALIZED_DEPTH)
    assert (await shop.look()).finalized == 2
    raw, header = await shop.bought()
    await shop.accepting().delivery_failed("slr_1", signature_of(raw), URL)
    assert isinstance(await shop.accepting().verify(SELLER, header, REQUIRED), PaymentAccepted)
    engine = reader_engine(ledger_url, pool_size=4)

    async def replayed(**scope: Any) -> Any:
        return await Replay(PostgresReplayStore(engine), shop.log.store).run(Scope(**scope))

    try:
        report = await replayed()
        assert (report.streams, report.differences) == (3, [])
        await shop.root.execute("UPDATE direct_payments SET status = 'reversed'")
        await shop.root.execute("UPDATE streams SET seller_id = 'slr_2'")
        assert (await replayed()).count == 6
        assert (await replayed(rebuild=True)).remaining == 0
        assert (await replayed()).differences == []
    finally:
        await engine.dispose()


async def test_the_watcher_counts_the_ends_and_says_what_was_reversed(shop: Shop) -> None:
    raw, _ = await shop.bought()
    await shop.world.drop_fork(10)
    services = SimpleNamespace(
        direct=SimpleNamespace(recheck=shop.rechecking()),
        metrics=Metrics(),
        stopping=asyncio.Event(),
    )
    watcher = PaymentWatcher(services)  # type: ignore[arg-type]  what the loop uses of them
    assert await watcher._look() == 1
    await shop.world.advance(GONE + 1)
    with capture_logs() as lines:
        assert await watcher._look() == 1
    (line,) = lines
    assert (line["event"], line["signature"]) == ("payment_reversed", signature_of(raw))
    assert (line["log_level"], line["cause"]) == ("error", "dropped")
    assert services.metrics.direct_payments.labels("reversed")._value.get() == 1
