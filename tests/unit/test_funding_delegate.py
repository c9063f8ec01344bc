"""What a payer's delegated account allows, judged before money moves. Spec: swig.md, plain SPL."""

from dataclasses import replace

import pytest
from fakes import TOKEN_PROGRAM, FakeChain, empty_account
from settlement_rig import (
    AMOUNT,
    AUTHORITY,
    DESTINATION,
    MINT,
    ORDER,
    PAYER,
    RECIPIENT,
    SOURCE,
)

from service.adapters.solana.batches import ACCOUNTS_PER_READ
from service.adapters.solana.funding_delegate import DelegateFunding, delegate_finding
from service.domain.errors import InvalidWallet
from service.domain.funding import SourceRef
from service.domain.onchain import TokenAccount
from service.domain.units import AtomicUsdc
from service.local.chain import LOCALNET_GENESIS_HASH

ACCOUNT = replace(
    empty_account(SOURCE, owner=PAYER, mint=MINT),
    amount=AtomicUsdc(2 * AMOUNT),
    delegate=AUTHORITY,
    delegated_amount=AtomicUsdc(AMOUNT),
)


def funding(*accounts: TokenAccount) -> tuple[DelegateFunding, FakeChain]:
    chain = FakeChain(LOCALNET_GENESIS_HASH)
    for account in accounts:
        chain.write(account)
    chain.advance(10)
    return DelegateFunding(chain, AUTHORITY, TOKEN_PROGRAM), chain


def test_an_account_that_covers_the_order_has_no_finding() -> None:
    assert delegate_finding(ORDER, ACCOUNT) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"owner": RECIPIENT}, "source_owner_mismatch"),
        ({"owner": RECIPIENT, "delegate": None}, "source_owner_mismatch"),
        ({"mint": RECIPIENT}, "wrong_mint"),
        ({"frozen": True}, "source_account_frozen"),
        ({"delegate": None}, "delegate_revoked"),
        ({"delegated_amount": AMOUNT - 1}, "allowance_too_small"),
        ({"amount": AMOUNT - 1}, "insufficient_funds"),
    ],
)
def test_what_keeps_an_account_from_paying_is_named(changes: dict[str, object], code: str) -> None:
    finding = delegate_finding(ORDER, replace(ACCOUNT, **changes))
    assert finding is not None
    assert finding.code == code
    assert finding.detail


def test_an_order_of_an_old_log_names_no_owner_and_is_paid() -> None:
    old = replace(ORDER, source_owner=None)
    assert delegate_finding(old, replace(ACCOUNT, owner=RECIPIENT)) is None


async def test_a_payer_s_source_is_its_associated_token_account() -> None:
    source, _ = funding()
    located = await source.locate(PAYER, None, MINT)
    assert located == SourceRef("delegate", SOURCE, PAYER, MINT)
    with pytest.raises(InvalidWallet):
        await source.locate("somebody", None, MINT)


async def test_the_smaller_of_balance_and_allowance_is_available() -> None:
    source, _ = funding(ACCOUNT)
    ref = SourceRef("delegate", SOURCE, PAYER, MINT)
    (reading,) = await source.readings([ref])
    assert (reading.balance, reading.allowance, reading.finding) == (2 * AMOUNT, AMOUNT, None)
    assert reading.available == AMOUNT
    (others,) = await source.readings([replace(ref, owner=RECIPIENT)])
    assert others.finding is not None
    assert others.finding.code == "source_owner_mismatch"
    assert others.available == 0


async def test_a_reading_of_many_sources_keeps_their_order_and_misses_none() -> None:
    source, _ = funding(ACCOUNT)
    ref = SourceRef("delegate", SOURCE, PAYER, MINT)
    missing = replace(ref, token_account=DESTINATION)
    refs = [missing] * (ACCOUNTS_PER_READ + 1) + [ref]
    readings = await source.readings(refs)
    assert [reading.available for reading in readings] == [0] * (ACCOUNTS_PER_READ + 1) + [AMOUNT]
    assert readings[0].finding is not None
    assert readings[0].finding.code == "source_account_missing"


async def test_a_delegation_to_another_key_allows_us_nothing() -> None:
    source, _ = funding(replace(ACCOUNT, delegate=RECIPIENT))
    (reading,) = await source.readings([SourceRef("delegate", SOURCE, PAYER, MINT)])
    assert reading.finding is not None
    assert (reading.finding.code, reading.allowance) == ("delegate_revoked", 0)
