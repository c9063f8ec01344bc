"""`UNPROVEN_PAYERS=refuse`: a seller cannot name a payer that signed nothing."""

from collections.abc import Iterator

import pytest
from nacl.signing import SigningKey
from running import PRICE, Service, problem_of, running

from session_ledger.voucher import sign_voucher


@pytest.fixture(scope="module")
def strict() -> Iterator[Service]:
    with running(UNPROVEN_PAYERS="refuse") as started:
        yield started


def test_a_session_key_that_the_wallet_did_not_sign_for_registers_nothing(strict: Service) -> None:
    seller, victim = strict.seller(), strict.buyer("victim")
    verdict = seller.verify(victim.pay(seller, "c", PRICE, 1))
    assert (verdict["valid"], verdict["code"]) == (False, "payer_unproven")
    problem_of(seller.open(victim, "c"), 403, "payer_unproven")
    assert seller.get("/v1/sessions").json()["sessions"] == []


def test_a_wallet_that_signs_its_vouchers_itself_is_proof(strict: Service) -> None:
    seller, buyer = strict.seller(), strict.buyer()
    wallet = SigningKey(bytes(buyer.wallet)[:32])
    voucher = buyer.pay(seller, "c", PRICE, 1)["voucher"]
    assert seller.verify(sign_voucher(voucher, wallet))["valid"]
    opened = seller.open(buyer, "d", sessionPubkey=buyer.address)
    assert opened.status_code == 201, opened.text
