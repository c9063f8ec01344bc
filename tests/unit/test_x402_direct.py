"""The wire objects of direct payments: read strictly, written so that both dialects read them."""

import base64
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_ledger.encoding import base58_encode
from session_ledger.x402.direct import (
    PaymentPayload,
    PaymentRequirements,
    PaymentResponse,
    parse_payment_header,
    parse_payment_required,
    parse_payment_response,
    parse_requirements,
    payment_header,
    payment_required_body,
    payment_response_header,
)
from session_ledger.x402.errors import X402ParseError
from session_ledger.x402.wire import WireError

PAY_TO = base58_encode(bytes([7]) * 32)
MINT = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
SIGNATURE = base58_encode(bytes(range(1, 65)))
SHORT_KEY = "1" * 32
KEY_OF_43 = base58_encode(bytes([0x0C]) + bytes([200]) * 31)
URL = "http://localhost:4402/api/premium"

REQUIREMENTS: dict[str, Any] = {
    "scheme": "solanaTransferChecked",
    "network": "solana-devnet",
    "maxAmountRequired": "100000",
    "resource": URL,
    "payTo": PAY_TO,
    "asset": MINT,
}
HEADER: dict[str, Any] = {
    "x402Version": 1,
    "scheme": "solanaTransferChecked",
    "network": "solana-devnet",
    "payload": {
        "signature": SIGNATURE,
        "from": PAY_TO,
        "amount": "100000",
        "mint": MINT,
        "timestamp": 1_699_564_800_000,
    },
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def with_payload(**changes: Any) -> dict[str, Any]:
    return {**HEADER, "payload": {**HEADER["payload"], **changes}}


def test_the_documented_requirements_are_read() -> None:
    documented = {
        **REQUIREMENTS,
        "description": "Premium content access",
        "mimeType": "application/json",
        "maxTimeoutSeconds": 30,
        "outputSchema": {"type": "object"},
        "extra": {"memo": "order-1", "reference": SHORT_KEY},
    }
    read = parse_requirements(documented)
    assert read == PaymentRequirements(
        network="solana-devnet",
        max_amount_required=100_000,
        resource=URL,
        pay_to=PAY_TO,
        asset=MINT,
        description="Premium content access",
        mime_type="application/json",
        max_timeout_seconds=30,
        output_schema={"type": "object"},
        extra={"memo": "order-1", "reference": SHORT_KEY},
    )
    assert (read.memo, read.reference) == ("order-1", SHORT_KEY)
    assert read.to_json() == documented


def test_the_required_members_are_enough_and_null_is_absent() -> None:
    bare = parse_requirements(REQUIREMENTS)
    nulls = dict.fromkeys(["description", "mimeType", "maxTimeoutSeconds", "outputSchema", "extra"])
    assert parse_requirements({**REQUIREMENTS, **nulls}) == bare
    assert bare.to_json() == REQUIREMENTS
    assert (bare.memo, bare.reference) == (None, None)


@pytest.mark.parametrize("key", [SHORT_KEY, KEY_OF_43, PAY_TO])
def test_t1_keys_of_32_to_44_characters_are_keys(key: str) -> None:
    assert len(SHORT_KEY) == 32
    assert len(KEY_OF_43) == 43
    read = parse_requirements({**REQUIREMENTS, "payTo": key, "asset": key})
    assert (read.pay_to, read.asset) == (key, key)
    payload = parse_payment_header(encoded(with_payload(**{"from": key, "mint": key})))
    assert (payload.payer, payload.mint) == (key, key)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scheme", None),
        ("scheme", " "),
        ("scheme", "a\x00b"),
        ("network", 7),
        ("network", "n" * 129),
        ("maxAmountRequired", 100_000),
        ("maxAmountRequired", "0.1"),
        ("maxAmountRequired", "01"),
        ("maxAmountRequired", "-1"),
        ("maxAmountRequired", "١"),
        ("maxAmountRequired", str(2**64)),
        ("resource", "/api/premium"),
        ("resource", "ftp://host/file"),
        ("resource", "http://["),
        ("resource", "http:///path"),
        ("resource", "http://host/a b"),
        ("resource", "http://host/\ud800"),
        ("resource", URL + "a" * 2_048),
        ("payTo", SIGNATURE),
        ("payTo", "0" * 44),
        ("payTo", base58_encode(bytes([7]) * 31)),
        ("asset", ""),
        ("asset", base58_encode(bytes([7]) * 33)),
        ("description", 1),
        ("description", "a\x00b"),
        ("mimeType", "\ud800"),
        ("maxTimeoutSeconds", 0),
        ("maxTimeoutSeconds", True),
        ("maxTimeoutSeconds", 1.5),
        ("maxTimeoutSeconds", float("inf")),
        ("outputSchema", []),
        ("extra", "memo"),
        ("extra", {"memo": 1}),
        ("extra", {"memo": ""}),
        ("extra", {"memo": "é" * 129}),
        ("extra", {"memo": "\x00"}),
        ("extra", {"reference": "key"}),
        ("extra", {"note": ["\ud800"]}),
        ("extra", {"note": float("inf")}),
        ("extra", {"note": "n" * 9_000}),
    ],
)
def test_malformed_requirements_are_refused_by_the_name_of_the_member(
    name: str, value: Any
) -> None:
    with pytest.raises(X402ParseError, match="Invalid payment requirements") as refused:
        parse_requirements({**REQUIREMENTS, name: value})
    assert refused.value.reason.startswith(name)


