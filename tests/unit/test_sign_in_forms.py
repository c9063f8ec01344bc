"""SIGN-IN-WITH-X as bytes: members of every type, headers of every form, and arbitrary ones."""

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sign_in_rig import BASIC, OPTIONAL, REFERENCE_SIGNATURE, check, header_of

from session_ledger.sign_in import HEADER_CHARS_MAX, SignInError, parse_header


@pytest.mark.parametrize("name", sorted({**BASIC, "signature": ""}))
@pytest.mark.parametrize("value", ["absent", "", None, 1, True, [], {}], ids=repr)
def test_every_required_member_is_a_string(name: str, value: object) -> None:
    body: dict[str, Any] = {**BASIC, "signature": REFERENCE_SIGNATURE, name: value}
    if value == "absent":
        del body[name]
    with pytest.raises(SignInError, match=f"^{name} "):
        parse_header(header_of(body))


@pytest.mark.parametrize("name", sorted(OPTIONAL))
@pytest.mark.parametrize("value", [None, 1, {}, "text", [1], [None]], ids=repr)
def test_optional_members_have_their_type_or_are_absent(name: str, value: object) -> None:
    if isinstance(value, str):
        value = "text" if name == "resources" else ["text"]
    with pytest.raises(SignInError, match=f"^{name} "):
        parse_header(header_of({**BASIC, "signature": REFERENCE_SIGNATURE, name: value}))


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x7f", "\x85", "\u2028", "\ud800"])
@pytest.mark.parametrize("name", [*BASIC, "statement", "requestId", "resources"])
def test_no_member_can_write_a_line_of_the_text(name: str, character: str) -> None:
    text = f"x{character}Nonce: y"
    value: object = [text] if name == "resources" else text
    with pytest.raises(SignInError, match=f"^{name} holds control characters"):
        parse_header(header_of({**BASIC, "signature": REFERENCE_SIGNATURE, name: value}))


@pytest.mark.parametrize("body", [None, [], [BASIC], "text", 1, True])
def test_the_header_holds_an_object(body: object) -> None:
    with pytest.raises(SignInError, match="JSON object"):
        parse_header(header_of(body))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "e30",
        "e30==",
        " e30=",
        "e30=\n",
        "e31=",
        "e30=e30=",
        "-_==",
        "=",
        "é" * 4,
    ],
)
def test_the_header_is_base64_in_its_only_spelling(text: str) -> None:
    with pytest.raises(SignInError, match="standard base64 with padding"):
        parse_header(text)


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"\xef\xbb\xbf{}", b"{", b"{} {}", b"NaN", b"[[[[[]]]]]"]
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(SignInError, match="does not hold JSON"):
        parse_header(base64.b64encode(body).decode())


def test_a_long_header_is_refused_before_it_is_decoded() -> None:
    fields = {**BASIC, "signature": REFERENCE_SIGNATURE, "statement": ""}
    room = HEADER_CHARS_MAX // 4 * 3 - len(json.dumps(fields))
    fits = header_of({**fields, "statement": "x" * room})
    assert len(fits) == HEADER_CHARS_MAX
    parse_header(fits)
    with pytest.raises(SignInError, match="longer than"):
        parse_header(header_of({**fields, "statement": "x" * (room + 1)}))
    with pytest.raises(SignInError, match="longer than"):
        parse_header("!" * (HEADER_CHARS_MAX + 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def check_only_refuses(header: str) -> None:
    with suppress(SignInError):
        check(header)


@given(st.binary(max_size=600), st.booleans())
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes, encoded: bool) -> None:
    header = base64.b64encode(data).decode() if encoded else data.decode("latin-1")
    with pytest.raises(SignInError):
        check(header)


@given(st.text())
def test_arbitrary_text_is_refused_and_nothing_else(text: str) -> None:
    with pytest.raises(SignInError):
        check(text)


@given(st.dictionaries(st.sampled_from([*BASIC, *OPTIONAL, "signature"]), JSON, max_size=4))
def test_arbitrary_members_are_refused_and_nothing_else(changes: dict[str, Any]) -> None:
    body = json.dumps({**BASIC, "signature": REFERENCE_SIGNATURE, **changes})
    check_only_refuses(base64.b64encode(body.encode()).decode())


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_changes_nothing_or_is_refused(at: int, mask: int) -> None:
    body = {**BASIC, "signature": REFERENCE_SIGNATURE}
    data = bytearray(json.dumps(body).encode())
    data[at % len(data)] ^= mask
    with suppress(SignInError):
        check(base64.b64encode(data).decode())
        assert json.loads(data) == body  # a space became another one
