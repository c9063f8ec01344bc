"""Buyers' sessions at two processes: races over HTTP, and a source that is revoked meanwhile."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from mpp_session_rig import DEPOSIT, OPEN, VOUCHER, onboarded, open_body, opened, pay, refusal
from running import Service, running, until
from solders.keypair import Keypair

RACERS = 32


@pytest.fixture(scope="module")
def pair() -> Iterator[Service]:
    """Two processes behind one socket, whose watchers look often."""
    with running("--workers", "2", WATCH_SECONDS="0.2") as started:
        yield started


def test_a_session_whose_source_was_revoked_signs_nothing_more(pair: Service) -> None:
    buyer = onboarded(pair)
    channel = opened(buyer, str(Keypair().pubkey()))
    pay(pair, channel, 1)
    buyer.revoke()
    amounts = iter(range(2, 10_000))

    def refused() -> httpx.Response | None:
        body = {"channel_id": channel, "amount": str(next(amounts)), "serverNonce": "n"}
        answer = pair.http.post(VOUCHER, json=body)
        return None if answer.is_success else answer

    refusal(until(refused), 409, "funding_revoked")  # type: ignore[arg-type]


def test_of_32_opens_at_two_processes_for_one_allowance_exactly_one_succeeds(
    pair: Service,
) -> None:
    buyer = onboarded(pair, approved=DEPOSIT)
    body = open_body(buyer, str(Keypair().pubkey()))

    def race(_: int) -> httpx.Response:
        with httpx.Client(base_url=pair.url, timeout=60) as client:
            return client.post(OPEN, json=body)

    with ThreadPoolExecutor(RACERS) as pool:
        answers = list(pool.map(race, range(RACERS)))
    codes = Counter(answer.json().get("error") for answer in answers)
    assert codes == {None: 1, "insufficient_deposit": RACERS - 1}


def test_vouchers_that_race_at_two_processes_have_one_order(pair: Service) -> None:
    channel = opened(onboarded(pair), str(Keypair().pubkey()))
    amounts = list(range(1, 101))
    random.Random(5).shuffle(amounts)

    def race(amount: int) -> dict[str, Any]:
        body = {"channel_id": channel, "amount": str(amount), "serverNonce": f"n{amount}"}
        with httpx.Client(base_url=pair.url, timeout=60) as client:
            return client.post(VOUCHER, json=body).json()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(race, amounts))
    assert {answer.get("error") for answer in answers} <= {None, "amount_not_monotonic"}
    signed = sorted((a for a in answers if a["success"]), key=lambda answer: answer["sequence"])
    assert [answer["sequence"] for answer in signed] == list(range(1, len(signed) + 1))
    totals = [int(answer["amount"]) for answer in signed]
    assert totals == sorted(set(totals))
    assert totals[-1] == 100