@pytest.mark.parametrize("memo", ["\ud800", "\x00", ""])
def test_a_memo_that_no_transaction_can_carry_is_none_of_a_hand_made_offer(memo: str) -> None:
    offer = replace(parse_requirements(REQUIREMENTS), extra={"memo": memo})
    with pytest.raises(WireError, match=r"extra\.memo"):
        _ = offer.memo


@pytest.mark.parametrize("name", list(REQUIREMENTS))
def test_each_required_member_is_required(name: str) -> None:
    with pytest.raises(X402ParseError) as refused:
        parse_requirements({key: value for key, value in REQUIREMENTS.items() if key != name})
    assert refused.value.reason.startswith(name)


def test_a_payment_header_is_read_as_it_was_claimed() -> None:
    claimed = PaymentPayload(
        signature=SIGNATURE,
        payer=PAY_TO,
        amount=100_000,
        mint=MINT,
        timestamp=1_699_564_800_000,
        network="solana-devnet",
    )
    assert parse_payment_header(encoded(HEADER)) == claimed
    assert json.loads(base64.b64decode(payment_header(claimed))) == HEADER


def test_what_the_buyer_claims_is_not_judged_here() -> None:
    read = parse_payment_header(
        encoded({**HEADER, "x402Version": 2, "scheme": "exact", "network": "base-sepolia"})
    )
    assert (read.x402_version, read.scheme, read.network) == (2, "exact", "base-sepolia")


@pytest.mark.parametrize(
    "header",
    [
        {**HEADER, "x402Version": 0},
        {**HEADER, "x402Version": "1"},
        {**HEADER, "payload": None},
        {**HEADER, "scheme": ""},
        {**HEADER, "network": "a\nb"},
        with_payload(signature=SIGNATURE[:-2]),
        with_payload(signature="l" * 88),
        with_payload(signature=[SIGNATURE]),
        with_payload(**{"from": "nobody"}),
        with_payload(amount=100_000),
        with_payload(amount="1e5"),
        with_payload(mint=None),
        with_payload(timestamp=0),
        with_payload(timestamp="1699564800000"),
        with_payload(timestamp=2**53),
        [],
        "text",
        None,
    ],
)
def test_t16_a_malformed_header_has_the_published_text(header: Any) -> None:
    with pytest.raises(X402ParseError) as refused:
        parse_payment_header(encoded(header))
    assert str(refused.value) == "Invalid X-PAYMENT header format"
    assert refused.value.reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        json.dumps(HEADER),
        encoded(HEADER) + "=",
        encoded(HEADER) + "\n",
        base64.b64encode(json.dumps(HEADER).encode() + b" " * 8_192).decode(),
        "e30",
        "e31=",
        "ééé=",
    ],
)
def test_only_standard_base64_with_padding_is_decoded(text: str) -> None:
    with pytest.raises(X402ParseError) as refused:
        parse_payment_header(text)
    assert str(refused.value) == "Invalid X-PAYMENT header format"


@pytest.mark.parametrize("text", ["{", "NaN", '{"a":1,}', "\xff", "[" * 30 + "]" * 30])
def test_base64_of_no_json_has_the_published_text(text: str) -> None:
    with pytest.raises(X402ParseError, match="X-PAYMENT header is not valid JSON"):
        parse_payment_header(base64.b64encode(text.encode("latin-1")).decode())


