"""The Swig wallet as a funding source: what it is judged by, and what it signs.

What the Swig program itself does is in test_swig_on_chain.py, which needs the program.
"""

from dataclasses import replace
from typing import Any

import pytest
from fakes import TOKEN_PROGRAM
from settlement_rig import AUTHORITY, MINT

from service.adapters.solana.funding_swig import SwigFunding, buyer_swig_ids
from service.adapters.solana.swig_actions import (
    All,
    ManageAuthority,
    Program,
    ProgramAll,
    TokenDestinationLimit,
    TokenLimit,
)
from service.adapters.solana.swig_instructions import sign_v2, swig_pda, wallet_pda
from service.adapters.solana.transfer import associated_token_address, transfer_instruction
from service.domain.errors import Corrupt, FundingSourceRefused, InvalidWallet
from service.domain.funding import SourceRef
from service.domain.onchain import TransferOrder
from service.domain.units import AtomicUsdc
from service.ports import FundingSource
from tests.integration.swig_world import (
    BUYER,
    DESTINATION,
    GRANTED,
    LIMIT,
    ORDER,
    OURS,
    SOURCE,
    STRANGER,
    SWIG,
    WALLET,
    SwigWorld,
    steps_of,
    swigs_fixture,  # noqa: F401  a fixture
)
from tests.swig_cases import Given, plain, with_session


def test_it_is_a_funding_source() -> None:
    source: type[FundingSource] = SwigFunding
    assert source is SwigFunding


# --- locate ---------------------------------------------------------------------------------


async def test_the_account_that_pays_is_the_wallets_own(swigs: SwigWorld) -> None:
    await swigs.ready()
    ref = await swigs.funding.locate(BUYER, str(SWIG), MINT)
    assert ref == SourceRef("swig", SOURCE, WALLET, MINT, str(SWIG), 1)


async def test_a_wallet_is_located_before_it_has_tokens(swigs: SwigWorld) -> None:
    await swigs.write(SWIG, plain(0, BUYER, All()), plain(1, AUTHORITY, *GRANTED))
    ref = await swigs.funding.locate(BUYER, str(SWIG), MINT)
    reading = (await swigs.funding.readings([ref]))[0]
    assert reading.finding is not None
    assert (reading.finding.code, reading.available) == ("source_account_missing", 0)


@pytest.mark.parametrize(
    ("roles", "more", "advice"),
    [
        pytest.param(
            [plain(0, BUYER, All()), plain(1, AUTHORITY, *GRANTED)],
            {"wallet_field": (2_338_560).to_bytes(8, "little")},
            "swig_v1: .*Migrate, then TransferAssets",
            id="version 1",
        ),
        pytest.param([plain(0, BUYER, All())], {}, "swig_role_missing: .*onboard", id="no role"),
        pytest.param(
            [plain(0, BUYER, All()), plain(1, AUTHORITY, GRANTED[0])],
            {},
            "swig_permission_missing: .*onboard",
            id="no program",
        ),
        pytest.param(
            [plain(0, BUYER, All()), with_session(1, BUYER, AUTHORITY, 9, *GRANTED)],
            {},
            "swig_role_expired: .*renew",
            id="session over",
        ),
        pytest.param(
            [plain(0, BUYER, All()), plain(1, AUTHORITY, *GRANTED)],
            {"tail": b"", "count": 3},
            "swig_account_missing: .*cannot be read",
            id="unreadable",
        ),
        pytest.param(
            [plain(0, STRANGER, All()), plain(1, AUTHORITY, *GRANTED)],
            {},
            "does not manage",
            id="another's",
        ),
        pytest.param(
            [
                plain(0, STRANGER, All()),
                plain(1, AUTHORITY, *GRANTED),
                plain(2, BUYER, TokenLimit(MINT, 1), ProgramAll()),
            ],
            {},
            "does not manage",
            id="only a limit in another's",
        ),
    ],
)
async def test_a_wallet_that_cannot_pay_for_the_payer_is_refused_with_what_to_do(
    swigs: SwigWorld, roles: list[Given], more: dict[str, Any], advice: str
) -> None:
    await swigs.write(SWIG, *roles, **more)
    with pytest.raises(FundingSourceRefused, match=advice):
        await swigs.funding.locate(BUYER, str(SWIG), MINT)


async def test_whoever_manages_the_roles_may_name_the_wallet(swigs: SwigWorld) -> None:
    await swigs.write(
        SWIG,
        plain(0, STRANGER, All()),
        plain(4, AUTHORITY, *GRANTED),
        plain(5, BUYER, ManageAuthority()),
    )
    assert (await swigs.funding.locate(BUYER, str(SWIG), MINT)).swig_role_id == 4


async def test_an_address_that_is_none_is_refused(swigs: SwigWorld) -> None:
    for payer, swig in ((BUYER, "no address"), ("no address", None)):
        with pytest.raises(InvalidWallet):
            await swigs.funding.locate(payer, swig, MINT)
    with pytest.raises(FundingSourceRefused, match=r"swig_account_missing: .*onboard first"):
        await swigs.funding.locate(BUYER, None, MINT)


