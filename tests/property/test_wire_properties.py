"""The wire formats against their oracles: node for JavaScript, `rfc8785` where it agrees."""

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import javascript
import pytest
import rfc8785
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from service.domain.errors import VoucherRejected
from service.domain.voucher import Expected, VerifiedVoucher, verify
from session_ledger.canonical import canonical_text
from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS
from session_ledger.ecmascript import string_of
from session_ledger.encoding import (
    Base64Error,
    atob,
    base58_decode,
    base58_encode,
)
from session_ledger.json_text import JsonTextError, elements, members, parse
from session_ledger.voucher import VOUCHER_DOMAIN, message_bytes, parse_envelope, sign_voucher

KEY = SigningKey(bytes([42]) * 32)
RECIPIENT = base58_encode(bytes([7]) * 32)
EXPECTED = Expected(RECIPIENT, NETWORKS["devnet"].chain_id, CHANNEL_PROGRAM)

# One answer a line: the canonical text, String(value), and atob as hexadecimal digits.
NODE_PROGRAM = """
const rebuilt = (value) => {
  if (Array.isArray(value)) return value.map(rebuilt);
  if (value === null || typeof value !== 'object') return value;
  const sorted = {};
  for (const key of Object.keys(value).sort()) sorted[key] = rebuilt(value[key]);
  return sorted;
};
const answers = {
  canonical: (text) => JSON.stringify(rebuilt(JSON.parse(text))),
  string: (text) => String(JSON.parse(text)),
  atob: (text) => Buffer.from(atob(text), 'latin1').toString('hex'),
};
require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const [question, text] = JSON.parse(line);
  let answer;
  try { answer = { ok: answers[question](text) }; }
  catch (error) { answer = { error: error.message }; }
  process.stdout.write(JSON.stringify(answer) + '\\n');
});
"""