def test_a_402_body_offers_its_requirements_and_says_why() -> None:
    requirements = parse_requirements(REQUIREMENTS)
    body = payment_required_body([requirements], "Payment already processed")
    assert body == {
        "x402Version": 1,
        "accepts": [REQUIREMENTS],
        "error": "Payment already processed",
    }
    read = parse_payment_required(body)
    assert read.accepts == (requirements,)
    assert read.error == "Payment already processed"
    assert parse_payment_required(payment_required_body([requirements])).error is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "Invalid 402 response format. Expected standard x402 structure."),
        ({}, "Invalid 402 response format. Expected standard x402 structure."),
        ({"x402Version": 1}, "Invalid 402 response format. Expected standard x402 structure."),
        (
            {"x402Version": 1, "accepts": [{}], "error": None},
            "Invalid 402 response format. Expected standard x402 structure.",
        ),
        (
            {"x402Version": 1, "accepts": [REQUIREMENTS] * 33},
            "Invalid 402 response format. Expected standard x402 structure.",
        ),
        ({"x402Version": 1, "accepts": []}, "Server did not return any payment options"),
    ],
)
def test_another_402_body_has_the_published_text(body: Any, message: str) -> None:
    with pytest.raises(X402ParseError) as refused:
        parse_payment_required(body)
    assert str(refused.value) == message


def test_a_payment_response_has_the_names_of_both_dialects() -> None:
    response = PaymentResponse(True, SIGNATURE, "localnet", payer=PAY_TO)
    header = payment_response_header(response)
    assert json.loads(base64.b64decode(header)) == {
        "success": True,
        "error": None,
        "txHash": SIGNATURE,
        "networkId": "localnet",
        "transaction": SIGNATURE,
        "network": "localnet",
        "payer": PAY_TO,
    }
    assert parse_payment_response(header) == response


def test_a_payment_response_of_either_dialect_is_read() -> None:
    test_server = {"success": True, "error": None, "txHash": SIGNATURE, "networkId": "localnet"}
    standard = {"success": False, "transaction": "", "network": "solana", "errorReason": "late"}
    assert parse_payment_response(encoded(test_server)) == PaymentResponse(
        True, SIGNATURE, "localnet"
    )
    assert parse_payment_response(encoded(standard)) == PaymentResponse(
        False, "", "solana", error="late"
    )


@pytest.mark.parametrize("text", ["", "e30=", encoded([]), encoded({"success": 1}), "bm8="])
def test_another_payment_response_has_the_published_text(text: str) -> None:
    with pytest.raises(X402ParseError, match="Invalid X-PAYMENT-RESPONSE header"):
        parse_payment_response(text)


@given(json_values, st.sampled_from([*REQUIREMENTS, "extra", "outputSchema", "description"]))
def test_no_requirements_raise_anything_but_the_parse_error(value: Any, name: str) -> None:
    for given_value in (value, {**REQUIREMENTS, name: value}, {**REQUIREMENTS, "extra": value}):
        with suppress(X402ParseError):
            json.dumps(parse_requirements(given_value).to_json(), ensure_ascii=False).encode()
        with suppress(X402ParseError):
            parse_payment_required({"x402Version": 1, "accepts": [given_value], "error": value})


@given(st.text() | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_no_header_raises_anything_but_the_parse_error(text: str) -> None:
    with pytest.raises(X402ParseError):
        parse_payment_header(text)
    with pytest.raises(X402ParseError):
        parse_payment_response(text)


@given(json_values, st.sampled_from([*HEADER, *HEADER["payload"]]))
def test_no_member_of_a_header_raises_anything_but_the_parse_error(value: Any, name: str) -> None:
    changed = {**HEADER, name: value} if name in HEADER else with_payload(**{name: value})
    with suppress(X402ParseError):
        parse_payment_header(encoded(changed))
    with suppress(X402ParseError):
        parse_payment_response(encoded({"success": True, "error": value, "payer": value}))


@given(
    st.builds(
        PaymentPayload,
        signature=st.binary(min_size=64, max_size=64).map(base58_encode),
        payer=st.binary(min_size=32, max_size=32).map(base58_encode),
        amount=st.integers(0, 2**64 - 1),
        mint=st.binary(min_size=32, max_size=32).map(base58_encode),
        timestamp=st.integers(1, 2**53 - 1),
        network=st.sampled_from(["localnet", "solana-devnet"]),
    )
)
def test_every_payment_is_read_back_as_it_was_written(payload: PaymentPayload) -> None:
    assert parse_payment_header(payment_header(payload)) == payload
