"""Token instructions on the local chain: delegation, both token programs, every failure."""

import pytest
from chain_fixtures import (
    MEMO,
    SOL,
    Rig,
    approve,
    buyer,
    chain_fixture,  # noqa: F401 - a fixture
    delegate,
    fails,
    is_at,
    move,
    rig_fixture,  # noqa: F401 - a fixture
    seller,
    until,
)
from solana.rpc.commitment import Processed
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_2022_PROGRAM_ID, TOKEN_PROGRAM_ID
from spl.token.instructions import (
    create_idempotent_associated_token_account,
    freeze_account,
    get_associated_token_address,
    initialize_mint2,
    mint_to_checked,
    revoke,
)
from spl.token.models import (
    FreezeAccountParams,
    InitializeMint2Params,
    MintToCheckedParams,
    RevokeParams,
)

from service.local.chain import USDC_DEVNET_MINT, usdc_authority


@pytest.fixture
async def accounts(rig: Rig) -> tuple[Pubkey, Pubkey]:
    """Token accounts of buyer (100 USDC) and seller (none); buyer and delegate have SOL."""
    await rig.fund(buyer.pubkey(), delegate.pubkey())
    return (
        await rig.give_usdc(buyer.pubkey(), 100_000_000),
        await rig.give_usdc(seller.pubkey(), 0),
    )


async def test_a_session_of_token_instructions_moves_exactly_what_it_says(rig: Rig) -> None:
    await rig.fund(buyer.pubkey(), delegate.pubkey())
    source = await rig.give_usdc(buyer.pubkey(), 100_000_000)
    dest = get_associated_token_address(seller.pubkey(), USDC_DEVNET_MINT)
    create = create_idempotent_associated_token_account(
        buyer.pubkey(), seller.pubkey(), USDC_DEVNET_MINT
    )
    await rig.send(create, signers=[buyer])
    await rig.send(move(source, dest, buyer.pubkey(), 1_500_000), signers=[buyer])
    await rig.send(approve(source, buyer.pubkey(), 5_000_000), signers=[buyer])
    memo = Instruction(MEMO, b"settlement 1", [])
    await rig.send(move(source, dest, delegate.pubkey(), 2_000_000), memo, signers=[delegate])
    assert await rig.tokens(source) == 96_500_000
    assert await rig.tokens(dest) == 3_500_000
    parsed = await rig.client.get_account_info_json_parsed(source, Processed)
    info = parsed.value.data.parsed["info"]
    assert (info["delegate"], info["delegatedAmount"]["amount"]) == (
        str(delegate.pubkey()),
        "3000000",
    )


async def test_token_2022_delegation_works_the_same(rig: Rig) -> None:
    mint = Keypair.from_seed(bytes([7] * 32))
    program = TOKEN_2022_PROGRAM_ID
    await rig.fund(buyer.pubkey(), delegate.pubkey())
    await rig.rpc(
        "surfnet_setAccount",
        str(mint.pubkey()),
        {"lamports": SOL, "data": "00" * 82, "owner": str(program)},
    )
    make = initialize_mint2(
        InitializeMint2Params(
            decimals=6,
            program_id=program,
            mint=mint.pubkey(),
            mint_authority=buyer.pubkey(),
            freeze_authority=None,
        )
    )
    await rig.send(make, signers=[buyer])
    create = [
        create_idempotent_associated_token_account(buyer.pubkey(), owner, mint.pubkey(), program)
        for owner in (buyer.pubkey(), seller.pubkey())
    ]
    await rig.send(*create, signers=[buyer])
    source, dest = (
        get_associated_token_address(owner, mint.pubkey(), program)
        for owner in (buyer.pubkey(), seller.pubkey())
    )
    mint_to = mint_to_checked(
        MintToCheckedParams(
            program_id=program,
            mint=mint.pubkey(),
            dest=source,
            mint_authority=buyer.pubkey(),
            amount=1_000,
            decimals=6,
            signers=[],
        )
    )
    await rig.send(mint_to, signers=[buyer])
    step = move(source, dest, buyer.pubkey(), 400, mint=mint.pubkey(), program=program)
    signature = await rig.send(step, signers=[buyer])
    assert (await rig.tokens(source), await rig.tokens(dest)) == (600, 400)
    await until(lambda: is_at(rig, signature, "confirmed"))
    found = await rig.rpc(
        "getTransaction",
        str(signature),
        {"commitment": "confirmed", "maxSupportedTransactionVersion": 0, "encoding": "jsonParsed"},
    )
    (balance,) = [
        b for b in found["meta"]["postTokenBalances"] if b["owner"] == str(seller.pubkey())
    ]
    assert (balance["programId"], balance["uiTokenAmount"]["amount"]) == (str(program), "400")
    shown = await rig.rpc(
        "getAccountInfo", str(dest), {"encoding": "jsonParsed", "commitment": "processed"}
    )
    data = shown["value"]["data"]
    assert (data["program"], data["space"]) == ("spl-token-2022", 170)
    assert data["parsed"]["info"]["extensions"] == [{"extension": "immutableOwner"}]
    # the cheat code keeps extensions, and creates accounts that have them
    for owner in (seller, delegate):
        names = [str(owner.pubkey()), str(mint.pubkey())]
        await rig.rpc("surfnet_setTokenAccount", *names, {"amount": 77}, str(program))
        account = get_associated_token_address(owner.pubkey(), mint.pubkey(), program)
        options = {"encoding": "jsonParsed", "commitment": "processed"}
        shown = await rig.rpc("getAccountInfo", str(account), options)
        info = shown["value"]["data"]["parsed"]["info"]
        assert info["extensions"] == [{"extension": "immutableOwner"}]
        assert info["tokenAmount"]["amount"] == "77"


