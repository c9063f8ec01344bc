"""Whether a role may make a payment: what is found before a transaction is paid for."""

from dataclasses import replace

import pytest
from solders.pubkey import Pubkey

from service.adapters.solana.swig_actions import (
    Action,
    All,
    AllButManageAuthority,
    ManageAuthority,
    OtherAction,
    Program,
    ProgramAll,
    ProgramCurated,
    TokenDestinationLimit,
    TokenLimit,
    TokenRecurringDestinationLimit,
    TokenRecurringLimit,
)
from service.adapters.solana.swig_instructions import wallet_pda
from service.adapters.solana.swig_preflight import (
    EXPIRY_MARGIN_SLOTS,
    Judgement,
    Payment,
    Sight,
    judge,
    judge_role,
)
from service.domain.failures import FAILURES
from service.domain.limits import U64_MAX
from service.domain.onchain import RawAccount, TokenAccount
from service.domain.units import AtomicUsdc, Lamports, Slot
from tests.swig_cases import SWIG_PROGRAM, Given, plain, swig_bytes, with_session

ROOT, OURS, OTHER, MINT, OTHER_MINT, SHOP, OTHER_SHOP, SWIG, SOURCE = (
    str(Pubkey([n] * 32)) for n in range(1, 10)
)
WALLET = str(wallet_pda(Pubkey.from_string(SWIG))[0])
TOKEN_PROGRAM = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
SLOT = Slot(1_000_000)
PAYMENT = Payment(key=OURS, mint=MINT, token_program=TOKEN_PROGRAM, amount=100, destination=SHOP)
HELD = TokenAccount(
    address=SOURCE,
    mint=MINT,
    owner=WALLET,
    program=TOKEN_PROGRAM,
    amount=AtomicUsdc(1_000),
    delegate=None,
    delegated_amount=AtomicUsdc(0),
    frozen=False,
    slot=SLOT,
)
LIMIT = TokenLimit(MINT, 500)


def seen(*roles: Given, source: TokenAccount | None = HELD, wallet_field: bytes = b"\xff") -> Sight:
    data = swig_bytes(plain(0, ROOT, All()), *roles, wallet_field=wallet_field.ljust(8, b"\0"))
    return Sight(
        swig_address=SWIG,
        swig=RawAccount(SWIG, SWIG_PROGRAM, Lamports(1), data),
        wallet=RawAccount(WALLET, "11111111111111111111111111111111", Lamports(890_880), b""),
        source_address=SOURCE,
        source=source,
        slot=SLOT,
    )


def judged(*actions: Action, payment: Payment = PAYMENT) -> Judgement:
    """Role 1 is ours and has these actions."""
    return judge(seen(plain(1, OURS, *actions)), 1, payment)


def code(judgement: Judgement) -> str | None:
    finding = judgement.finding
    assert finding is None or (finding.code in FAILURES and finding.detail)
    return finding and finding.code


def test_a_role_with_a_limit_and_the_token_program_pays() -> None:
    found = judged(LIMIT, Program(TOKEN_PROGRAM))
    assert (code(found), found.allowance) == (None, 500)
    assert found.role is not None
    assert found.role.id == 1


# --- the wallet -----------------------------------------------------------------------------


def test_what_is_no_swig_wallet_pays_nothing() -> None:
    whole = seen(plain(1, OURS, LIMIT, ProgramAll()))
    assert whole.swig is not None
    others = (
        None,
        replace(whole.swig, owner=OTHER),
        replace(whole.swig, data=b"\x01garbage"),
    )
    for swig in others:
        found = judge(replace(whole, swig=swig), 1, PAYMENT)
        assert (code(found), found.allowance) == ("swig_account_missing", 0)


def test_a_wallet_of_version_1_pays_nothing() -> None:
    sight = seen(plain(1, OURS, LIMIT, ProgramAll()), wallet_field=bytes(8))
    assert code(judge(sight, 1, PAYMENT)) == "swig_v1"


# --- the role -------------------------------------------------------------------------------


def test_a_removed_role_pays_nothing_whoever_follows_it() -> None:
    sight = seen(plain(2, OURS, LIMIT, ProgramAll()))
    assert code(judge(sight, 1, PAYMENT)) == "swig_role_missing"


def test_a_role_of_another_key_pays_nothing_for_us() -> None:
    sight = seen(plain(1, OTHER, LIMIT, ProgramAll()))
    assert code(judge(sight, 1, PAYMENT)) == "swig_role_wrong_key"
    assert code(judge(sight, None, PAYMENT)) == "swig_role_missing"


