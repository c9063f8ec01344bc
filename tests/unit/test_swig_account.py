"""Reading a Swig account: whatever the bytes are, an account or a refusal that says why."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.pubkey import Pubkey

from service.adapters.solana.swig_account import (
    ED25519_SESSION,
    RoleSession,
    SwigAccount,
    parse_swig_account,
)
from service.adapters.solana.swig_actions import (
    Action,
    All,
    AllButManageAuthority,
    ManageAuthority,
    OtherAction,
    Program,
    ProgramAll,
    ProgramCurated,
    SwigLayoutError,
    TokenDestinationLimit,
    TokenLimit,
    TokenRecurringDestinationLimit,
    TokenRecurringLimit,
    encode_actions,
    parse_actions,
)
from tests.swig_cases import HEADER_BYTES, Given, action_bytes, plain, swig_bytes, with_session

ROOT, OURS, OTHER, MINT = (str(Pubkey([n] * 32)) for n in (1, 2, 3, 4))
ROOT_BYTES = bytes([1] * 32)
WALLET = swig_bytes(plain(0, ROOT, All()), plain(1, OURS, TokenLimit(MINT, 5), ProgramAll()))
SECOND_ROLE = HEADER_BYTES + 16 + 32 + 8

VECTORS = [
    bytes.fromhex(vector["data_hex"])
    for vector in json.loads((Path(__file__).parents[1] / "vectors" / "swig.json").read_text())[
        "accounts"
    ]
]


def with_bytes(data: bytes, offset: int, replaced: bytes) -> bytes:
    return data[:offset] + replaced + data[offset + len(replaced) :]


def one_role(actions: bytes, count: int = 1) -> bytes:
    return swig_bytes(Given(0, ROOT_BYTES, (actions, count)))


MALFORMED = {
    "nothing": (b"", "too few"),
    "half a header": (WALLET[: HEADER_BYTES - 1], "too few"),
    "another account type": (with_bytes(WALLET, 0, b"\x02"), "of type 2"),
    "more roles than there are": (swig_bytes(plain(0, ROOT, All()), count=2), "role 1 is cut off"),
    "a role header cut in two": (WALLET[: SECOND_ROLE + 15], "role 1 is cut off"),
    "a role that ends behind the account": (WALLET[:-1], "role 1 does not end"),
    "a role that ends before it began": (
        with_bytes(WALLET, SECOND_ROLE + 12, bytes(4)),
        "role 1 does not end",
    ),
    "a role that ends within its key": (
        with_bytes(WALLET, SECOND_ROLE + 2, b"\xff\xff"),
        "role 1 does not end",
    ),
    "a key of 31 bytes": (
        swig_bytes(Given(0, bytes(31), [All()])),
        "an authority of type 1 has 31 bytes",
    ),
    "a session authority without its expiry": (
        swig_bytes(Given(0, bytes(72), [All()], ED25519_SESSION)),
        "an authority of type 2 has 72 bytes",
    ),
    "an action header cut in two": (one_role(bytes(7)), "action 0 is cut off"),
    "fewer actions than counted": (one_role(encode_actions([All()]), 2), "action 1 is cut off"),
    "more actions than counted": (
        one_role(encode_actions([All(), ProgramAll()]), 1),
        "do not fill the role",
    ),
    "an action that ends where it began": (
        one_role(action_bytes(7, b"", boundary=0), 65_535),
        "action 0 does not end",
    ),
    "an action that ends behind its role": (
        one_role(action_bytes(7, b"", boundary=9)),
        "action 0 does not end",
    ),
    "an action longer than its bounds": (
        one_role(action_bytes(22, bytes(8), length=9, boundary=16)),
        "action 0 does not end",
    ),
    "a token limit without its last byte": (
        one_role(action_bytes(5, bytes(39), boundary=47)),
        "of type 5 has 39 bytes",
    ),
    "two roles with one id": (
        swig_bytes(plain(0, ROOT, All()), plain(0, OURS, All())),
        "the same id",
    ),
}


@pytest.mark.parametrize(("data", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_account_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(SwigLayoutError, match=reason):
        parse_swig_account(data)


def read_or_refused(data: bytes) -> SwigAccount | None:
    """Anything else that is raised fails the test."""
    try:
        return parse_swig_account(data)
    except SwigLayoutError:
        return None


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refused(data)
    read_or_refused(b"\x01" + bytes(33) + data)
    read_or_refused(WALLET[:HEADER_BYTES] + data)


@given(st.sampled_from(VECTORS), st.data())
def test_a_damaged_account_is_read_or_refused(whole: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(whole)))
    flipped = bytearray(whole[:cut])
    for place in data.draw(st.lists(st.integers(0, max(0, cut - 1)), max_size=4 if cut else 0)):
        flipped[place] ^= data.draw(st.integers(1, 255))
    found = read_or_refused(bytes(flipped))
    if cut < len(whole) and bytes(flipped) == whole[:cut]:
        assert found is None


KEYS = st.binary(min_size=32, max_size=32).map(lambda key: str(Pubkey(key)))
AMOUNTS = st.integers(0, 2**64 - 1)
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.sampled_from(
        (All(), AllButManageAuthority(), ManageAuthority(), ProgramAll(), ProgramCurated())
    ),
    st.builds(Program, KEYS),
    st.builds(TokenLimit, KEYS, AMOUNTS),
    st.builds(TokenRecurringLimit, KEYS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS),
    st.builds(TokenDestinationLimit, KEYS, KEYS, AMOUNTS),
    st.builds(TokenRecurringDestinationLimit, KEYS, KEYS, AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS),
    st.builds(OtherAction, st.integers(20, 65_535), st.binary(max_size=200)),
)


@given(st.lists(ACTIONS, max_size=8))
def test_actions_read_back_as_they_were_written(actions: list[Action]) -> None:
    assert parse_actions(encode_actions(actions), len(actions)) == tuple(actions)


def test_an_action_nobody_knows_is_skipped_by_its_length() -> None:
    unknown = OtherAction(22, bytes(range(13)))
    account = parse_swig_account(
        swig_bytes(plain(0, ROOT, unknown, All(), OtherAction(65_535, b"")))
    )
    assert account.roles[0].actions == (unknown, All(), OtherAction(65_535, b""))


def test_the_boundary_says_where_the_next_action_begins() -> None:
    padded = action_bytes(22, bytes(8), length=5, boundary=16)
    following = action_bytes(7, b"", boundary=24)
    account = parse_swig_account(one_role(padded + following, 2))
    assert account.roles[0].actions == (OtherAction(22, bytes(5)), All())


def test_a_role_is_found_by_its_id_not_its_place() -> None:
    account = parse_swig_account(
        swig_bytes(plain(0, ROOT, All()), plain(2, OTHER, All()), plain(7, OURS, ProgramAll()))
    )
    found = account.role(7)
    assert found is not None
    assert (found.pubkey, found.actions) == (OURS, (ProgramAll(),))
    assert account.role(1) is None


def test_a_role_with_sessions_is_signed_for_by_the_session_key() -> None:
    account = parse_swig_account(swig_bytes(with_session(3, ROOT, OURS, 777, All())))
    role = account.roles[0]
    assert role.session == RoleSession(OURS, 216_000, 777)
    assert (role.pubkey, role.signer) == (ROOT, OURS)


@pytest.mark.parametrize(("kind", "size"), [(3, 33), (4, 97), (5, 33), (8, 1), (0, 0), (99, 5)])
def test_a_role_of_another_kind_of_key_is_nobodys_here(kind: int, size: int) -> None:
    account = parse_swig_account(
        swig_bytes(Given(0, bytes(size), [All()], kind), plain(1, OURS, ProgramAll()))
    )
    assert (account.roles[0].pubkey, account.roles[0].signer) == (None, None)
    assert account.roles[1].pubkey == OURS


def test_the_tail_is_no_role() -> None:
    tail = b"\x01\x01" + (32).to_bytes(2, "little") + bytes(4) + bytes(32)
    with_tail = parse_swig_account(WALLET + tail)
    assert with_tail.tail_bytes == len(tail)
    assert with_tail.roles == parse_swig_account(WALLET).roles


@pytest.mark.parametrize(
    ("wallet_field", "version"),
    [
        pytest.param(b"\xff\0\0\0" + bytes(4), "v2", id="a bump"),
        pytest.param(b"\xfe\0\0\0\x05\0\0\0", "v2", id="a bump, and five sub-accounts"),
        pytest.param(bytes(8), "v1", id="nothing"),
        pytest.param((2_338_560).to_bytes(8, "little"), "v1", id="lamports"),
        pytest.param((2_338_561).to_bytes(8, "little"), "v1", id="lamports, the first byte set"),
    ],
)
def test_the_version_is_told_by_where_the_wallet_bump_is(wallet_field: bytes, version: str) -> None:
    account = parse_swig_account(swig_bytes(plain(0, ROOT, All()), wallet_field=wallet_field))
    assert account.version == version
    assert account.wallet_bump == (wallet_field[0] if version == "v2" else None)