async def test_each_token_failure_carries_the_error_of_a_cluster(
    rig: Rig, accounts: tuple[Pubkey, Pubkey]
) -> None:
    source, dest = accounts
    by_delegate = {"signers": [delegate]}
    authority = usdc_authority()

    too_much = move(source, dest, buyer.pubkey(), 100_000_001)
    assert await fails(rig, too_much, signers=[buyer]) == {"InstructionError": [0, {"Custom": 1}]}

    await rig.send(approve(source, buyer.pubkey(), 10), signers=[buyer])
    over = move(source, dest, delegate.pubkey(), 11)
    assert await fails(rig, over, **by_delegate) == {"InstructionError": [0, {"Custom": 1}]}

    wrong = move(source, dest, delegate.pubkey(), 1, decimals=5)
    assert await fails(rig, wrong, **by_delegate) == {"InstructionError": [0, {"Custom": 18}]}

    drop = revoke(
        RevokeParams(program_id=TOKEN_PROGRAM_ID, account=source, owner=buyer.pubkey(), signers=[])
    )
    await rig.send(drop, signers=[buyer])
    revoked = move(source, dest, delegate.pubkey(), 2)
    assert await fails(rig, revoked, **by_delegate) == {"InstructionError": [0, {"Custom": 4}]}

    nowhere = get_associated_token_address(Pubkey.from_bytes(bytes([9] * 32)), USDC_DEVNET_MINT)
    missing = move(source, nowhere, buyer.pubkey(), 1)
    assert await fails(rig, missing, signers=[buyer]) == {
        "InstructionError": [0, "InvalidAccountData"]
    }

    await rig.fund(authority.pubkey())
    freeze = freeze_account(
        FreezeAccountParams(
            program_id=TOKEN_PROGRAM_ID,
            account=source,
            mint=USDC_DEVNET_MINT,
            authority=authority.pubkey(),
            multi_signers=[],
        )
    )
    await rig.send(freeze, signers=[authority])
    frozen = move(source, dest, buyer.pubkey(), 1)
    assert await fails(rig, frozen, signers=[buyer]) == {"InstructionError": [0, {"Custom": 17}]}


async def test_simulation_reports_everything_and_changes_nothing(
    rig: Rig, accounts: tuple[Pubkey, Pubkey]
) -> None:
    source, dest = accounts
    transaction = await rig.sign(move(source, dest, buyer.pubkey(), 7), signers=[buyer])
    result = await rig.client.simulate_transaction(
        transaction, sig_verify=True, commitment=Processed, accounts_addresses=[dest]
    )
    assert result.value.err is None
    assert result.value.units_consumed
    assert result.value.logs
    (after,) = result.value.accounts or []
    assert after is not None
    assert await rig.tokens(dest) == 0
    failing = await rig.sign(move(source, dest, buyer.pubkey(), 10**12), signers=[buyer])
    refused = await rig.client.simulate_transaction(failing, commitment=Processed)
    assert "Custom(1)" in str(refused.value.err) or "Custom" in repr(refused.value.err)


async def test_a_transaction_that_fails_while_it_runs_lands_and_pays_its_fee(
    rig: Rig, accounts: tuple[Pubkey, Pubkey]
) -> None:
    source, dest = accounts
    before = await rig.lamports(buyer.pubkey())
    step = move(source, dest, buyer.pubkey(), 100_000_001)
    signature = await rig.send(step, signers=[buyer], skipPreflight=True)
    assert (await rig.status(signature))["err"] == {"InstructionError": [0, {"Custom": 1}]}
    assert await rig.lamports(buyer.pubkey()) == before - 5_000
    assert await rig.tokens(source) == 100_000_000
