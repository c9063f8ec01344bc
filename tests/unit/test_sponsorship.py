"""What our fee payer signs for strangers: the honest charge, and none of its many relatives.

Every case is a real transaction in wire bytes, read by the real parser.
"""

from dataclasses import replace
from typing import Any

import pytest
from charge_rig import (
    AMOUNT,
    BUYER,
    CLAIM,
    DESTINATION,
    FEE_PAYER,
    MEMO,
    MINT,
    PAYER,
    POLICY,
    RECIPIENT,
    SELLER,
    SOURCE,
    SPONSOR,
    ata,
    charge,
    create,
    key,
    keypair,
    memo,
    pay,
    token,
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
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.system_program import (
    AdvanceNonceAccountParams,
    TransferParams,
    advance_nonce_account,
    transfer,
)
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.instructions import (
    create_idempotent_associated_token_account,
)

from service.adapters.solana.parsing import parse_transaction
from service.domain.errors import SponsorshipRefused
from service.domain.refusals import REFUSALS
from service.domain.sponsorship import (
    SponsoredTransfer,
    SponsorPolicy,
    TransferClaim,
    check_sponsored,
)

THIEF = str(keypair("thief").pubkey())
OTHER_MINT = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
TOKEN_2022 = str(TOKEN_2022_PROGRAM_ID)
APPROVE = 4
ONE = (1).to_bytes(8, "little")


def judged(
    raw: bytes, claim: TransferClaim = CLAIM, policy: SponsorPolicy = POLICY
) -> SponsoredTransfer:
    return check_sponsored(parse_transaction(raw), claim, policy)


def refused(
    raw: bytes, claim: TransferClaim = CLAIM, policy: SponsorPolicy = POLICY
) -> tuple[str, str]:
    with pytest.raises(SponsorshipRefused) as refusal:
        judged(raw, claim, policy)
    assert refusal.value.reason in REFUSALS
    return refusal.value.reason, refusal.value.detail


@pytest.mark.parametrize("version", ["v0", "legacy"])
def test_the_references_charge_is_sponsored(version: str) -> None:
    assert judged(wire(version=version)) == SponsoredTransfer(
        payer=PAYER,
        recipient=RECIPIENT,
        source=SOURCE,
        destination=DESTINATION,
        mint=MINT,
        decimals=6,
        amount=AMOUNT,
        memo=MEMO.decode(),
        creates_recipient_account=False,
        fee=10_001,  # two signatures, 50,000 units at one micro-lamport
    )


def test_a_transfer_alone_is_sponsored() -> None:
    found = judged(wire([pay()]))
    assert (found.memo, found.fee) == (None, 10_000)


def test_our_own_place_may_hold_any_signature() -> None:
    """The payment is the message: a complete transaction that is sent again is the same payment."""
    assert judged(wire(signers=[BUYER, SPONSOR])) == judged(wire())


def test_the_payer_may_create_the_recipients_account_at_its_own_cost() -> None:
    found = judged(wire([create(), *charge()]))
    assert found.creates_recipient_account
    assert refused(wire([create(), *charge()]), policy=replace(POLICY, account_creation=False))


def test_a_memo_may_name_the_payer_and_be_any_text() -> None:
    assert judged(wire([pay(), memo("é\u2028".encode(), PAYER)])).memo == "é\u2028"


# --- what would use the fee payer's signature -----------------------------------------------

FEE_PAYERS_TOKENS = ata(FEE_PAYER)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([pay(authority=FEE_PAYER)], id="as the transfer's authority"),
        pytest.param([pay(), memo(b"signed", FEE_PAYER)], id="as the memo's signer"),
        pytest.param([create(payer=FEE_PAYER), pay()], id="as the payer of an account's rent"),
        pytest.param([create(owner=FEE_PAYER), pay()], id="as the owner of an account"),
        pytest.param(
            [
                pay(),
                transfer(
                    TransferParams(from_pubkey=key(FEE_PAYER), to_pubkey=key(THIEF), lamports=1)
                ),
            ],
            id="as the source of SOL",
        ),
        pytest.param(
            [pay(), token(APPROVE, SOURCE, THIEF, signer=FEE_PAYER, rest=ONE)],
            id="as the owner who approves",
        ),
        pytest.param(
            [pay(), token(APPROVE, SOURCE, FEE_PAYER, rest=ONE)], id="as the one who is approved"
        ),
    ],
)
def test_a_transaction_that_names_the_fee_payer_is_refused(steps: list[Instruction]) -> None:
    assert refused(wire(steps))[0] == "policy:fee_payer_not_isolated"


def test_the_fee_payers_tokens_are_not_a_source() -> None:
    """A delegation the fee payer once gave would let its owner spend them here."""
    raw = wire(charge(transfer=pay(source=FEE_PAYERS_TOKENS)))
    assert refused(raw)[0] == "policy:source_not_payers"


def test_another_fee_payer_is_refused() -> None:
    code, detail = refused(wire(fee_payer=PAYER))
    assert code == "policy:fee_payer_mismatch"
    assert FEE_PAYER in detail


