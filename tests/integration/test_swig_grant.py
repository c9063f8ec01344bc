"""What a buyer signs so that its Swig wallet pays: exactly what is missing, in this order."""

from dataclasses import replace

import pytest
from fakes import TOKEN_PROGRAM
from settlement_rig import AUTHORITY, FEE_PAYER, MINT, SOL
from solders.instruction import Instruction
from solders.pubkey import Pubkey
from spl.token.instructions import create_idempotent_associated_token_account

from service.adapters.solana.funding_swig import buyer_swig_ids
from service.adapters.solana.swig_actions import (
    All,
    ManageAuthority,
    Program,
    ProgramAll,
    TokenLimit,
)
from service.adapters.solana.swig_instructions import (
    add_authority_v1,
    create_v1,
    swig_pda,
    update_authority_v1,
    wallet_pda,
)
from service.domain.errors import FundingSourceRefused
from service.domain.funding import GrantOrder, GrantTransaction
from service.domain.units import AtomicUsdc
from tests.integration.swig_world import (
    BUYER,
    GRANTED,
    LIMIT,
    OURS,
    STRANGER,
    SwigWorld,
    steps_of,
    swigs_fixture,  # noqa: F401  a fixture
)
from tests.swig_cases import SWIG_PROGRAM, plain

BUYER_KEY = Pubkey.from_string(BUYER)
GRANT = GrantOrder(
    buyer=BUYER,
    mint=MINT,
    decimals=6,
    token_program=TOKEN_PROGRAM,
    spend_limit=AtomicUsdc(LIMIT),
    fee_payer=BUYER,
)
OWN_ID = buyer_swig_ids(BUYER)[0]
OWN = swig_pda(OWN_ID)[0]
OWN_WALLET = wallet_pda(OWN)[0]
TOKEN_ACCOUNT = create_idempotent_associated_token_account(
    BUYER_KEY, OWN_WALLET, Pubkey.from_string(MINT), Pubkey.from_string(TOKEN_PROGRAM)
)


async def load_program(swigs: SwigWorld) -> None:
    """Something at the program's address."""
    await swigs.world.rpc("surfnet_setAccount", SWIG_PROGRAM, {"lamports": SOL})


def asks(transaction: GrantTransaction, *steps: Instruction) -> None:
    """The transaction is about the buyer's wallet, and says exactly this."""
    assert transaction.swig_address == str(OWN)
    found = steps_of(transaction.message)
    assert [(s.program_id, bytes(s.data)) for s in found] == [
        (s.program_id, bytes(s.data)) for s in steps
    ]
    assert [[m.pubkey for m in s.accounts] for s in found] == [
        [m.pubkey for m in s.accounts] for s in steps
    ]


def test_a_buyers_wallet_keeps_its_address_for_ever() -> None:
    """Buyers hold money there, and only these ids find it again."""
    first, second, *_ = buyer_swig_ids("8kVh1qoaujsfapkWEaSpogdDEWjRWubA4XptYrEB5768")
    assert first.hex() == "ea846c9697024a346219b4993b48dede943174c275856f9bf9e4af572805fe96"
    assert second.hex() == "e20b4eb8e81b631d10deac85347ad3fe1d7cb8a44e2a307885837a02804181ab"
    assert str(swig_pda(first)[0]) == "6uxQ87jtdmTjutTjSnUyoLkZ2FoMz764cFzQ1jVn6q9W"


async def test_a_buyer_without_a_wallet_signs_its_creation_and_then_the_role(
    swigs: SwigWorld,
) -> None:
    await load_program(swigs)
    create, add = await swigs.funding.grant(GRANT)
    assert [create.type, add.type] == ["create_swig", "add_role"]
    asks(create, create_v1(OWN_ID, BUYER_KEY, BUYER_KEY, [All()]))
    role = add_authority_v1(OWN, BUYER_KEY, (0, BUYER_KEY), OURS, GRANTED)
    asks(add, TOKEN_ACCOUNT, role)
    assert create.signers == add.signers == (BUYER,)
    latest = await swigs.world.chain.latest_blockhash()
    assert create.last_valid_block_height == latest.last_valid_block_height


async def test_a_sponsor_pays_the_fees_and_never_the_rent(swigs: SwigWorld) -> None:
    await load_program(swigs)
    for transaction in await swigs.funding.grant(replace(GRANT, fee_payer=FEE_PAYER)):
        assert transaction.signers == (FEE_PAYER, BUYER)
        sponsor = Pubkey.from_string(FEE_PAYER)
        named = [m.pubkey for step in steps_of(transaction.message) for m in step.accounts]
        assert sponsor not in named


async def test_a_wallet_without_our_role_gets_it_from_a_role_of_the_buyer(
    swigs: SwigWorld,
) -> None:
    limited = plain(0, BUYER, TokenLimit(MINT, 1), ProgramAll())
    await swigs.write(OWN, limited, plain(3, BUYER, ManageAuthority()))
    await swigs.world.set_tokens(str(OWN_WALLET), amount=0)
    (add,) = await swigs.funding.grant(GRANT)
    assert add.type == "add_role"
    asks(add, add_authority_v1(OWN, BUYER_KEY, (3, BUYER_KEY), OURS, GRANTED))


async def test_another_limit_changes_the_role_which_keeps_its_id(swigs: SwigWorld) -> None:
    used = plain(6, AUTHORITY, TokenLimit(MINT, 1), Program(TOKEN_PROGRAM))
    await swigs.write(OWN, plain(0, BUYER, All()), used)
    await swigs.world.set_tokens(str(OWN_WALLET), amount=0)
    (change,) = await swigs.funding.grant(GRANT)
    asks(change, update_authority_v1(OWN, BUYER_KEY, (0, BUYER_KEY), 6, GRANTED))


async def test_a_buyer_that_granted_all_signs_nothing(swigs: SwigWorld) -> None:
    await swigs.write(OWN, plain(0, BUYER, All()), plain(1, AUTHORITY, *GRANTED))
    await swigs.world.set_tokens(str(OWN_WALLET), amount=0)
    assert await swigs.funding.grant(GRANT) == []


async def test_a_missing_token_account_is_created_beside_the_role(swigs: SwigWorld) -> None:
    await swigs.write(OWN, plain(0, BUYER, All()), plain(1, AUTHORITY, *GRANTED))
    (account,) = await swigs.funding.grant(GRANT)
    asks(account, TOKEN_ACCOUNT)


async def test_a_grant_that_cannot_succeed_is_refused_with_what_to_do(swigs: SwigWorld) -> None:
    with pytest.raises(FundingSourceRefused, match=r"not on this cluster.*--program"):
        await swigs.funding.grant(GRANT)
    await load_program(swigs)
    with pytest.raises(FundingSourceRefused, match=r"holds no SOL.*send it"):
        await swigs.funding.grant(replace(GRANT, buyer=STRANGER))
    await swigs.write(OWN, plain(0, BUYER, All()), wallet_field=bytes(8))
    with pytest.raises(FundingSourceRefused, match="Migrate, then TransferAssets"):
        await swigs.funding.grant(GRANT)
    await swigs.write(OWN, plain(0, BUYER, ProgramAll()))
    with pytest.raises(FundingSourceRefused, match="no longer manages"):
        await swigs.funding.grant(GRANT)
    for taken in buyer_swig_ids(BUYER):
        await swigs.write(swig_pda(taken)[0], plain(0, STRANGER, All()))
    with pytest.raises(FundingSourceRefused, match="taken by others"):
        await swigs.funding.grant(GRANT)