def test_a_role_of_another_kind_of_key_pays_nothing_for_us() -> None:
    sight = seen(Given(1, bytes(Pubkey.from_string(OURS)) + b"\0", [All()], kind=3))
    assert code(judge(sight, 1, PAYMENT)) == "swig_role_wrong_key"


def test_without_an_id_the_first_of_our_roles_that_may_pay_is_taken() -> None:
    roles = (
        plain(1, OTHER, LIMIT, ProgramAll()),
        plain(2, OURS, LIMIT),
        plain(3, OURS, TokenLimit(MINT, 99), ProgramAll()),
        plain(4, OURS, LIMIT, ProgramAll()),
        plain(5, OURS, LIMIT, ProgramAll()),
    )
    taken = judge(seen(*roles), None, PAYMENT).role
    assert taken is not None
    assert taken.id == 4
    too_small = judge(seen(*roles[:3]), None, PAYMENT)
    assert (code(too_small), too_small.allowance) == ("swig_limit_too_small", 99)
    assert code(judge(seen(*roles[:2]), None, PAYMENT)) == "swig_permission_missing"


def test_only_the_session_key_of_a_role_with_sessions_pays() -> None:
    late = SLOT + 1_000_000
    session = with_session(1, OTHER, OURS, late, LIMIT, ProgramAll())
    assert code(judge(seen(session), 1, PAYMENT)) is None
    base = with_session(1, OURS, OTHER, late, LIMIT, ProgramAll())
    assert code(judge(seen(base), 1, PAYMENT)) == "swig_role_wrong_key"


@pytest.mark.parametrize(
    ("expires_at", "expected"),
    [
        (0, "swig_role_expired"),
        (SLOT - 1, "swig_role_expired"),
        (SLOT + EXPIRY_MARGIN_SLOTS, "swig_role_expired"),
        (SLOT + EXPIRY_MARGIN_SLOTS + 1, None),
    ],
)
def test_a_session_has_to_outlive_the_transaction(expires_at: int, expected: str | None) -> None:
    sight = seen(with_session(1, OTHER, OURS, expires_at, LIMIT, ProgramAll()))
    assert code(judge(sight, 1, PAYMENT)) == expected


# --- what the role may do -------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [Program(TOKEN_PROGRAM), ProgramCurated(), ProgramAll()],
    ids=["token", "curated", "all"],
)
def test_every_permission_for_the_token_program_will_do(program: Action) -> None:
    assert code(judged(program, LIMIT)) is None


@pytest.mark.parametrize(
    "actions",
    [
        pytest.param((LIMIT,), id="a limit alone"),
        pytest.param((LIMIT, Program(OTHER)), id="another program"),
        pytest.param((LIMIT, ManageAuthority()), id="roles"),
        pytest.param((Program(TOKEN_PROGRAM),), id="the program alone"),
        pytest.param((ProgramAll(), TokenLimit(OTHER_MINT, 500)), id="another mint"),
        pytest.param((ProgramAll(), OtherAction(1, bytes(8))), id="only SOL"),
        pytest.param(
            (ProgramAll(), TokenRecurringLimit(OTHER_MINT, 1, 500, 500, 0)),
            id="another mint, recurring",
        ),
    ],
)
def test_a_limit_and_a_program_are_needed(actions: tuple[Action, ...]) -> None:
    found = judged(*actions)
    assert (code(found), found.allowance) == ("swig_permission_missing", 0)


@pytest.mark.parametrize("unlimited", [All(), AllButManageAuthority()])
def test_a_role_that_may_do_everything_has_no_limit(unlimited: Action) -> None:
    found = judged(unlimited, TokenLimit(MINT, 1), TokenDestinationLimit(MINT, OTHER_SHOP, 1))
    assert (code(found), found.allowance) == (None, U64_MAX)


@pytest.mark.parametrize(
    ("actions", "allowance"),
    [
        pytest.param(
            (TokenLimit(OTHER_MINT, 7), TokenLimit(MINT, 200), TokenLimit(MINT, 900)),
            200,
            id="the first of the mint",
        ),
        pytest.param(
            (TokenRecurringLimit(MINT, 10, 900, 900, SLOT), TokenLimit(MINT, 200)),
            200,
            id="a plain limit before a recurring one",
        ),
        pytest.param(
            (
                TokenRecurringLimit(MINT, 10, 900, 300, SLOT),
                TokenRecurringLimit(MINT, 10, 900, 800, SLOT),
            ),
            300,
            id="the first recurring one",
        ),
    ],
)
def test_one_limit_counts(actions: tuple[Action, ...], allowance: int) -> None:
    found = judged(ProgramAll(), *actions)
    assert (code(found), found.allowance) == (None, allowance)


