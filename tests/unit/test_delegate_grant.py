"""What a buyer signs to let us pay out of its own account, and when it is asked nothing."""

from dataclasses import replace

import pytest
from fakes import TOKEN_PROGRAM, FakeChain, empty_account
from settlement_rig import AUTHORITY, FEE_PAYER, MINT, PAYER, RECIPIENT, SOURCE
from solders.instruction import AccountMeta, Instruction
from solders.message import MessageV0, to_bytes_versioned
from spl.token.instructions import decode_approve_checked

from service.adapters.solana.funding_delegate import DelegateFunding
from service.domain.errors import FundingSourceRefused, InvalidWallet
from service.domain.funding import GrantOrder, GrantTransaction
from service.domain.onchain import TokenAccount
from service.domain.units import AtomicUsdc
from service.local.chain import LOCALNET_GENESIS_HASH

ACCOUNT = replace(empty_account(SOURCE, owner=PAYER, mint=MINT), amount=AtomicUsdc(9))
ORDER = GrantOrder(
    buyer=PAYER,
    mint=MINT,
    decimals=6,
    token_program=TOKEN_PROGRAM,
    spend_limit=AtomicUsdc(2**64 - 1),
    fee_payer=PAYER,
)


def only_instruction(message: MessageV0) -> Instruction:
    """The one instruction, its accounts by address."""
    (compiled,) = message.instructions
    keys = message.account_keys
    metas = [AccountMeta(keys[i], message.is_signer(i), True) for i in compiled.accounts]
    return Instruction(keys[compiled.program_id_index], bytes(compiled.data), metas)


async def grant(
    order: GrantOrder = ORDER, account: TokenAccount | None = ACCOUNT, lamports: int = 5_000
) -> GrantTransaction:
    chain = FakeChain(LOCALNET_GENESIS_HASH)
    if account is not None:
        chain.write(account)
    chain.sol[PAYER] = lamports
    chain.advance(10)
    (transaction,) = await DelegateFunding(chain, AUTHORITY, TOKEN_PROGRAM).grant(order)
    return transaction


async def test_the_buyer_signs_one_approval_of_our_key_up_to_the_limit() -> None:
    granted = await grant()
    message = MessageV0.from_bytes(granted.message[1:])
    assert to_bytes_versioned(message) == granted.message
    assert (granted.type, granted.signers, granted.swig_address) == (
        "approve_delegate",
        (PAYER,),
        None,
    )
    assert not message.address_table_lookups
    approved = decode_approve_checked(only_instruction(message))
    assert str(approved.program_id) == TOKEN_PROGRAM
    assert (str(approved.source), str(approved.mint)) == (SOURCE, MINT)
    assert (str(approved.owner), str(approved.delegate)) == (PAYER, AUTHORITY)
    assert (approved.amount, approved.decimals) == (2**64 - 1, 6)
    assert str(message.account_keys[0]) == PAYER
    assert message.header.num_required_signatures == 1


async def test_a_sponsored_approval_needs_the_buyer_all_the_same() -> None:
    granted = await grant(replace(ORDER, fee_payer=FEE_PAYER), lamports=0)
    message = MessageV0.from_bytes(granted.message[1:])
    assert granted.signers == (FEE_PAYER, PAYER)
    assert str(message.account_keys[0]) == FEE_PAYER
    (instruction,) = message.instructions
    assert 0 not in instruction.accounts  # the fee payer takes part in nothing


@pytest.mark.parametrize(
    ("account", "lamports", "what"),
    [
        (None, 5_000, "send it some USDC first"),
        (replace(ACCOUNT, owner=RECIPIENT), 5_000, "belongs to"),
        (replace(ACCOUNT, frozen=True), 5_000, "frozen"),
        (ACCOUNT, 4_999, "send it about 0.001 SOL"),
    ],
)
async def test_a_buyer_that_could_not_do_it_is_told_what_to_do(
    account: TokenAccount | None, lamports: int, what: str
) -> None:
    with pytest.raises(FundingSourceRefused, match=what):
        await grant(ORDER, account, lamports)


async def test_what_is_no_address_is_no_buyer() -> None:
    with pytest.raises(InvalidWallet):
        await grant(replace(ORDER, buyer="somebody"))
