"""Bytes from strangers: one well-formed transaction as plain values, or one kind of refusal."""

from collections.abc import Sequence
from random import Random

import pytest
from charge_rig import (
    AMOUNT,
    BUYER,
    DESTINATION,
    FEE_PAYER,
    MEMO,
    MINT,
    PAYER,
    SOURCE,
    SPONSOR,
    TOKEN_PROGRAM,
    assembled,
    charge,
    key,
    keypair,
    pay,
    wire,
)
from hypothesis import given
from hypothesis import strategies as st
from solders.address_lookup_table_account import AddressLookupTableAccount
from solders.hash import Hash
from solders.instruction import CompiledInstruction
from solders.message import MessageHeader, MessageV0, MessageV1, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from service.adapters.solana.parsing import TRANSACTION_BYTES_MAX, parse_transaction
from service.domain.errors import InvalidTransaction, InvalidTransactionEncoding
from service.domain.sponsorship import COMPUTE_BUDGET_PROGRAM, MEMO_PROGRAM, ParsedTransaction

BLOCKHASH = str(Hash(bytes(range(32))))


@pytest.mark.parametrize("version", ["v0", "legacy"])
def test_a_transaction_is_read_as_it_stands(version: str) -> None:
    raw = wire(blockhash=BLOCKHASH, version=version)
    parsed = parse_transaction(raw)
    assert parsed.version == version
    assert (parsed.fee_payer, parsed.signers) == (FEE_PAYER, (FEE_PAYER, PAYER))
    assert parsed.message == raw[1 + 2 * 64 :]
    assert b"".join(parsed.signatures) == raw[1 : 1 + 2 * 64]
    assert parsed.verified == {PAYER}
    assert (parsed.blockhash, parsed.lookup_tables) == (BLOCKHASH, 0)
    assert [step.program for step in parsed.instructions] == [
        COMPUTE_BUDGET_PROGRAM,
        COMPUTE_BUDGET_PROGRAM,
        TOKEN_PROGRAM,
        MEMO_PROGRAM,
    ]
    transfer, note = parsed.instructions[2:]
    assert transfer.accounts == (SOURCE, MINT, DESTINATION, PAYER)
    assert transfer.data == b"\x0c" + AMOUNT.to_bytes(8, "little") + b"\x06"
    assert (note.accounts, note.data) == ((), MEMO)


def test_only_signatures_that_hold_are_verified() -> None:
    def verified(raw: bytes) -> frozenset[str]:
        return parse_transaction(raw).verified

    good = wire()
    assert verified(good) == {PAYER}
    assert verified(wire(signers=[])) == frozenset()
    assert verified(wire(signers=[BUYER, SPONSOR])) == {PAYER, FEE_PAYER}
    flipped = bytearray(good)
    flipped[1 + 64] ^= 1
    assert verified(bytes(flipped)) == frozenset()
    other_message = good[: 1 + 2 * 64] + wire(charge(text=b"another"))[1 + 2 * 64 :]
    assert verified(other_message) == frozenset()


def test_accounts_of_lookup_tables_are_counted_and_left_unnamed() -> None:
    table = AddressLookupTableAccount(key(str(keypair("table").pubkey())), [key(DESTINATION)])
    message = MessageV0.try_compile(key(FEE_PAYER), charge(), [table], Hash.default())
    content = to_bytes_versioned(message)
    parsed = parse_transaction(assembled(content, message.account_keys[:2], [BUYER]))
    assert parsed.lookup_tables == 1
    assert parsed.instructions[2].accounts == (SOURCE, MINT, "", PAYER)


def _version_1() -> bytes:
    """Its fee stands in a part of the message that no instruction shows."""
    message = MessageV1.try_compile(key(FEE_PAYER), [pay()], Hash.default())
    signatures = [Signature.default(), BUYER.sign_message(bytes(message))]
    return bytes(VersionedTransaction.populate(message, signatures))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00" * 200, id="zeros"),
        pytest.param(wire() + b"\x00", id="a trailing byte"),
        pytest.param(wire() + wire(), id="two transactions"),
        pytest.param(wire()[:-1], id="cut"),
        pytest.param(b"\x82\x00" + wire()[1:], id="a count in another encoding"),
        pytest.param(wire(charge(text=bytes(TRANSACTION_BYTES_MAX))), id="larger than a packet"),
        pytest.param(_version_1(), id="version 1"),
    ],
)
def test_bytes_that_are_not_one_known_transaction_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidTransactionEncoding):
        parse_transaction(raw)


def test_the_largest_transaction_of_one_packet_is_read() -> None:
    room = TRANSACTION_BYTES_MAX - len(wire(charge(text=bytes(200))))
    raw = wire(charge(text=bytes(200 + room)))
    assert len(raw) == TRANSACTION_BYTES_MAX
    assert len(parse_transaction(raw).instructions[3].data) == 200 + room


def _message(
    header: MessageHeader | None = None,
    *,
    keys: Sequence[Pubkey] | None = None,
    program: int | None = None,
    account: int | None = None,
) -> bytes:
    """The honest message with one thing wrong in it."""
    good = MessageV0.try_compile(key(FEE_PAYER), [pay()], [], Hash.default())
    step = good.instructions[0]
    changed = CompiledInstruction(
        step.program_id_index if program is None else program,
        bytes(step.data),
        bytes(step.accounts) if account is None else bytes([account, *step.accounts[1:]]),
    )
    keys = good.account_keys if keys is None else keys
    message = MessageV0(header or good.header, list(keys), Hash.default(), [changed], [])
    return to_bytes_versioned(message)


_KEYS = MessageV0.try_compile(key(FEE_PAYER), [pay()], [], Hash.default()).account_keys


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(_message(program=9), id="a program that is not listed"),
        pytest.param(_message(program=0), id="the fee payer as program"),
        pytest.param(_message(account=200), id="an account that is not listed"),
        pytest.param(_message(keys=[*_KEYS[:-1], _KEYS[0]]), id="the fee payer listed twice"),
        pytest.param(_message(MessageHeader(3, 0, 2)), id="a signature too few"),
        pytest.param(_message(MessageHeader(1, 0, 2)), id="a signature too many"),
        pytest.param(_message(MessageHeader(2, 2, 2)), id="a fee payer that cannot pay"),
        pytest.param(_message(MessageHeader(2, 0, 9)), id="more read-only accounts than accounts"),
    ],
)
def test_transactions_that_no_cluster_takes_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidTransaction):
        parse_transaction(assembled(content, _KEYS[:2], [BUYER]))


def _read(raw: bytes) -> ParsedTransaction | None:
    try:
        return parse_transaction(raw)
    except InvalidTransaction:
        return None


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(raw: bytes) -> None:
    _read(raw)


@given(st.randoms(use_true_random=False), st.sampled_from(["v0", "legacy"]))
def test_altered_bytes_are_refused_or_read_as_they_stand(chance: Random, version: str) -> None:
    raw = bytearray(wire(version=version))
    for _ in range(chance.randint(1, 4)):
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    parsed = _read(bytes(raw))
    if parsed is not None:
        count = len(parsed.signers)
        assert bytes([count]) + b"".join(parsed.signatures) + parsed.message == raw
