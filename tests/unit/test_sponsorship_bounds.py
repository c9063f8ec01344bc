"""What a sponsored charge may cost the fee payer, and what may stand beside its transfer.

Every case is a real transaction in wire bytes, read by the real parser.
"""

from dataclasses import replace

import pytest
from charge_rig import (
    BUYER,
    DESTINATION,
    FEE_PAYER,
    MINT,
    PAYER,
    POLICY,
    RECIPIENT,
    charge,
    create,
    key,
    keypair,
    memo,
    pay,
    wire,
)
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.compute_budget import (
    request_heap_frame,
    set_compute_unit_limit,
    set_compute_unit_price,
    set_loaded_accounts_data_size_limit,
)
from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import MessageV0, to_bytes_versioned
from spl.token.constants import TOKEN_2022_PROGRAM_ID
from spl.token.instructions import create_idempotent_associated_token_account
from sponsorship_rig import OTHER_MINT, THIEF, judged, refused


def test_the_payer_may_create_the_recipients_account_at_its_own_cost() -> None:
    found = judged(wire([create(), *charge()]))
    assert found.creates_recipient_account
    assert refused(wire([create(), *charge()]), policy=replace(POLICY, account_creation=False))


def test_a_memo_may_name_the_payer_and_be_any_text() -> None:
    assert judged(wire([pay(), memo("é\u2028".encode(), PAYER)])).memo == "é\u2028"


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([set_compute_unit_limit(1)] * 2, "policy:compute_budget"),
        ([set_compute_unit_price(1)] * 2, "policy:compute_budget"),
        ([request_heap_frame(64 * 1024)], "policy:compute_budget"),
        ([set_loaded_accounts_data_size_limit(64 * 1024)], "policy:compute_budget"),
        ([Instruction(set_compute_unit_limit(1).program_id, b"", [])], "policy:compute_budget"),
        (
            [Instruction(set_compute_unit_limit(1).program_id, b"\x02\x01\x00", [])],
            "policy:compute_budget",
        ),
        ([set_compute_unit_limit(400_001)], "policy:compute_unit_limit"),
        ([set_compute_unit_price(5_000_001)], "policy:compute_unit_price"),
        (
            [set_compute_unit_limit(20_001), set_compute_unit_price(5_000_000)],
            "policy:fee_too_high",
        ),
        ([set_compute_unit_price(500_001)], "policy:fee_too_high"),
    ],
)
def test_what_the_fee_payer_may_lose_is_bounded(steps: list[Instruction], code: str) -> None:
    assert refused(wire([*steps, pay()]))[0] == code


def test_the_dearest_transaction_that_is_sponsored_costs_its_bound() -> None:
    dearest = [set_compute_unit_limit(20_000), set_compute_unit_price(5_000_000), pay()]
    assert judged(wire(dearest)).fee == 10_000 + POLICY.priority_fee_max
    # Without a limit each instruction counts as 200,000 units.
    assert judged(wire([set_compute_unit_price(500_000), pay()])).fee == 110_000


@pytest.mark.parametrize(
    "steps",
    [
        [pay(), memo(b"x" * 257)],
        [pay(), memo(b"one"), memo(b"two")],
        [pay(), memo(b"\xff\xfe")],
        [pay(), Instruction(memo().program_id, b"", pay().accounts[:1])],
    ],
    ids=["too long", "two", "not text", "of another account"],
)
def test_other_memos_are_refused(steps: list[Instruction]) -> None:
    assert refused(wire(steps))[0] == "policy:memo"


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(create(owner=THIEF), id="of another wallet"),
        pytest.param(create(mint=OTHER_MINT), id="of another mint"),
        pytest.param(
            Instruction(create().program_id, b"\x00", create().accounts), id="unless it exists"
        ),
        pytest.param(
            create_idempotent_associated_token_account(
                key(PAYER), key(RECIPIENT), key(MINT), TOKEN_2022_PROGRAM_ID
            ),
            id="of Token-2022",
        ),
    ],
)
def test_no_other_account_is_created(step: Instruction) -> None:
    assert refused(wire([step, pay()]))[0] == "policy:account_creation"


def test_nobody_else_pays_for_an_account() -> None:
    raw = wire([create(payer=THIEF), pay()], signers=[BUYER, keypair("thief")])
    assert refused(raw)[0] == "policy:unexpected_signer"


def test_an_account_is_created_once() -> None:
    assert refused(wire([create(), create(), pay()]))[0] == "policy:account_creation"


def test_many_instructions_are_refused() -> None:
    steps = [create(), *charge(), memo(b"1")]
    assert refused(wire(steps))[0] == "policy:memo"  # six: judged, and the second memo is too many
    assert refused(wire([*steps, memo(b"2")]))[0] == "policy:too_many_instructions"


def test_lookup_tables_are_refused() -> None:
    """What an index into a table means could change after we looked."""
    table = AddressLookupTableAccount(key(THIEF), [key(DESTINATION)])
    message = MessageV0.try_compile(key(FEE_PAYER), charge(), [table], Hash.default())
    content = to_bytes_versioned(message)
    raw = bytes([2]) + bytes(64) + bytes(BUYER.sign_message(content)) + content
    assert refused(raw)[0] == "policy:lookup_table"
