"""The canonical text and the conversions of JavaScript, one quirk a test."""

import math
from typing import Any

import pytest

from session_ledger.canonical import canonical_text
from session_ledger.ecmascript import UNDEFINED, is_truthy, number_text, string_of
from session_ledger.json_text import parse


def canonical_of(raw: str) -> str:
    return canonical_text(parse(raw))


def test_keys_are_sorted_at_every_level() -> None:
    assert canonical_of('{"b":[{"d":1,"c":2}],"a":{"z":0,"y":0}}') == (
        '{"a":{"y":0,"z":0},"b":[{"c":2,"d":1}]}'
    )


def test_keys_are_sorted_by_utf16_code_units() -> None:
    assert canonical_of('{"\ue000":1,"😀":2,"z":3}') == '{"z":3,"😀":2,"\ue000":1}'
    letters_only = '{"\ufb00":1,"\U0001d400":2,"z":3}'
    assert canonical_of(letters_only) == '{"z":3,"\U0001d400":2,"\ufb00":1}'


def test_array_indices_come_first_in_numeric_order() -> None:
    raw = '{"a":0,"10":1,"2":2,"!":3,"0":4}'
    assert canonical_of(raw) == '{"0":4,"2":2,"10":1,"!":3,"a":0}'


def test_only_canonical_indices_up_to_2_to_the_32_minus_2_come_first() -> None:
    raw = '{"4294967295":1,"4294967294":2,"01":3,"-1":4,"1.5":5,"9":6,"١":7}'
    assert canonical_of(raw) == (
        '{"9":6,"4294967294":2,"-1":4,"01":3,"1.5":5,"4294967295":1,"١":7}'
    )


def test_an_own_proto_key_is_dropped_at_every_level() -> None:
    assert canonical_of('{"a":{"__proto__":{"x":1},"b":1},"__proto__":null}') == '{"a":{"b":1}}'
    assert canonical_of('{"__proto_":1,"proto":2}') == '{"__proto_":1,"proto":2}'


def test_a_lone_surrogate_becomes_an_escape() -> None:
    assert canonical_of('{"\\uDFFF":"a\\uD800b"}') == '{"\\udfff":"a\\ud800b"}'
    assert canonical_of('"\\ud83d\\ude00"') == '"😀"'


def test_strings_are_escaped_as_little_as_possible() -> None:
    raw = '"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001\\u001F\\u007f\\u2028é<\\u0000"'
    assert canonical_of(raw) == '"\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\u2028é<\\u0000"'


def test_no_unicode_normalisation() -> None:
    assert canonical_of('["é","e\\u0301"]') == '["é","e\u0301"]'


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("1.0", "1"),
        ("1e2", "100"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("-1", "-1"),
        ("-1.50", "-1.5"),
        ("0.1", "0.1"),
        ("123.456", "123.456"),
        ("1e21", "1e+21"),
        ("1e20", "100000000000000000000"),
        ("18446744073709551616", "18446744073709552000"),
        ("9007199254740993", "9007199254740992"),
        ("0.000001", "0.000001"),
        ("0.0000001", "1e-7"),
        ("1.25e-7", "1.25e-7"),
        ("5e-324", "5e-324"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("1e-400", "0"),
        ("1e400", "null"),
        ("-1e400", "null"),
    ],
)
def test_numbers_are_written_as_doubles(raw: str, text: str) -> None:
    assert canonical_of(raw) == text


def test_literals_are_kept() -> None:
    assert canonical_of('[null,true,false,{},[],""]') == '[null,true,false,{},[],""]'


def test_integers_of_python_go_through_double_like_those_of_javascript() -> None:
    assert canonical_text([2**64, 10**400, -(10**400), math.nan]) == (
        "[18446744073709552000,null,null,null]"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (UNDEFINED, "undefined"),
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (25519, "25519"),
        (1.5, "1.5"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
        ("a", "a"),
        ([], ""),
        (["a"], "a"),
        ([1, [None, ["b"]], {}], "1,,b,[object Object]"),
        ({}, "[object Object]"),
    ],
)
def test_string_of_converts_as_javascript(value: Any, text: str) -> None:
    assert string_of(value) == text


@pytest.mark.parametrize("value", [UNDEFINED, None, False, 0, 0.0, -0.0, ""])
def test_falsy_values(value: Any) -> None:
    assert not is_truthy(value)


@pytest.mark.parametrize("value", [True, 1, -0.5, "0", "false", [], {}, math.inf])
def test_truthy_values(value: Any) -> None:
    assert is_truthy(value)


def test_number_text_of_a_double_that_is_a_whole_number() -> None:
    assert number_text(2.0**53) == "9007199254740992"
    assert number_text(-0.0) == "0"
