"""The bytes of a settlement: exactly one payment, exactly the order, signed by exactly two keys."""

from dataclasses import replace

import pytest
from construct import FormatFieldError
from fakes import TOKEN_PROGRAM
from settlement_rig import (
    AMOUNT,
    AUTHORITY,
    DESTINATION,
    FEE_PAYER,
    MINT,
    ORDER,
    PAYER,
    SETTLEMENT_ID,
    SOURCE,
    keypair,
)
from solders.hash import Hash
from solders.message import to_bytes_versioned
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from spl.token.constants import (
    ASSOCIATED_TOKEN_PROGRAM_ID,
    TOKEN_2022_PROGRAM_ID,
    TOKEN_PROGRAM_ID,
)
from spl.token.instructions import decode_transfer_checked

from service.adapters.solana.transfer import (
    associated_token_address,
    build,
    transaction_memos,
    transfer_instruction,
)
from service.domain.failures import instruction_roles
from service.domain.onchain import TransferOrder, UnsignedTransaction
from service.domain.settlement_plan import fee_of

BLOCKHASH = str(Hash.hash(b"a block"))
PROGRAMS = {
    "compute_budget": "ComputeBudget111111111111111111111111111111",
    "create_account": str(ASSOCIATED_TOKEN_PROGRAM_ID),
    "transfer": str(TOKEN_PROGRAM_ID),
    "memo": "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr",
}


def unsigned(order: TransferOrder = ORDER) -> UnsignedTransaction:
    return build(order, transfer_instruction(order), BLOCKHASH)


def signed(order: TransferOrder = ORDER) -> VersionedTransaction:
    transaction = unsigned(order)
    signatures = {
        str(key.pubkey()): bytes(key.sign_message(transaction.message))
        for key in (keypair("authority"), keypair("fee payer"))
    }
    return VersionedTransaction.from_bytes(transaction.signed(signatures))


def programs(transaction: VersionedTransaction) -> list[str]:
    keys = transaction.message.account_keys
    return [str(keys[step.program_id_index]) for step in transaction.message.instructions]


@pytest.mark.parametrize("create", [False, True])
def test_the_instructions_stand_in_the_order_by_which_errors_are_read(create: bool) -> None:
    order = replace(ORDER, create_recipient_account=create)
    roles = instruction_roles(creates_recipient_account=create)
    assert programs(signed(order)) == [PROGRAMS[role] for role in roles]


@pytest.mark.parametrize("amount", [1, AMOUNT, 2**53 + 1, 2**64 - 1])
def test_exactly_one_transfer_of_exactly_the_amount_signed_by_the_authority(amount: int) -> None:
    transfer = decode_transfer_checked(transfer_instruction(replace(ORDER, amount=amount)))
    assert (transfer.amount, transfer.decimals) == (amount, 6)
    addresses = (transfer.source, transfer.mint, transfer.dest, transfer.owner)
    assert tuple(map(str, addresses)) == (SOURCE, MINT, DESTINATION, AUTHORITY)
    assert programs(signed()).count(TOKEN_PROGRAM) == 1


def test_an_amount_that_no_token_account_can_hold_is_no_transaction() -> None:
    with pytest.raises(FormatFieldError):
        transfer_instruction(replace(ORDER, amount=2**64))


def test_the_memo_is_the_settlement_id() -> None:
    assert transaction_memos(signed()) == (SETTLEMENT_ID,)


def test_the_compute_budget_is_the_orders() -> None:
    limit, price = (bytes(step.data) for step in signed().message.instructions[:2])
    assert limit == b"\x02" + (100_000).to_bytes(4, "little")
    assert price == b"\x03" + (10_000).to_bytes(8, "little")


def test_the_wire_bytes_are_what_the_cluster_reads_and_every_signature_verifies() -> None:
    transaction = signed()
    assert to_bytes_versioned(transaction.message) == unsigned().message
    assert unsigned().signers == (FEE_PAYER, AUTHORITY)
    assert transaction.verify_with_results() == [True, True]


def test_the_fee_payer_may_be_the_authority_and_then_signs_once() -> None:
    order = replace(ORDER, fee_payer=AUTHORITY)
    assert unsigned(order).signers == (AUTHORITY,)
    assert signed(order).verify_with_results() == [True]
    assert fee_of(ORDER) - fee_of(order) == 5_000


def test_a_missing_signature_makes_no_transaction() -> None:
    with pytest.raises(KeyError):
        unsigned().signed({FEE_PAYER: bytes(64)})


def test_one_order_and_blockhash_have_one_message() -> None:
    assert unsigned() == unsigned()
    assert unsigned() != unsigned(replace(ORDER, settlement_id="stl_other"))


def test_the_fee_is_the_signatures_and_the_priority_fee_rounded_up() -> None:
    assert fee_of(ORDER) == 10_000 + 1_000
    assert fee_of(replace(ORDER, compute_unit_limit=1, compute_unit_price=1)) == 10_001
    assert fee_of(replace(ORDER, compute_unit_price=0)) == 10_000


def test_the_transaction_fits_a_packet_with_everything_in_it() -> None:
    order = replace(ORDER, create_recipient_account=True, settlement_id="stl_" + "f" * 32)
    assert len(bytes(signed(order))) <= 1_232


def test_an_associated_address_depends_on_owner_mint_and_program() -> None:
    by_2022 = associated_token_address(PAYER, MINT, str(TOKEN_2022_PROGRAM_ID))
    assert associated_token_address(PAYER, MINT, TOKEN_PROGRAM) != by_2022
    seeds = [bytes(Pubkey.from_string(a)) for a in (PAYER, TOKEN_PROGRAM, MINT)]
    expected, _ = Pubkey.find_program_address(seeds, ASSOCIATED_TOKEN_PROGRAM_ID)
    assert associated_token_address(PAYER, MINT, TOKEN_PROGRAM) == str(expected)


@pytest.mark.parametrize("bad", ["", "not base58!", "1" * 31, TOKEN_PROGRAM + "1"])
def test_what_is_no_address_is_a_value_error(bad: str) -> None:
    with pytest.raises(ValueError):
        associated_token_address(bad, MINT, TOKEN_PROGRAM)