Node = Callable[[str, str], dict[str, str]]


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Asks one long-lived node process `(question, text)`."""
    with subprocess.Popen(
        [javascript.node("WIRE FORMATS AGAINST JAVASCRIPT"), "-e", NODE_PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def ask(question: str, text: str) -> dict[str, str]:
            asked.write(json.dumps([question, text]) + "\n")
            asked.flush()
            return json.loads(answered.readline())

        yield ask
        asked.close()


# --- JSON texts, written out by hand so that every spelling occurs

anything = st.characters(codec=None, categories=None)  # lone surrogates too
strings = st.text(anything, max_size=8)
keys = st.one_of(
    st.sampled_from(["__proto__", "constructor", "toString", "0", "01", "-1", "1.5", "", "a", "B"]),
    st.integers(0, 2**33).map(str),
    st.sampled_from(["4294967294", "4294967295", "\ue000", "\U00010000", "\ud800", "é", "e\u0301"]),
    strings,
)
number_texts = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**70), 2**70).map(str),
)
blanks = st.sampled_from(["", "", "", " ", "\n\t", "\r"])


def written(text: str, plain: bool) -> str:
    """A JSON string; raw where that is possible and wished for."""
    encodable = not re.search("[\ud800-\udfff]", text)
    return json.dumps(text, ensure_ascii=not (plain and encodable))


string_texts = st.builds(written, strings, st.booleans())
key_texts = st.builds(written, keys, st.booleans())
leaf_texts = st.one_of(string_texts, number_texts, st.sampled_from(["null", "true", "false"]))


def nested(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    items = st.lists(texts, max_size=4)
    pairs = st.lists(
        st.builds(lambda *parts: "".join(parts), key_texts, blanks, st.just(":"), blanks, texts),
        max_size=6,
    )
    return st.one_of(
        st.builds(lambda parts, blank: f"[{blank}{f'{blank},'.join(parts)}]", items, blanks),
        st.builds(lambda parts, blank: f"{{{f',{blank}'.join(parts)}{blank}}}", pairs, blanks),
    )


json_texts = st.recursive(leaf_texts, nested, max_leaves=20)


@pytest.mark.node
@settings(max_examples=250, deadline=None)
@given(text=json_texts)
def test_canonical_text_is_what_javascript_makes(node: Node, text: str) -> None:
    assert {"ok": canonical_text(parse(text))} == node("canonical", text)


@pytest.mark.node
@settings(max_examples=200, deadline=None)
@given(text=number_texts)
def test_numbers_are_written_as_javascript_writes_them(node: Node, text: str) -> None:
    assert {"ok": string_of(parse(text))} == node("string", text)


@pytest.mark.node
@settings(max_examples=200, deadline=None)
@given(text=json_texts)
def test_string_of_is_what_javascript_makes(node: Node, text: str) -> None:
    theirs = node("string", text)
    assume("ok" in theirs)  # an own toString or valueOf makes String() throw
    assert string_of(parse(text)) == theirs["ok"]


@pytest.mark.node
@settings(max_examples=250, deadline=None)
@given(
    text=json_texts,
    cut=st.tuples(st.integers(0, 60), st.integers(0, 2)),
    put=st.sampled_from([*'{}[],:"\\0-.eE+ ', "\ufeff", "\u00a0", "\0", "\n", "NaN", "\\u", "tru"]),
)
def test_the_reader_takes_a_damaged_text_exactly_when_javascript_does(
    node: Node, text: str, cut: tuple[int, int], put: str
) -> None:
    at, removed = cut
    damaged = text[:at] + put + text[at + removed :]
    try:
        parse(damaged)
        ours = True
    except JsonTextError:
        ours = False
    assert ours == ("ok" in node("canonical", damaged))


@pytest.mark.node
@settings(max_examples=250, deadline=None)
@given(text=st.one_of(st.text("AZaz09+/=- \n\t_", max_size=12), strings))
def test_atob_is_that_of_javascript_with_its_texts(node: Node, text: str) -> None:
    try:
        ours = {"ok": atob(text).hex()}
    except Base64Error as error:
        ours = {"error": str(error)}
    assert ours == node("atob", text)


# --- without node

plain_keys = st.text(anything, max_size=6).filter(
    lambda key: not re.search("[\ud800-\udfff]", key) and not key.isdigit() and key != "__proto__"
)
plain_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53) + 1, 2**53 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        plain_keys,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(plain_keys, inner)),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(plain_values)
def test_canonical_text_is_that_of_rfc_8785_where_the_reference_agrees(value: Any) -> None:
    assert canonical_text(value).encode() == rfc8785.dumps(value)


@settings(max_examples=200, deadline=None)
@given(json_texts)
def test_canonical_text_is_a_fixed_point(text: str) -> None:
    canonical = canonical_text(parse(text))
    assert canonical_text(parse(canonical)) == canonical
    canonical.encode()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(keys, json_texts), max_size=5), blanks)
def test_members_give_value_and_source_of_every_part(
    pairs: list[tuple[str, str]], blank: str
) -> None:
    body = ",".join(f"{blank}{json.dumps(key)}:{text}{blank}" for key, text in pairs)
    found = members(f"{{{body}}}")
    assert {key: part.text for key, part in found.items()} == dict(pairs)
    assert {key: part.value for key, part in found.items()} == parse(f"{{{body}}}")
    array = elements(f"[{','.join(f'{blank}{text}' for _, text in pairs)}]")
    assert [part.text for part in array] == [text for _, text in pairs]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=60), strings, st.text('{}[]":,\\u0d8e-+.NI ', max_size=40)))
def test_no_input_raises_anything_but_the_readers_own_error(text: str | bytes) -> None:
    for read in (parse, members, elements, parse_envelope):
        with suppress(JsonTextError):
            read(text)


@given(st.binary(max_size=70))
def test_base58_has_one_text_for_each_bytes(data: bytes) -> None:
    assert base58_decode(base58_encode(data)) == data


@given(st.text("123456789ABCHJKLMNPQZabcijkmnpqz", max_size=90))
def test_base58_has_one_reading_for_each_text(text: str) -> None:
    assert base58_encode(base58_decode(text)) == text


@given(st.binary(max_size=70))
def test_atob_reads_standard_base64(data: bytes) -> None:
    assert atob(base64.b64encode(data).decode()) == data


# --- vouchers

wild = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    strings,
    st.text("0123456789-+. e_x", max_size=24),
    st.lists(strings, max_size=2),
    st.just({}),
)
NAMES = [
    "channelId", "payer", "cumulativeAmount", "sequence", "meter", "units", "serverNonce",
    "chainId", "channelProgram", "expiresAt", "recipient", "note", "__proto__", "7",
]  # fmt: skip
good_fields = {
    "channelId": "ch_1",
    "payer": base58_encode(bytes([9]) * 32),
    "recipient": RECIPIENT,
    "cumulativeAmount": "10000",
    "sequence": 1,
}


def judge(body: Any) -> VerifiedVoucher:
    return verify(parse_envelope(json.dumps(body)), EXPECTED)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), wild, max_size=3))
def test_a_signed_voucher_is_accepted_with_integers_or_refused_by_name(
    changes: dict[str, Any],
) -> None:
    try:
        voucher = judge(sign_voucher({**good_fields, **changes}, KEY))
    except VoucherRejected as rejected:
        reason, error = rejected.reason, rejected.error
        error.encode()
        culprits = {
            "recipient_mismatch": ["recipient"],
            "network_mismatch": ["chainId"],
            "program_mismatch": ["channelProgram"],
            "malformed_voucher": NAMES,
        }
        assert any(name in changes for name in culprits[reason])
        if reason == "malformed_voucher":
            assert error.split()[1] in changes
    else:
        assert type(voucher.cumulative_amount) is type(voucher.sequence) is int
        assert abs(voucher.cumulative_amount) < 2**64
        assert 0 <= voucher.sequence < 2**53
        assert 0 < voucher.units < 2**64
        assert voucher.channel_id == changes.get("channelId", "ch_1")
        assert voucher.recipient == RECIPIENT


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["voucher", "signature", "signer", "signatureType"]), wild))
def test_no_envelope_raises_anything_but_a_rejection(changes: dict[str, Any]) -> None:
    body = {**sign_voucher(good_fields, KEY), **changes}
    try:
        judge(body)
    except VoucherRejected as rejected:
        assert changes
        rejected.error.encode()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*good_fields, "note"]), wild)
def test_a_field_changed_after_signing_never_verifies(name: str, value: Any) -> None:
    body: Any = sign_voucher(good_fields, KEY)
    before = message_bytes(body["voucher"])
    body["voucher"][name] = value
    assume(message_bytes(body["voucher"]) != before)
    with pytest.raises(VoucherRejected, match="invalid_signature"):
        judge(body)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 511))
def test_a_signature_with_one_bit_changed_never_verifies(bit: int) -> None:
    body: Any = sign_voucher(good_fields, KEY)
    raw = bytearray(base64.b64decode(body["signature"]))
    raw[bit // 8] ^= 1 << bit % 8
    body["signature"] = base64.b64encode(raw).decode()
    with pytest.raises(VoucherRejected, match="invalid_signature"):
        judge(body)


@given(json_texts)
def test_the_signed_bytes_start_with_the_domain(text: str) -> None:
    assert message_bytes(parse(text)).startswith(VOUCHER_DOMAIN.encode())


@pytest.mark.node
def test_the_oracle_answers_both_ways(node: Node) -> None:
    assert node("canonical", '{"b":1,"a":1.0}') == {"ok": '{"a":1,"b":1}'}
    assert "error" in node("canonical", "{,}")
