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
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.system_program import (
    AdvanceNonceAccountParams,
    TransferParams,
    advance_nonce_account,
    transfer,
)
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from sponsorship_rig import OTHER_MINT, THIEF, judged, refused

from service.domain.sponsorship import SponsoredTransfer

TOKEN_2022 = str(TOKEN_2022_PROGRAM_ID)
APPROVE = 4
ONE = (1).to_bytes(8, "little")


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


def test_a_payer_is_whoever_the_transfer_says() -> None:
    buyer = keypair("another")
    address = str(buyer.pubkey())
    raw = wire(charge(transfer=pay(source=ata(address), authority=address)), signers=[buyer])
    assert judged(raw).payer == address
