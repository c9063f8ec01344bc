"""The settlement transaction: from an order to bytes. Pure functions over solders.

Instructions, in order: compute unit limit, compute unit price, the recipient's token account when
it is to be created, the payment, a memo with the settlement id. `failures.instruction_roles` maps
the index of a failing instruction back to its role, so the order here is part of that table.
"""

from collections.abc import Sequence

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from spl.memo.constants import MEMO_PROGRAM_ID
from spl.token.instructions import (
    create_idempotent_associated_token_account,
    get_associated_token_address,
    transfer_checked,
)
from spl.token.models import TransferCheckedParams

from service.domain.onchain import TransferOrder, UnsignedTransaction


def associated_token_address(owner: str, mint: str, token_program: str) -> str:
    """The address of the owner's associated token account.

    Raises:
        ValueError: an argument is no address, or the program is no SPL token program.
    """
    address = get_associated_token_address(
        Pubkey.from_string(owner), Pubkey.from_string(mint), Pubkey.from_string(token_program)
    )
    return str(address)


def transfer_instruction(order: TransferOrder) -> Instruction:
    """One TransferChecked of exactly the amount, signed by the authority as delegate."""
    return transfer_checked(
        TransferCheckedParams(
            program_id=Pubkey.from_string(order.token_program),
            source=Pubkey.from_string(order.source),
            mint=Pubkey.from_string(order.mint),
            dest=Pubkey.from_string(order.destination),
            owner=Pubkey.from_string(order.authority),
            amount=order.amount,
            decimals=order.decimals,
        )
    )


def build(order: TransferOrder, payment: Instruction, blockhash: str) -> UnsignedTransaction:
    """The v0 message that carries out the order; `payment` is the instruction that moves money.

    Raises:
        ValueError: an address or the blockhash is not base58 of 32 bytes.
    """
    fee_payer = Pubkey.from_string(order.fee_payer)
    instructions = [
        set_compute_unit_limit(order.compute_unit_limit),
        set_compute_unit_price(order.compute_unit_price),
    ]
    if order.create_recipient_account:
        create = create_idempotent_associated_token_account(
            fee_payer,
            Pubkey.from_string(order.recipient),
            Pubkey.from_string(order.mint),
            Pubkey.from_string(order.token_program),
        )
        instructions.append(create)
    memo = Instruction(MEMO_PROGRAM_ID, order.settlement_id.encode(), [])
    return compiled([*instructions, payment, memo], order.fee_payer, blockhash)


def compiled(
    instructions: Sequence[Instruction], fee_payer: str, blockhash: str
) -> UnsignedTransaction:
    """The v0 message of the instructions, and who has to sign it, in order.

    Raises:
        ValueError: the fee payer or the blockhash is not base58 of 32 bytes.
    """
    message = MessageV0.try_compile(
        Pubkey.from_string(fee_payer), list(instructions), [], Hash.from_string(blockhash)
    )
    signers = message.account_keys[: message.header.num_required_signatures]
    return UnsignedTransaction(to_bytes_versioned(message), tuple(map(str, signers)))


def transaction_memos(transaction: VersionedTransaction) -> tuple[str, ...]:
    """The memos that a transaction carries, as text; undecodable bytes are replaced."""
    keys = transaction.message.account_keys
    return tuple(
        bytes(instruction.data).decode(errors="replace")
        for instruction in transaction.message.instructions
        if instruction.program_id_index < len(keys)
        and keys[instruction.program_id_index] == MEMO_PROGRAM_ID
    )
