"""Requests to the facilitator: read strictly, refused with the published reasons."""

import base64
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_ledger.challenge import NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.x402.exact import (
    ExactError,
    ExactRequest,
    ExactRequirements,
    parse_facilitator_request,
    requested_network,
)

PAY_TO, FEE_PAYER, OTHER = (base58_encode(bytes([number]) * 32) for number in (7, 8, 9))
MINT = NETWORKS["devnet"].usdc_mint
CAIP_2 = NETWORKS["devnet"].chain_id
TRANSACTION = bytes(range(200))
URL = "https://shop.example/report"

V2_REQUIREMENTS: dict[str, Any] = {
    "scheme": "exact",
    "network": CAIP_2,
    "amount": "10000",
    "asset": MINT,
    "payTo": PAY_TO,
    "maxTimeoutSeconds": 60,
    "extra": {"feePayer": FEE_PAYER, "memo": "order-1"},
}
V2: dict[str, Any] = {
    "x402Version": 2,
    "paymentPayload": {
        "x402Version": 2,
        "accepted": deepcopy(V2_REQUIREMENTS),
        "payload": {"transaction": base64.b64encode(TRANSACTION).decode()},
        "resource": {"url": URL, "description": "A report", "mimeType": "text/html"},
    },
    "paymentRequirements": V2_REQUIREMENTS,
}
V1: dict[str, Any] = {
    "x402Version": 1,
    "paymentPayload": {
        "x402Version": 1,
        "scheme": "exact",
        "network": "solana-devnet",
        "payload": {"transaction": base64.b64encode(TRANSACTION).decode()},
    },
    "paymentRequirements": {
        "scheme": "exact",
        "network": "solana-devnet",
        "maxAmountRequired": "10000",
        "resource": URL,
        "description": "A report",
        "mimeType": "text/html",
        "payTo": PAY_TO,
        "maxTimeoutSeconds": 60,
        "asset": MINT,
        "outputSchema": None,
        "extra": {"feePayer": FEE_PAYER},
    },
}
ABSENT: Any = object()


def changed(body: dict[str, Any], *changes: tuple[str, Any]) -> dict[str, Any]:
    """A copy with the members at dotted paths replaced, or taken out."""
    made = deepcopy(body)
    for path, value in changes:
        *parents, name = path.split(".")
        place = made
        for parent in parents:
            place = place[parent]
        if value is ABSENT:
            del place[name]
        else:
            place[name] = value
    return made


def both(name: str, value: Any) -> tuple[tuple[str, Any], tuple[str, Any]]:
    """A change of what is asked and of what was accepted alike."""
    return (f"paymentRequirements.{name}", value), (f"paymentPayload.accepted.{name}", value)


def refused(body: Any) -> ExactError:
    with pytest.raises(ExactError) as error:
        parse_facilitator_request(body)
    assert error.value.message
    return error.value


def test_a_v2_request_is_read() -> None:
    assert parse_facilitator_request(V2) == ExactRequest(
        version=2,
        transaction=TRANSACTION,
        requirements=ExactRequirements(
            network=NETWORKS["devnet"],
            network_id=CAIP_2,
            amount=10_000,
            asset=MINT,
            pay_to=PAY_TO,
            fee_payer=FEE_PAYER,
            max_timeout_seconds=60,
            memo="order-1",
            resource=URL,
            description="A report",
        ),
    )


def test_a_v1_request_is_read() -> None:
    assert parse_facilitator_request(V1) == ExactRequest(
        version=1,
        transaction=TRANSACTION,
        requirements=ExactRequirements(
            network=NETWORKS["devnet"],
            network_id="solana-devnet",
            amount=10_000,
            asset=MINT,
            pay_to=PAY_TO,
            fee_payer=FEE_PAYER,
            max_timeout_seconds=60,
            resource=URL,
            description="A report",
        ),
    )


def test_the_version_may_stand_in_the_payload_alone() -> None:
    assert parse_facilitator_request(changed(V1, ("x402Version", ABSENT))).version == 1


