"""A direct payment as the log has it: one acceptance, one more answer for each failed delivery."""

import asyncio
from dataclasses import replace

import pytest
from naive_x402 import signature

from service.application.streams import DIRECT, direct_stream
from service.domain import direct_events as d
from service.domain.codec import canonical, to_json
from service.domain.direct_errors import PaymentWasReversed, ResourceMismatch
from service.domain.direct_payment import (
    DirectPayment,
    Shown,
    accept,
    delivery_failed,
    evolve,
    finalize,
    fold,
    redeliver,
    refused_again,
    reverse,
)
from service.domain.errors import Corrupt
from service.domain.units import AtomicUsdc, Slot, UnixMillis

NOW = UnixMillis(1_700_000_000_000)
URL = "https://shop.example/premium"
ACCEPTED = d.PaymentAccepted(
    at=NOW,
    signature=signature("payment"),
    seller_id="slr_1",
    resource=URL,
    chain_id="solana:chain",
    pay_to="shop",
    asset="mint",
    required=AtomicUsdc(10),
    amount=AtomicUsdc(11),
    payer="payer",
    fee_payer="payer",
    slot=Slot(500),
    block_time=1_700_000_000,
    commitment="confirmed",
    binding="challenge",
    memo="memo",
    reference=None,
    header="header",
    transaction_hash=bytes(32),
)
SHOWN = Shown("slr_1", URL, "header", NOW)
FAILED, AGAIN = d.DeliveryFailed(NOW, "slr_1"), d.PaymentRedelivered(NOW)
FINAL, GONE = d.PaymentFinalized(NOW, Slot(501)), d.PaymentReversed(NOW, "dropped", {"height": 1})


def after(*events: d.DirectEvent) -> DirectPayment:
    payment = fold(None, [ACCEPTED, *events])
    assert payment is not None
    return payment


def code(payment: DirectPayment, shown: Shown = SHOWN) -> str | None:
    refusal = refused_again(payment, shown)
    return None if refusal is None else refusal.code


def test_a_signature_is_accepted_once() -> None:
    assert accept(None, ACCEPTED) == [ACCEPTED]
    for payment in (after(), after(FAILED), after(FINAL), after(GONE)):
        assert accept(payment, ACCEPTED) == []
        assert accept(payment, replace(ACCEPTED, seller_id="slr_2")) == []


def test_what_is_accepted_at_finalized_is_final_at_once() -> None:
    accepted = replace(ACCEPTED, commitment="finalized")
    assert accept(None, accepted) == [accepted, d.PaymentFinalized(NOW, Slot(500))]


def test_a_payment_is_found_by_its_signature_alone() -> None:
    stream = direct_stream(ACCEPTED.signature)
    assert stream.stream_id == f"direct/{ACCEPTED.signature}"
    assert stream.seller_of(after()) == "slr_1"


def test_a_failed_delivery_is_made_good_once() -> None:
    assert code(after()) == "payment_already_processed"
    assert redeliver(after(), SHOWN) == []
    assert delivery_failed(after(), URL, "slr_1", NOW) == [FAILED]
    owed = after(FAILED)
    assert delivery_failed(owed, URL, "slr_1", NOW) == []
    assert (code(owed), redeliver(owed, SHOWN)) == (None, [AGAIN])
    served = after(FAILED, AGAIN)
    assert (code(served), redeliver(served, SHOWN)) == ("payment_already_processed", [])
    assert code(after(FAILED, AGAIN, FAILED)) is None
    assert (served.deliveries_failed, served.redeliveries) == (1, 1)


@pytest.mark.parametrize("changes", [{"seller_id": "slr_2"}, {"resource": "x"}, {"header": "x"}])
def test_a_delivery_that_is_owed_is_owed_to_the_same_request_only(changes: dict[str, str]) -> None:
    other = replace(SHOWN, **changes)
    assert code(after(FAILED), other) == "payment_already_processed"
    assert redeliver(after(FAILED), other) == []


def test_a_failed_delivery_names_the_resource_that_was_bought() -> None:
    with pytest.raises(ResourceMismatch):
        delivery_failed(after(), URL + "/other", "slr_1", NOW)


def test_a_reversed_payment_buys_nothing_more() -> None:
    gone = after(FAILED, GONE)
    assert (code(gone), redeliver(gone, SHOWN)) == ("payment_reversed", [])
    assert code(gone, replace(SHOWN, header="x")) == "payment_already_processed"
    with pytest.raises(PaymentWasReversed):
        delivery_failed(gone, URL, "slr_1", NOW)
    assert gone.reversal == {"height": 1, "cause": "dropped"}


def test_the_first_end_is_the_only_one() -> None:
    for ended in (after(FINAL), after(GONE)):
        assert finalize(ended, Slot(502), NOW) == []
        assert reverse(ended, "dropped", {}, NOW) == []
    assert finalize(after(FAILED), Slot(501), NOW) == [FINAL]
    assert after(FAILED, FINAL).owed


@pytest.mark.parametrize(
    "events",
    [
        [FAILED],
        [ACCEPTED, ACCEPTED],
        [ACCEPTED, AGAIN],
        [ACCEPTED, FAILED, FAILED],
        [ACCEPTED, GONE, FAILED],
        [ACCEPTED, FINAL, FINAL],
        [ACCEPTED, FINAL, GONE],
        [ACCEPTED, GONE, FINAL],
    ],
)
def test_what_cannot_follow_is_corrupt(events: list[d.DirectEvent]) -> None:
    with pytest.raises(Corrupt):
        fold(None, events)


def test_the_projection_is_read_as_it_was_written() -> None:
    for payment in (after(), after(FAILED), after(FAILED, AGAIN, FINAL), after(FAILED, GONE)):
        written = DIRECT.project(payment)
        assert DIRECT.load(written) == payment
        assert canonical(to_json(DIRECT.load(written))) == written


def test_evolve_begins_with_the_acceptance() -> None:
    assert evolve(None, ACCEPTED).slot == 500


class NaiveStore:
    """Marks of a naive server: looked up first, written down when all is judged."""

    def __init__(self, *, durable: bool = True) -> None:
        self._used: set[str] = set()
        self._durable = durable

    async def accept(self, name: str) -> bool:
        if name in self._used:
            return False
        await asyncio.sleep(0)  # two calls of the chain
        if self._durable:
            self._used.add(name)
        return True


async def test_the_naive_store_serves_one_signature_many_times() -> None:
    """What T3, T13, T14 and T17 are about: a race, a mark that is lost, a mark that stays."""
    racing = NaiveStore()
    assert sum(await asyncio.gather(*(racing.accept("a") for _ in range(50)))) == 50
    unwritable = NaiveStore(durable=False)
    assert [await unwritable.accept("a") for _ in range(2)] == [True, True]
    burned = NaiveStore()
    assert [await burned.accept("a") for _ in range(2)] == [True, False]
    hosts = NaiveStore(), NaiveStore()
    assert [await host.accept("a") for host in hosts] == [True, True]