async def test_the_buyers_own_wallet_is_found_again_whoever_took_the_first_address(
    swigs: SwigWorld,
) -> None:
    first, second, third, _ = [swig_pda(one)[0] for one in buyer_swig_ids(BUYER)]
    await swigs.write(
        first, plain(0, STRANGER, All()), plain(1, AUTHORITY, *GRANTED), plain(2, BUYER, All())
    )
    await swigs.world.fund(str(second), 890_880)
    await swigs.write(third, plain(0, BUYER, All()), plain(1, AUTHORITY, *GRANTED))
    ref = await swigs.funding.locate(BUYER, None, MINT)
    assert ref.swig_address == str(third)


# --- readings -------------------------------------------------------------------------------


async def test_many_wallets_are_read_in_their_order(swigs: SwigWorld) -> None:
    refs: list[SourceRef] = []
    for n in range(40):
        swig = swig_pda(bytes([n]) * 32)[0]
        wallet = str(wallet_pda(swig)[0])
        actions = (TokenLimit(MINT, 100 + n), Program(TOKEN_PROGRAM))
        await swigs.write(swig, plain(0, BUYER, All()), plain(1, AUTHORITY, *actions))
        await swigs.world.set_tokens(wallet, amount=50 + 2 * n)
        source = associated_token_address(wallet, MINT, TOKEN_PROGRAM)
        refs.append(SourceRef("swig", source, wallet, MINT, str(swig), None if n % 2 else 1))
    readings = await swigs.funding.readings(refs)
    assert [(r.balance, r.allowance, r.finding) for r in readings] == [
        (50 + 2 * n, 100 + n, None) for n in range(40)
    ]
    assert [r.available for r in readings] == [min(50 + 2 * n, 100 + n) for n in range(40)]


async def test_a_removed_role_leaves_nothing_to_take(swigs: SwigWorld) -> None:
    await swigs.ready()
    ref = await swigs.funding.locate(BUYER, str(SWIG), MINT)
    await swigs.write(SWIG, plain(0, BUYER, All()), plain(2, AUTHORITY, *GRANTED))
    reading = (await swigs.funding.readings([ref]))[0]
    assert reading.finding is not None
    assert (reading.finding.code, reading.available) == ("swig_role_missing", 0)


# --- a settlement ---------------------------------------------------------------------------


async def test_before_a_settlement_the_role_is_judged_for_exactly_it(swigs: SwigWorld) -> None:
    assert await swigs.found() == "swig_account_missing"
    await swigs.ready()
    assert await swigs.found() is None
    assert await swigs.found(replace(ORDER, amount=AtomicUsdc(LIMIT + 1))) == "swig_limit_too_small"
    assert await swigs.found(replace(ORDER, swig_role_id=2)) == "swig_role_missing"
    assert await swigs.found(replace(ORDER, swig_role_id=None)) == "swig_role_missing"
    assert await swigs.found(replace(ORDER, swig_role_id=0)) == "swig_role_wrong_key"
    assert await swigs.found(replace(ORDER, source_owner=BUYER)) == "source_owner_mismatch"
    assert await swigs.found(replace(ORDER, source=DESTINATION)) == "source_owner_mismatch"
    assert await swigs.found(replace(ORDER, decimals=9)) == "wrong_decimals"
    await swigs.ready(held=LIMIT - 1)
    assert await swigs.found() == "insufficient_funds"
    await swigs.ready(*GRANTED, TokenDestinationLimit(MINT, SOURCE, LIMIT))
    assert await swigs.found() == "swig_permission_missing"
    await swigs.ready(*GRANTED, TokenDestinationLimit(MINT, DESTINATION, LIMIT))
    assert await swigs.found() is None


@pytest.mark.parametrize(
    ("order", "size"),
    [(ORDER, 546), (replace(ORDER, fee_payer=AUTHORITY), 450)],
    ids=["two keys", "one key"],
)
async def test_the_wallet_signs_exactly_the_transfer(
    swigs: SwigWorld, order: TransferOrder, size: int
) -> None:
    blockhash = (await swigs.world.chain.latest_blockhash()).blockhash
    unsigned = swigs.funding.unsigned(order, blockhash)
    inner = transfer_instruction(replace(order, authority=WALLET))
    expected = sign_v2(SWIG, (1, OURS), [inner])
    payments = [s for s in steps_of(unsigned.message) if s.program_id == expected.program_id]
    assert [bytes(payment.data) for payment in payments] == [bytes(expected.data)]
    assert [m.pubkey for m in payments[0].accounts] == [m.pubkey for m in expected.accounts]
    assert unsigned.signers == tuple(dict.fromkeys((order.fee_payer, AUTHORITY)))
    memo = 32 + 3 + len(order.settlement_id)  # the program's address, the header, the text
    assert 1 + 64 * len(unsigned.signers) + len(unsigned.message) - memo == size


async def test_the_largest_settlement_fits_into_a_transaction(swigs: SwigWorld) -> None:
    blockhash = (await swigs.world.chain.latest_blockhash()).blockhash
    order = replace(ORDER, create_recipient_account=True, settlement_id="s" * 128)
    unsigned = swigs.funding.unsigned(order, blockhash)
    assert len(steps_of(unsigned.message)) == 5
    assert 1 + 64 * len(unsigned.signers) + len(unsigned.message) <= 1_232


async def test_an_order_that_names_no_wallet_is_not_signed(swigs: SwigWorld) -> None:
    blockhash = (await swigs.world.chain.latest_blockhash()).blockhash
    for order in (
        replace(ORDER, swig_role_id=None),
        replace(ORDER, swig_address=None),
        replace(ORDER, swig_address="no address"),
    ):
        with pytest.raises(Corrupt):
            swigs.funding.unsigned(order, blockhash)
