"""The stand-in for the reference's session server gives every answer that was recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.dexter_client import voucher_header
from tests.e2e.dexter_javascript import Thrown, canonicalize, number_text, parse, stringify
from tests.e2e.dexter_verifier import DOMAIN, SessionServer

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "dexter_vouchers.json").read_text(encoding="utf-8")
)
CASES = [case for case in VECTORS["cases"] if "construct_error" not in case]
REFUSED = [case for case in VECTORS["cases"] if "construct_error" in case]


def play(server: SessionServer, step: dict[str, Any]) -> Any:
    match step["op"]:
        case "verify":
            try:
                answer = server.verify(parse(step["raw"]))
            except Thrown as thrown:
                return {"throws": {"name": thrown.name, "message": thrown.message}}
            return {name: answer[name] for name in answer if name != "voucher"}
        case "context":
            return server.context(step["channelId"])
        case "remove":
            return server.remove(step["channelId"])
        case _:
            return server.challenge()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_session_server_answers_exactly_as_recorded(case: dict[str, Any]) -> None:
    server = SessionServer(**case["server"])
    for step in case["steps"]:
        assert play(server, step) == step.get("expect")


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["id"])
def test_a_server_without_a_recipient_is_refused_as_recorded(case: dict[str, Any]) -> None:
    with pytest.raises(Thrown) as refused:
        SessionServer(**case["server"])
    assert refused.value.message == case["construct_error"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_signed_text_of_an_accepted_voucher_is_the_recorded_one(case: dict[str, Any]) -> None:
    for step in case["steps"]:
        if step["op"] == "verify" and step["expect"].get("valid"):
            voucher = parse(step["raw"])["voucher"]
            assert DOMAIN + stringify(canonicalize(voucher)) == step["preimage"]


def test_every_recorded_case_is_played() -> None:
    assert len(CASES) + len(REFUSED) == VECTORS["counts"]["cases"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1.0", "1"),
        ("-0", "0"),
        ("1e2", "100"),
        ("1e21", "1e+21"),
        ("123456789012345680000", "123456789012345680000"),
        ("9007199254740993", "9007199254740992"),
        ("0.000001", "0.000001"),
        ("1e-7", "1e-7"),
        ("-1.5e-8", "-1.5e-8"),
        ("5e-324", "5e-324"),
        ("1e400", "null"),
    ],
)
def test_a_number_is_written_as_javascript_writes_it(number: str, text: str) -> None:
    assert stringify(parse(number)) == text
    assert number_text(float(number)) == ("Infinity" if text == "null" else text)


def test_keys_are_sorted_by_utf_16_unit_behind_array_indices_and_proto_is_lost() -> None:
    voucher = parse('{"\uffff":1,"\U0001f600":2,"__proto__":3,"10":4,"9":5,"a":[{"c":6,"b":7}]}')
    wanted = '{"9":5,"10":4,"a":[{"b":7,"c":6}],"\U0001f600":2,"\uffff":1}'
    assert stringify(canonicalize(voucher)) == wanted


def test_a_voucher_outside_latin_1_cannot_travel_in_the_header() -> None:
    assert voucher_header({"voucher": {"meter": "é"}}) == b'{"voucher":{"meter":"\xe9"}}'
    with pytest.raises(UnicodeEncodeError):
        voucher_header({"voucher": {"meter": "語"}})
