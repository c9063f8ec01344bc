"""Base58 and lenient base64, character by character."""

import base64

import pytest

from session_ledger.encoding import (
    BASE58_CHARS_MAX,
    Base58Error,
    Base64Error,
    atob,
    base58_decode,
    base58_encode,
)

SIGNATURE = bytes(range(64))
CANONICAL = base64.b64encode(SIGNATURE).decode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\0", "1"),
        (b"\0\0\1", "112"),
        (b"\x39", "z"),
        (b"\x3a", "21"),
        (b"hello world", "StV1DL6CwTryKyV"),
        (bytes(32), "1" * 32),
    ],
)
def test_base58_of_known_bytes(data: bytes, text: str) -> None:
    assert base58_encode(data) == text
    assert base58_decode(text) == data


@pytest.mark.parametrize("char", ["0", "O", "I", "l", " ", "+", "\0", "é", "١", "😀", "\ud800"])
def test_base58_names_the_first_character_outside_its_alphabet(char: str) -> None:
    with pytest.raises(Base58Error, match="Invalid base58 character: ") as caught:
        base58_decode(f"2{char}0")
    assert str(caught.value).endswith(char)


def test_base58_refuses_a_long_text_before_the_quadratic_work() -> None:
    assert len(base58_decode("z" * BASE58_CHARS_MAX)) == 94
    with pytest.raises(Base58Error, match="longer than 128 characters"):
        base58_decode("z" * (BASE58_CHARS_MAX + 1))


@pytest.mark.parametrize(
    "text",
    [
        CANONICAL,
        CANONICAL.rstrip("="),
        f" \t{CANONICAL[:20]}\n\f\r {CANONICAL[20:]} ",
        f"{CANONICAL[:-1]} = ",
        CANONICAL[:-3] + "x==",  # the unused bits of the last digit are set
    ],
)
def test_atob_reads_every_spelling_that_node_reads(text: str) -> None:
    assert atob(text) == SIGNATURE


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_atob_of_nothing_is_nothing(text: str) -> None:
    assert atob(text) == b""


@pytest.mark.parametrize(
    "text",
    [
        "***",
        "ab-_",
        "=",
        "====",
        "AA=A",
        "AAA===",
        "é",
        "AAAA\u00a0",
        "AA\0A",
        "AA\x0bAA",
        "😀",
        "\ud800",
    ],
)
def test_atob_refuses_other_characters(text: str) -> None:
    with pytest.raises(Base64Error, match=r"\AInvalid character\Z"):
        atob(text)


@pytest.mark.parametrize("text", ["AA=", "AAA==", "AAAA=", "AAAA==", "AAAA===="])
def test_atob_refuses_padding_that_does_not_fit(text: str) -> None:
    with pytest.raises(Base64Error, match=r"\AInvalid character\Z"):
        atob(text)


@pytest.mark.parametrize("text", ["A", "A=", "A==", "AAAAA", "AAAA A"])
def test_atob_refuses_lengths_that_no_bytes_have(text: str) -> None:
    text_of_node = r"\AThe string to be decoded is not correctly encoded\.\Z"
    with pytest.raises(Base64Error, match=text_of_node):
        atob(text)
