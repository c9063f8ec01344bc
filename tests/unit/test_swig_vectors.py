"""The public vectors of the Swig program: instructions of its own clients, and accounts."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from spl.token.instructions import transfer_checked
from spl.token.models import TransferCheckedParams

from service.adapters.solana.swig_account import (
    ED25519,
    ED25519_SESSION,
    Role,
    parse_swig_account,
)
from service.adapters.solana.swig_actions import (
    Action,
    All,
    OtherAction,
    Program,
    ProgramAll,
    ProgramCurated,
    TokenDestinationLimit,
    TokenLimit,
)
from service.adapters.solana.swig_instructions import (
    add_authority_v1,
    create_session_v1,
    create_v1,
    remove_authority_v1,
    sign_v2,
    swig_pda,
    update_authority_v1,
    wallet_pda,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "swig.json").read_text()
)
KEY = Pubkey.from_string
USDC = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
TOKEN_PROGRAM = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
RECIPIENT = "3echmrMLtxtPuSVSDZxB59f4pVC3E1W1a7jZrk478pjZ"
PAYER = KEY("C2PCxxSePDZ7ofW2kLcFZ1U7qWkueQ7t5ynN3PYu2U1B")
ROOT = KEY("8kVh1qoaujsfapkWEaSpogdDEWjRWubA4XptYrEB5768")
ADDED = Pubkey(bytes.fromhex("12c1d61bd2c9c7db68450d00c9cc0ae3f0877187ea0935c60cda4051b39885d5"))
SWIG = KEY("EhpVjiRBqqbGrzzDTrBTPMqSdgcJCmgNrLNBHvAGzcTg")
SESSION_SWIG = KEY("8oY4SmACh86CWAtxakX46sUgNi2VADERnUGzFDU8QojN")
SESSION_BASE = KEY("CKSMhwF1LtjYBBn25QifDmMAvRVd9Jj8Q7ABQ6goNb6v")
CREATED_ID = bytes.fromhex("004304e2a31cf0806c3b9d5c3ee5c37947a4d7b0db7c0045fd8b8b018f484f38")

BUILT = {
    "create_all": create_v1(CREATED_ID, PAYER, ROOT, [All()]),
    "add_tokenlimit": add_authority_v1(
        SWIG, PAYER, (0, ROOT), ADDED, [TokenLimit(USDC, 5_000_000), ProgramAll()]
    ),
    "add_tokendest_prog": add_authority_v1(
        SWIG,
        PAYER,
        (0, ROOT),
        ADDED,
        [TokenDestinationLimit(USDC, RECIPIENT, 5_000_000), Program(TOKEN_PROGRAM)],
    ),
    "remove_1": remove_authority_v1(SWIG, PAYER, (0, ROOT), 1),
    "create_session": create_session_v1(SESSION_SWIG, PAYER, (1, SESSION_BASE), ADDED, 5_000),
}


def named(vectors: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def metas(instruction: Instruction) -> list[dict[str, Any]]:
    return [
        {"pubkey": str(meta.pubkey), "signer": meta.is_signer, "writable": meta.is_writable}
        for meta in instruction.accounts
    ]


@named(VECTORS["sign"])
def test_a_payment_through_a_role_equals_the_clients_bytes(vector: dict[str, Any]) -> None:
    given, expected = vector["input"], vector["expected"]
    swig, swig_bump = swig_pda(bytes.fromhex(given["swig_id"]))
    wallet, wallet_bump = wallet_pda(swig)
    inner = transfer_checked(
        TransferCheckedParams(
            program_id=KEY(given["token_program"]),
            source=KEY(given["source"]),
            mint=KEY(given["mint"]),
            dest=KEY(given["destination"]),
            owner=wallet,
            amount=int(given["amount"]),
            decimals=given["decimals"],
        )
    )
    signed = sign_v2(swig, (given["role_id"], KEY(given["authority"])), [inner])
    assert (str(swig), swig_bump) == (expected["swig"], expected["swig_bump"])
    assert (str(wallet), wallet_bump) == (expected["wallet_address"], expected["wallet_bump"])
    assert str(signed.program_id) == expected["program"]
    assert bytes(signed.data).hex() == expected["data_hex"]
    assert metas(signed) == expected["accounts"]


@named(VECTORS["instructions"])
def test_a_change_of_a_wallet_equals_the_clients_bytes(vector: dict[str, Any]) -> None:
    built, expected = BUILT[vector["name"]], vector["instruction"]
    assert str(built.program_id) == expected["program"]
    assert bytes(built.data).hex() == expected["data"]
    assert metas(built) == expected["accounts"]


def test_several_instructions_share_accounts_and_never_the_program() -> None:
    """The bytes are those of the client of version 1.9.1, as all of the vectors."""
    first, second, program = (Pubkey([n] * 32) for n in (65, 66, 80))
    wallet, _ = wallet_pda(SWIG)
    reading = Instruction(
        program,
        b"\x01",
        [
            AccountMeta(first, is_signer=False, is_writable=False),
            AccountMeta(wallet, is_signer=True, is_writable=True),
            AccountMeta(first, is_signer=False, is_writable=True),
        ],
    )
    signing = Instruction(
        program,
        b"",
        [
            AccountMeta(second, is_signer=True, is_writable=False),
            AccountMeta(program, is_signer=False, is_writable=True),
            AccountMeta(SWIG, is_signer=True, is_writable=False),
            AccountMeta(ROOT, is_signer=True, is_writable=True),
            AccountMeta(first, is_signer=True, is_writable=False),
        ],
    )
    signed = sign_v2(SWIG, (3, ROOT), [reading, signing])
    expected = "0b0012000300000002030304010401000105050607000204000002"
    assert bytes(signed.data).hex() == expected
    assert [(meta.pubkey, meta.is_signer, meta.is_writable) for meta in signed.accounts] == [
        (SWIG, False, True),
        (wallet, False, True),
        (ROOT, True, True),
        (program, False, False),
        (first, True, True),
        (program, False, False),
        (second, True, False),
        (program, False, True),
    ]


@pytest.mark.parametrize(
    "instructions",
    [
        [Instruction(PAYER, b"", [])] * 256,
        [Instruction(PAYER, bytes(65_536), [])],
        [
            Instruction(
                PAYER,
                b"",
                [AccountMeta(Pubkey([1] * 31 + [n]), False, False) for n in range(253)],
            )
        ],
    ],
    ids=["instructions", "data", "accounts"],
)
def test_more_than_the_compact_form_can_name_is_refused(instructions: list[Instruction]) -> None:
    with pytest.raises(ValueError, match="do not fit into one SignV2"):
        sign_v2(SWIG, (1, ROOT), instructions)


def test_a_roles_new_limit_equals_the_clients_bytes() -> None:
    allowed = [TokenLimit(USDC, 5_000_000), Program(TOKEN_PROGRAM)]
    built = update_authority_v1(SWIG, PAYER, (0, ROOT), 1, allowed)
    expected = (
        "03005900000000000000000001000000000500280030000000c6fa7af3bedbad3a3d65f36aabc97431"
        "b1bbe4c2d2f6e0e47ca60203452f5d61404b4c0000000000030020005800000006ddf6e1d765a193d9"
        "cbe146ceeb79ac1cb485ed5f5b37913a8cf5857eff00a903"
    )
    assert bytes(built.data).hex() == expected
    assert metas(built) == metas(BUILT["remove_1"])


@named(VECTORS["accounts"])
def test_an_account_reads_as_expected(vector: dict[str, Any]) -> None:
    expected = vector["expected"]
    account = parse_swig_account(bytes.fromhex(vector["data_hex"]))
    assert {
        "bump": account.bump,
        "id": account.id.hex(),
        "role_count": account.role_count,
        "role_counter": account.role_counter,
        "version": account.version,
        "tail_len": account.tail_bytes,
        "roles": [described(role) for role in account.roles],
    } == {
        name: value
        for name, value in expected.items()
        if name not in ("wallet_bump", "sub_account_counter", "reserved_lamports")
    }
    assert account.wallet_bump == expected.get("wallet_bump")
    assert str(swig_pda(account.id)[0]) == vector["swig"]


def described(role: Role) -> dict[str, Any]:
    """The role in the vectors' words."""
    assert role.pubkey
    types = {ED25519: "Ed25519", ED25519_SESSION: "Ed25519Session"}
    session: dict[str, Any] = {}
    if role.session:
        session = {
            "session_key": role.session.key,
            "max_session_length": role.session.max_slots,
            "current_session_expiration": role.session.expires_at,
        }
    return {
        "id": role.id,
        "authority_type": types[role.authority_type],
        "offset": role.offset,
        "authority_offset": role.authority_offset,
        "actions_offset": role.actions_offset,
        "authority": role.pubkey,
        **session,
        "actions": [worded(action) for action in role.actions],
    }


def worded(action: Action) -> dict[str, Any]:
    """The action in the vectors' words, which name what has no fields by its raw bytes."""
    match action:
        case OtherAction(1, data):
            return {"type": "SolLimit", "remaining": int.from_bytes(data, "little")}
        case ProgramCurated():
            return {"type": "ProgramCurated", "raw": bytes(32).hex()}
        case _:
            return {"type": type(action).__name__, **(asdict(action) or {"raw": ""})}
