"""A local chain with Swig wallets written into it as the program would leave them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes import TOKEN_PROGRAM
from settlement_rig import (
    AUTHORITY,
    FEE_PAYER,
    MINT,
    RECIPIENT,
    SOL,
    LocalWorld,
    keypair,
    local_world,
)
from solders.instruction import AccountMeta, CompiledInstruction, Instruction
from solders.message import Message, MessageV0, from_bytes_versioned
from solders.pubkey import Pubkey

from service.adapters.solana.funding_swig import SwigFunding
from service.adapters.solana.swig_actions import Action, All, Program, TokenLimit
from service.adapters.solana.swig_instructions import swig_pda, wallet_pda
from service.adapters.solana.transfer import associated_token_address
from service.domain.onchain import TransferOrder
from service.domain.units import AtomicUsdc
from tests.swig_cases import SWIG_PROGRAM, Given, plain, swig_bytes

BUYER = str(keypair("swig buyer").pubkey())
STRANGER = str(keypair("swig stranger").pubkey())
OURS = Pubkey.from_string(AUTHORITY)
BUYER_KEY = Pubkey.from_string(BUYER)
SWIG = swig_pda(b"\x05" * 32)[0]
WALLET = str(wallet_pda(SWIG)[0])
SOURCE = associated_token_address(WALLET, MINT, TOKEN_PROGRAM)
DESTINATION = associated_token_address(RECIPIENT, MINT, TOKEN_PROGRAM)
LIMIT = 2_500_000
GRANTED: tuple[Action, ...] = (TokenLimit(MINT, LIMIT), Program(TOKEN_PROGRAM))
ORDER = TransferOrder(
    settlement_id="stl_swig",
    amount=AtomicUsdc(LIMIT),
    source=SOURCE,
    destination=DESTINATION,
    recipient=RECIPIENT,
    mint=MINT,
    decimals=6,
    token_program=TOKEN_PROGRAM,
    authority=AUTHORITY,
    fee_payer=FEE_PAYER,
    create_recipient_account=False,
    compute_unit_limit=60_000,
    compute_unit_price=1_000,
    authority_kind="swig",
    source_owner=WALLET,
    swig_address=str(SWIG),
    swig_role_id=1,
)


class SwigWorld:
    """A local chain, and Swig wallets on it as they would be."""

    def __init__(self, world: LocalWorld) -> None:
        self.world = world
        self.funding = SwigFunding(world.chain, AUTHORITY, TOKEN_PROGRAM)

    async def write(self, swig: Pubkey, *roles: Given, **more: Any) -> None:
        """The wallet with these roles; its wallet address has its rent."""
        data = swig_bytes(*roles, **more).hex()
        changes = {"lamports": SOL, "owner": SWIG_PROGRAM, "data": data}
        await self.world.rpc("surfnet_setAccount", str(swig), changes)
        await self.world.fund(str(wallet_pda(swig)[0]), 890_880)

    async def ready(self, *actions: Action, held: int = 10 * LIMIT) -> None:
        """The wallet of the order: the buyer's, with a role 1 of ours, and tokens."""
        await self.write(SWIG, plain(0, BUYER, All()), plain(1, AUTHORITY, *(actions or GRANTED)))
        await self.world.set_tokens(WALLET, amount=held)

    async def found(self, order: TransferOrder = ORDER) -> str | None:
        finding = await self.funding.source_finding(order)
        return finding and finding.code


@pytest.fixture(name="swigs")
async def swigs_fixture() -> AsyncIterator[SwigWorld]:
    async with local_world() as world:
        await world.fund(BUYER, SOL)
        await world.set_tokens(RECIPIENT, amount=0)
        yield SwigWorld(world)


def steps_of(message: bytes) -> list[Instruction]:
    """The instructions of a message without lookup tables, as they were before it."""
    parsed: Message | MessageV0 = from_bytes_versioned(message)
    keys = parsed.account_keys
    signers = parsed.header.num_required_signatures

    def meta(index: int) -> AccountMeta:
        return AccountMeta(keys[index], index < signers, parsed.is_maybe_writable(index))

    def whole(step: CompiledInstruction) -> Instruction:
        return Instruction(keys[step.program_id_index], step.data, list(map(meta, step.accounts)))

    return [whole(step) for step in parsed.instructions]