@pytest.mark.parametrize(
    ("passed", "allowance"), [(0, 5), (99, 5), (100, 5), (101, 700), (10_000, 700), (-3, 5)]
)
def test_a_window_is_over_once_more_than_its_slots_have_passed(passed: int, allowance: int) -> None:
    since = SLOT - passed
    general = judged(ProgramAll(), TokenRecurringLimit(MINT, 100, 700, 5, since))
    to_shop = TokenRecurringDestinationLimit(MINT, SHOP, 700, 100, since, 5)
    assert general.allowance == allowance
    assert judged(ProgramAll(), to_shop).allowance == allowance


def test_the_amount_may_reach_the_limit_and_not_exceed_it() -> None:
    actions = (ProgramAll(), LIMIT)
    assert code(judged(*actions, payment=replace(PAYMENT, amount=500))) is None
    above = judged(*actions, payment=replace(PAYMENT, amount=501))
    assert (code(above), above.allowance) == ("swig_limit_too_small", 500)


def test_a_destination_limit_alone_is_enough() -> None:
    found = judged(ProgramAll(), TokenDestinationLimit(MINT, SHOP, 150))
    assert (code(found), found.allowance) == (None, 150)


def test_both_limits_are_charged_so_the_smaller_one_bounds() -> None:
    to_shop = TokenDestinationLimit(MINT, SHOP, 150)
    assert judged(ProgramAll(), LIMIT, to_shop).allowance == 150
    assert judged(ProgramAll(), TokenLimit(MINT, 120), to_shop).allowance == 120
    recurring = TokenRecurringLimit(MINT, 10, 900, 130, SLOT)
    assert judged(ProgramAll(), recurring, to_shop).allowance == 130


def test_a_recurring_destination_limit_counts_before_a_plain_one() -> None:
    plainly = TokenDestinationLimit(MINT, SHOP, 150)
    recurring = TokenRecurringDestinationLimit(MINT, SHOP, 900, 10, SLOT, 140)
    assert judged(ProgramAll(), plainly, recurring).allowance == 140


def test_where_destinations_are_limited_another_one_is_not_paid() -> None:
    elsewhere = TokenDestinationLimit(MINT, OTHER_SHOP, 900)
    found = judged(ProgramAll(), LIMIT, elsewhere)
    assert (code(found), found.allowance) == ("swig_permission_missing", 0)
    of_another_mint = TokenDestinationLimit(OTHER_MINT, OTHER_SHOP, 900)
    assert code(judged(ProgramAll(), LIMIT, of_another_mint)) is None


def test_where_destinations_are_limited_an_unknown_one_is_not_promised() -> None:
    unknown = replace(PAYMENT, destination=None)
    limited = judged(ProgramAll(), LIMIT, TokenDestinationLimit(MINT, SHOP, 150), payment=unknown)
    assert (code(limited), limited.allowance) == ("swig_permission_missing", 0)
    assert judged(ProgramAll(), LIMIT, payment=unknown).allowance == 500


# --- what pays ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "source_account_missing"),
        (replace(HELD, mint=OTHER_MINT), "wrong_mint"),
        (replace(HELD, owner=ROOT), "source_owner_mismatch"),
        (replace(HELD, owner=SWIG), "source_owner_mismatch"),
        (replace(HELD, frozen=True), "source_account_frozen"),
        (replace(HELD, amount=AtomicUsdc(99)), "insufficient_funds"),
        (replace(HELD, amount=AtomicUsdc(100)), None),
    ],
)
def test_the_wallets_own_account_has_to_hold_the_amount(
    source: TokenAccount | None, expected: str | None
) -> None:
    sight = seen(plain(1, OURS, LIMIT, ProgramAll()), source=source)
    assert code(judge(sight, 1, PAYMENT)) == expected
    assert code(judge_role(sight, 1, PAYMENT)) is None


def test_a_wallet_address_without_rent_pays_nothing() -> None:
    sight = replace(seen(plain(1, OURS, LIMIT, ProgramAll())), wallet=None)
    assert code(judge(sight, 1, PAYMENT)) == "insufficient_funds"


def test_what_needs_the_buyer_is_named_before_what_may_pass_by_itself() -> None:
    frozen = replace(HELD, frozen=True, amount=AtomicUsdc(0))
    sight = seen(plain(1, OURS, TokenLimit(MINT, 0), ProgramAll()), source=frozen)
    assert code(judge(sight, 1, PAYMENT)) == "source_account_frozen"
    thawed = replace(sight, source=replace(frozen, frozen=False))
    assert code(judge(thawed, 1, PAYMENT)) == "swig_limit_too_small"
