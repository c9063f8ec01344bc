"""The table of causes: every row of the specification gets its code and its class."""

from typing import Any

import pytest

from service.domain.failures import (
    FAILURES,
    Finding,
    classify,
    failed_program,
    instruction_roles,
    is_passing,
)

ROLES = instruction_roles(creates_recipient_account=False)
CREATING = instruction_roles(creates_recipient_account=True)
TRANSFER = ROLES.index("transfer")


def at_transfer(reason: Any) -> dict[str, Any]:
    return {"InstructionError": [TRANSFER, reason]}


def code_of(error: object, source: str | None = None, destination: str | None = None) -> str:
    return classify(
        error,
        ROLES,
        source=source and Finding(source, ""),
        destination=destination and Finding(destination, ""),
    )


@pytest.mark.parametrize(
    ("error", "source", "destination", "code", "failure_class"),
    [
        (at_transfer({"Custom": 1}), None, None, "insufficient_funds", "automatic"),
        (
            at_transfer({"Custom": 1}),
            "allowance_too_small",
            None,
            "allowance_too_small",
            "automatic",
        ),
        (at_transfer({"Custom": 1}), "insufficient_funds", None, "insufficient_funds", "automatic"),
        (at_transfer({"Custom": 4}), "delegate_revoked", None, "delegate_revoked", "attention"),
        (at_transfer({"Custom": 4}), None, None, "delegate_revoked", "attention"),
        (
            at_transfer({"Custom": 17}),
            "source_account_frozen",
            None,
            "source_account_frozen",
            "attention",
        ),
        (
            at_transfer({"Custom": 17}),
            None,
            "destination_account_frozen",
            "destination_account_frozen",
            "attention",
        ),
        (at_transfer({"Custom": 3}), None, None, "wrong_mint", "bug"),
        (at_transfer({"Custom": 18}), None, None, "wrong_decimals", "bug"),
        (
            at_transfer("InvalidAccountData"),
            None,
            "recipient_account_missing",
            "recipient_account_missing",
            "automatic",
        ),
        (
            at_transfer("IncorrectProgramId"),
            None,
            "recipient_account_missing",
            "recipient_account_missing",
            "automatic",
        ),
        (
            at_transfer("InvalidAccountData"),
            "source_account_missing",
            None,
            "source_account_missing",
            "attention",
        ),
        (at_transfer("InvalidAccountData"), None, None, "unknown_failure", "attention"),
        ("AccountNotFound", None, None, "fee_payer_missing", "automatic"),
        ("InsufficientFundsForFee", None, None, "fee_payer_poor", "automatic"),
        (
            {"InsufficientFundsForRent": {"account_index": 0}},
            None,
            None,
            "fee_payer_poor",
            "automatic",
        ),
        (at_transfer("ComputationalBudgetExceeded"), None, None, "compute_exceeded", "automatic"),
        (at_transfer("ProgramFailedToComplete"), None, None, "compute_exceeded", "automatic"),
        ("SignatureFailure", None, None, "transaction_refused", "attention"),
        ("SomethingNew", None, None, "unknown_failure", "attention"),
        (at_transfer({"Custom": 99}), "insufficient_funds", None, "unknown_failure", "attention"),
        ({"InstructionError": [0, {"Custom": 1}]}, None, None, "unknown_failure", "attention"),
    ],
)
def test_every_error_has_its_code_and_class(
    error: object, source: str | None, destination: str | None, code: str, failure_class: str
) -> None:
    assert code_of(error, source, destination) == code
    assert FAILURES[code].failure_class == failure_class


def test_a_poor_fee_payer_while_the_account_is_created_is_told_from_a_poor_payer() -> None:
    create = CREATING.index("create_account")
    error = {"InstructionError": [create, {"Custom": 1}]}
    assert classify(error, CREATING, source=None, destination=None) == "fee_payer_poor"
    assert CREATING.index("transfer") == TRANSFER + 1


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        7,
        [],
        {},
        "",
        {"InstructionError": None},
        {"InstructionError": [99, "X"]},
        {"InstructionError": [-1, "X"]},
        {"InstructionError": ["2", {"Custom": 1}]},
        {"InstructionError": [TRANSFER, {"Custom": "1"}]},
        {"InstructionError": [TRANSFER, None]},
        {"A": 1, "B": 2},
    ],
)
def test_an_error_of_any_form_is_classified_as_unknown(garbage: object) -> None:
    assert code_of(garbage) == "unknown_failure"
    assert not is_passing(garbage)


@pytest.mark.parametrize(
    "error",
    [
        "BlockhashNotFound",
        "AlreadyProcessed",
        "AccountInUse",
        "WouldExceedMaxBlockCostLimit",
        "WouldExceedMaxAccountCostLimit",
    ],
)
def test_what_says_nothing_lasting_is_passing(error: str) -> None:
    assert is_passing(error)


def test_lasting_errors_are_not_passing() -> None:
    assert not is_passing("AccountNotFound")
    assert not is_passing(at_transfer({"Custom": 1}))


def test_every_row_says_what_it_means_and_what_to_do() -> None:
    for code, kind in FAILURES.items():
        assert kind.code == code
        assert kind.meaning.endswith(".")
        assert kind.remedy.endswith(".")


def test_the_codes_of_the_contract_are_all_there() -> None:
    contract = """recipient_account_missing delegate_revoked allowance_too_small insufficient_funds
        source_account_missing source_account_frozen destination_account_frozen fee_payer_poor
        fee_payer_missing blockhash_expired compute_exceeded wrong_mint wrong_decimals
        transaction_refused unknown_failure"""
    assert set(contract.split()) <= set(FAILURES)


SWIG = "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB"
TOKEN = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"


def refused_by(*programs: str) -> tuple[str, ...]:
    """The log lines of programs that failed, the innermost first."""
    return (
        f"Program {SWIG} invoke [1]",
        f"Program {TOKEN} invoke [2]",
        "Program log: Program nobody failed: a message may say anything",
        *(f"Program {program} failed: custom program error: 0x1" for program in programs),
    )


@pytest.mark.parametrize(
    ("reason", "programs", "code"),
    [
        ({"Custom": 1}, (TOKEN, SWIG), "insufficient_funds"),
        ({"Custom": 17}, (TOKEN, SWIG), "source_account_frozen"),
        ({"Custom": 1}, (SWIG,), "swig_account_missing"),
        ({"Custom": 12}, (SWIG,), "swig_role_missing"),
        ({"Custom": 3005}, (SWIG,), "swig_role_wrong_key"),
        ({"Custom": 3006}, (SWIG,), "swig_permission_missing"),
        ({"Custom": 3011}, (SWIG,), "swig_limit_too_small"),
        ({"Custom": 3031}, (SWIG,), "swig_limit_too_small"),
        ({"Custom": 3014}, (SWIG,), "swig_role_expired"),
        ({"Custom": 47}, (SWIG,), "swig_v1"),
        ("InsufficientFunds", (SWIG,), "swig_limit_too_small"),
        ("ComputationalBudgetExceeded", (SWIG,), "compute_exceeded"),
        ({"Custom": 4711}, (SWIG,), "unknown_failure"),
    ],
)
def test_an_error_is_the_program_s_that_failed_first(
    reason: Any, programs: tuple[str, ...], code: str
) -> None:
    """The wallet passes on what the token program said, and has the same numbers for itself."""
    by_wallet = failed_program(refused_by(*programs)) != TOKEN
    found = classify(at_transfer(reason), ROLES, source=None, destination=None, by_wallet=by_wallet)
    assert found == code


def test_logs_without_a_failure_name_no_program() -> None:
    assert failed_program(refused_by()) is None
