"""The bounded JSON reader: what it takes, what it refuses, and what it keeps of the source."""

import math
import time
from contextlib import suppress

import pytest

from session_ledger.json_text import (
    DEPTH_MAX,
    JsonTextError,
    Member,
    NotTheKindError,
    elements,
    members,
    parse,
)

DEEP = 100_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0", 0),
        ("9007199254740991", 2**53 - 1),
        ("-9007199254740991", -(2**53) + 1),
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\ud800"', "\ud800"),
        ('"\\u0000"', "\0"),
        (' \t\r\n{"a" : [ ] } \n', {"a": []}),
        ('{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
        ('{"__proto__":1}', {"__proto__": 1}),
        (b'"\xc3\xa9"', "é"),
        ('"\u2028"', "\u2028"),
    ],
)
def test_reads_json(text: str | bytes, value: object) -> None:
    parsed = parse(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.0", 1.0),
        ("1e3", 1000.0),
        ("9007199254740992", 2.0**53),
        ("9007199254740993", 2.0**53),
        ("-9007199254740993", -(2.0**53)),
        ("1e400", math.inf),
        ("-" + "9" * 5_000, -math.inf),
        ("0." + "3" * 5_000, 1 / 3),
    ],
)
def test_other_numbers_are_the_nearest_double(text: str, value: float) -> None:
    parsed = parse(text)
    assert (parsed, type(parsed)) == (value, float)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "NaN",
        "Infinity",
        "-Infinity",
        '{"a":NaN}',
        "\ufeff{}",
        b"\xef\xbb\xbf{}",
        b"\xff",
        b'"\xed\xa0\x80"',  # a surrogate in UTF-8 clothing
        '"\ud800"',  # raw, not as an escape: no UTF-8 gives it
        '"\0"',
        '"\n"',
        "\0",
        "01",
        "+1",
        "1.",
        ".5",
        "1e",
        "0x10",
        "١",
        "'a'",
        '"\\x41"',
        '"\\u12"',
        '"',
        '"\\',
        "[1,]",
        '{"a":1,}',
        '{"a" 1}',
        "{a:1}",
        '{1:"a"}',
        "[1",
        "{} {}",
        "nul",
        "True",
        "\u00a0{}",
        "/**/{}",
    ],
)
def test_refuses_what_is_not_json(text: str | bytes) -> None:
    for read in (parse, members, elements):
        with pytest.raises(JsonTextError):
            read(text)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_refuses_deep_nesting_without_recursing(opening: str) -> None:
    for read in (parse, members, elements):
        with pytest.raises(JsonTextError):
            read(opening * DEEP)


def test_the_depth_limit_counts_levels_and_nothing_else() -> None:
    assert parse("[" * DEPTH_MAX + "]" * DEPTH_MAX)
    with pytest.raises(JsonTextError, match="nested more than 32 levels"):
        parse("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))
    brackets_in_strings = '["' + "[{" * 99 + '\\"[[","' + "[" * 99 + '"]'
    assert parse(brackets_in_strings) == ["[{" * 99 + '"[[', "[" * 99]
    side_by_side = f"[{','.join(['{}'] * 99)}]"
    assert parse(side_by_side, depth_max=2) == [{}] * 99
    with pytest.raises(JsonTextError):
        parse(side_by_side, depth_max=1)


@pytest.mark.parametrize(
    "text", ['"' + '\\"' * 500_000, "[" * 40 + '"\\' * 500_000, " " * 1_000_000, "9" * 1_000_000]
)
def test_hostile_texts_cost_linear_time(text: str) -> None:
    started = time.perf_counter()
    with suppress(JsonTextError):
        parse(text)
    assert time.perf_counter() - started < 1  # quadratic would be many minutes


def test_members_keeps_the_source_of_each_value() -> None:
    text = '\n{ "a" : {"x": 1.0, "é":"\\u00e9"} ,"b":[ 1 ], "a\\u0062": "\\/" , "n":null}\t'
    assert members(text) == {
        "a": Member({"x": 1.0, "é": "é"}, '{"x": 1.0, "é":"\\u00e9"}'),
        "b": Member([1], "[ 1 ]"),
        "ab": Member("/", '"\\/"'),
        "n": Member(None, "null"),
    }
    assert members(text.encode()) == members(text)
    assert members("{ }") == {}


def test_members_keeps_the_last_of_repeated_names_value_and_text_alike() -> None:
    assert members('{"a":1e0,"b":2,"\\u0061":3.0}')["a"] == Member(3.0, "3.0")


def test_elements_keeps_the_source_of_each_value() -> None:
    assert elements(' [ {"a" : 1},"x" ,2e1 ] ') == [
        Member({"a": 1}, '{"a" : 1}'),
        Member("x", '"x"'),
        Member(20.0, "2e1"),
    ]
    assert elements("[]") == []


@pytest.mark.parametrize("text", ["[]", "null", "1", '"a"', "true"])
def test_members_says_when_the_value_is_another_kind(text: str) -> None:
    with pytest.raises(NotTheKindError):
        members(text)
    with pytest.raises(NotTheKindError):
        elements("{}")


@pytest.mark.parametrize(
    "text", ['{"a":1}}', '{"a":1', '{"a":1 "b":2}', '{"a":1,,}', '{"a":1,}', '{"a"}', "{,}"]
)
def test_members_refuses_broken_objects(text: str) -> None:
    with pytest.raises(JsonTextError, match="at character"):
        members(text)


@pytest.mark.parametrize("text", ["[1 2]", "[1,,2]", "[1,]", "[,]", "[1]]", "[1}"])
def test_elements_refuses_broken_arrays(text: str) -> None:
    with pytest.raises(JsonTextError, match="at character"):
        elements(text)