# --- what else a transaction may hide -------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(
            transfer(TransferParams(from_pubkey=key(PAYER), to_pubkey=key(THIEF), lamports=1)),
            id="a transfer of SOL",
        ),
        pytest.param(
            advance_nonce_account(
                AdvanceNonceAccountParams(nonce_pubkey=key(THIEF), authorized_pubkey=key(PAYER))
            ),
            id="a durable nonce, which would never expire",
        ),
        pytest.param(Instruction(key(THIEF), b"", []), id="an unknown program"),
        pytest.param(pay(program=TOKEN_2022), id="Token-2022"),
    ],
)
def test_a_program_that_is_not_on_the_list_is_refused(step: Instruction) -> None:
    assert refused(wire([step, *charge()]))[0] == "policy:program_not_allowed"
    assert refused(wire([*charge(), step]))[0] == "policy:program_not_allowed"


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(token(3, SOURCE, DESTINATION, rest=ONE), id="Transfer"),
        pytest.param(token(APPROVE, SOURCE, THIEF, rest=ONE), id="Approve"),
        pytest.param(token(5, SOURCE), id="Revoke"),
        pytest.param(token(6, SOURCE, rest=b"\x02\x01" + bytes(32)), id="SetAuthority"),
        pytest.param(token(8, SOURCE, MINT, rest=ONE), id="Burn"),
        pytest.param(token(9, SOURCE, THIEF), id="CloseAccount"),
        pytest.param(token(13, SOURCE, MINT, THIEF, rest=ONE + b"\x06"), id="ApproveChecked"),
        pytest.param(Instruction(TOKEN_PROGRAM_ID, b"", []), id="no data"),
    ],
)
def test_the_token_program_does_nothing_but_the_transfer(step: Instruction) -> None:
    for steps in ([step, *charge()], [*charge(), step], [step]):
        assert refused(wire(steps))[0] == "policy:instruction_not_allowed"


@pytest.mark.parametrize(
    "second",
    [pay(), pay(destination=ata(THIEF)), pay(source=ata(RECIPIENT), authority=RECIPIENT)],
    ids=["the same", "to another", "back"],
)
def test_two_transfers_are_refused(second: Instruction) -> None:
    raw = wire([pay(), second], signers=[BUYER, SELLER])
    assert refused(raw)[0] == "policy:multiple_transfers"


def test_a_transaction_without_a_transfer_is_refused() -> None:
    assert refused(wire([memo(b"only words", PAYER)]))[0] == "no_transfer_instruction"


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((lambda data: data + b"\x00", 0), id="a byte too much"),
        pytest.param((lambda data: data[:-1], 0), id="a byte too few"),
        pytest.param((lambda data: data, 1), id="a further account, as of a multisig owner"),
    ],
)
def test_a_transfer_of_another_form_is_refused(shape: tuple[Any, int]) -> None:
    change, extra = shape
    good = pay()
    more = [AccountMeta(key(THIEF), is_signer=False, is_writable=False)] * extra
    step = Instruction(good.program_id, change(bytes(good.data)), [*good.accounts, *more])
    assert refused(wire([step]))[0] == "policy:instruction_not_allowed"


# --- what was claimed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (pay(amount=AMOUNT - 1), "amount_mismatch"),
        (pay(amount=AMOUNT + 1), "amount_mismatch"),
        (pay(destination=ata(THIEF)), "recipient_mismatch"),
        (pay(destination=RECIPIENT), "recipient_mismatch"),
        (pay(decimals=5), "asset_mismatch"),
        (pay(mint=OTHER_MINT), "asset_mismatch"),
        (pay(mint=OTHER_MINT, source=ata(PAYER, OTHER_MINT)), "asset_mismatch"),
    ],
)
def test_the_transfer_must_be_what_was_claimed(step: Instruction, code: str) -> None:
    assert refused(wire(charge(transfer=step)))[0] == code


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"recipient": THIEF}, "recipient_mismatch"),
        ({"amount": AMOUNT - 1}, "amount_mismatch"),
        ({"mint": OTHER_MINT}, "asset_mismatch"),
    ],
)
def test_another_claim_is_refused(changed: dict[str, Any], code: str) -> None:
    assert refused(wire(), replace(CLAIM, **changed))[0] == code


def test_nothing_is_not_an_amount() -> None:
    raw = wire(charge(transfer=pay(amount=0)))
    assert refused(raw, replace(CLAIM, amount=0))[0] == "amount_mismatch"  # type: ignore[arg-type]


def test_nobody_pays_itself() -> None:
    raw = wire(charge(transfer=pay(destination=SOURCE)))
    assert refused(raw, replace(CLAIM, recipient=PAYER))[0] == "policy:self_payment"


def test_a_source_that_is_not_the_payers_own_is_refused() -> None:
    raw = wire(charge(transfer=pay(source=ata(THIEF))))
    assert refused(raw)[0] == "policy:source_not_payers"


# --- signatures -----------------------------------------------------------------------------


def test_the_payers_signature_must_be_there_and_hold() -> None:
    assert refused(wire(signers=[]))[0] == "missing_signature"
    raw = bytearray(wire())
    raw[1 + 64] ^= 1
    assert refused(bytes(raw))[0] == "invalid_signature"


@pytest.mark.parametrize("signers", [[BUYER], [BUYER, keypair("thief")]])
def test_nobody_else_signs(signers: list[Keypair]) -> None:
    raw = wire([pay(), memo(b"note", THIEF)], signers=signers)
    assert refused(raw)[0] == "policy:unexpected_signer"


# --- fees -----------------------------------------------------------------------------------


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


def test_a_payer_is_whoever_the_transfer_says() -> None:
    buyer = keypair("another")
    address = str(buyer.pubkey())
    raw = wire(charge(transfer=pay(source=ata(address), authority=address)), signers=[buyer])
    assert judged(raw).payer == address