def test_a_v2_payment_need_not_name_a_resource_and_may_name_one_of_another_scheme() -> None:
    bare = parse_facilitator_request(changed(V2, ("paymentPayload.resource", ABSENT)))
    assert bare.requirements.resource is None
    tool = changed(V2, ("paymentPayload.resource.url", "mcp://tool/weather"))
    assert parse_facilitator_request(tool).requirements.resource == "mcp://tool/weather"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([("x402Version", 1)], "invalid_x402_version"),
        ([("x402Version", None)], "invalid_x402_version"),
        ([("paymentPayload.x402Version", 3)], "invalid_x402_version"),
        ([("paymentPayload.x402Version", "2")], "invalid_x402_version"),
        ([("paymentPayload.x402Version", True)], "invalid_x402_version"),
        ([("paymentPayload.x402Version", ABSENT)], "invalid_x402_version"),
        ([("paymentPayload", None)], "invalid_payload"),
        ([("paymentPayload.accepted", ABSENT)], "invalid_payload"),
        ([("paymentPayload.accepted.extra", None)], "invalid_payload"),
        ([("paymentPayload.payload", "")], "invalid_payload"),
        ([("paymentPayload.resource.url", "")], "invalid_payload"),
        ([("paymentRequirements", [])], "invalid_payment_requirements"),
        ([("paymentRequirements.scheme", "upto")], "unsupported_scheme"),
        ([("paymentPayload.accepted.scheme", "upto")], "unsupported_scheme"),
        ([*both("network", "solana-devnet")], "invalid_network"),
        ([*both("network", "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z")], "invalid_network"),
        ([*both("network", 7)], "invalid_network"),
        (
            [("paymentPayload.accepted.network", NETWORKS["mainnet-beta"].chain_id)],
            "network_mismatch",
        ),
        ([*both("extra", {})], "invalid_exact_svm_payload_missing_fee_payer"),
        ([*both("extra", None)], "invalid_exact_svm_payload_missing_fee_payer"),
        ([*both("extra.feePayer", "")], "invalid_exact_svm_payload_missing_fee_payer"),
        ([*both("extra.feePayer", "key")], "invalid_payment_requirements"),
        ([*both("extra.memo", 7)], "invalid_payment_requirements"),
        ([*both("extra.memo", "m" * 257)], "invalid_payment_requirements"),
        ([*both("extra.note", "n" * 9_000)], "invalid_payment_requirements"),
        ([*both("amount", 10_000)], "invalid_payment_requirements"),
        ([*both("amount", "1.5")], "invalid_payment_requirements"),
        ([*both("payTo", "nobody")], "invalid_payment_requirements"),
        ([*both("asset", "USDC")], "invalid_payment_requirements"),
        ([*both("maxTimeoutSeconds", 0)], "invalid_payment_requirements"),
        ([("paymentPayload.accepted.amount", "9999")], "invalid_payment_requirements"),
        ([("paymentPayload.accepted.payTo", OTHER)], "invalid_payment_requirements"),
        ([("paymentPayload.accepted.asset", OTHER)], "invalid_payment_requirements"),
        ([("paymentPayload.accepted.maxTimeoutSeconds", 61)], "invalid_payment_requirements"),
        ([("paymentPayload.accepted.extra.feePayer", OTHER)], "invalid_payment_requirements"),
        ([("paymentPayload.accepted.extra.memo", ABSENT)], "invalid_payment_requirements"),
        ([("paymentRequirements.extra.note", None)], "invalid_payment_requirements"),
        (
            [
                ("paymentRequirements.extra.features", {"lookup": [1]}),
                ("paymentPayload.accepted.extra.features", {"lookup": [2]}),
            ],
            "invalid_payment_requirements",
        ),
    ],
)
def test_a_v2_request_is_refused_with_the_published_reason(
    changes: list[tuple[str, Any]], reason: str
) -> None:
    assert refused(changed(V2, *changes)).reason == reason


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("paymentPayload.x402Version", True, "invalid_x402_version"),
        ("paymentPayload.scheme", "upto", "unsupported_scheme"),
        ("paymentPayload.network", "solana", "network_mismatch"),
        ("paymentRequirements.network", CAIP_2, "invalid_network"),
        ("paymentRequirements.maxAmountRequired", ABSENT, "invalid_payment_requirements"),
        ("paymentRequirements.resource", ABSENT, "invalid_payment_requirements"),
        ("paymentRequirements.extra", None, "invalid_exact_svm_payload_missing_fee_payer"),
    ],
)
def test_a_v1_request_is_refused_with_the_published_reason(
    path: str, value: Any, reason: str
) -> None:
    assert refused(changed(V1, (path, value))).reason == reason


@pytest.mark.parametrize(
    "text", [None, "", "AAA", "AB==", "A-_A", " AAAA", "AAAA\n", "A" * 1_648, 7, ABSENT]
)
def test_a_transaction_that_is_no_base64_of_a_packet_could_not_be_decoded(text: Any) -> None:
    body = changed(V2, ("paymentPayload.payload.transaction", text))
    reason = "invalid_exact_svm_payload_transaction_could_not_be_decoded"
    assert refused(body).reason == reason


def test_the_largest_packet_is_read() -> None:
    text = base64.b64encode(bytes(1_232)).decode()
    body = changed(V2, ("paymentPayload.payload.transaction", text))
    assert len(parse_facilitator_request(body).transaction) == 1_232


def test_the_buyer_may_add_to_extra_and_a_renewed_blockhash_is_no_other_offer() -> None:
    body = changed(
        V2,
        ("paymentRequirements.extra.recentBlockhash", "new"),
        ("paymentPayload.accepted.extra.recentBlockhash", "old"),
        ("paymentRequirements.extra.lastValidBlockHeight", "9"),
        ("paymentPayload.accepted.extra.note", "mine"),
        ("paymentRequirements.extra.features", {"lookup": [1], "none": None}),
        ("paymentPayload.accepted.extra.features", {"lookup": [1], "none": None, "more": 1}),
    )
    assert parse_facilitator_request(body).requirements.memo == "order-1"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (V1, "solana-devnet"),
        (V2, CAIP_2),
        ({"paymentRequirements": {"network": "anything"}}, "anything"),
        ({"paymentRequirements": {"network": "n" * 129}}, ""),
        ({"paymentRequirements": {"network": "\x00"}}, ""),
        ({"paymentRequirements": {"network": 7}}, ""),
        (None, ""),
    ],
)
def test_an_answer_names_the_network_as_it_was_asked(body: Any, name: str) -> None:
    assert requested_network(body) == name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PATHS = [
    "x402Version",
    "paymentPayload",
    "paymentPayload.accepted",
    "paymentPayload.accepted.extra",
    "paymentPayload.payload.transaction",
    "paymentPayload.resource",
    "paymentPayload.resource.url",
    *(f"paymentRequirements.{name}" for name in V2_REQUIREMENTS),
]


@given(json_values, st.sampled_from(PATHS))
def test_no_request_raises_anything_but_the_modules_own_error(value: Any, path: str) -> None:
    for body in (value, changed(V2, (path, value))):
        requested_network(body)
        with suppress(ExactError):
            parse_facilitator_request(body)
