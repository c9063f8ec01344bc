"""The reference's recorded answers, through parsing, verification and a model of its session.

The model stands for the state-dependent rules only; everything before them is the real code.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from service.domain.errors import VoucherRejected
from service.domain.voucher import Expected, VerifiedVoucher, verify
from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS, Challenge
from session_ledger.voucher import message_bytes, parse_envelope

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "dexter_vouchers.json").read_text(encoding="utf-8")
)
CASES = [case for case in VECTORS["cases"] if "construct_error" not in case]
MATCH = [pytest.param(case, id=case["id"]) for case in CASES if case["policy"] == "match"]
DIVERGE = [pytest.param(case, id=case["id"]) for case in CASES if case["policy"] == "diverge"]

# Where we leave the reference: the code with which each such step is refused.
OUR_REFUSALS = {
    "sig-malleable-S+L": {0: "invalid_signature"},
    "signer-array": {0: "signature_verification_failed", 1: "signature_verification_failed"},
    "units-zero-string": {0: "malformed_voucher", 1: "malformed_voucher"},
    "units-negative": {0: "malformed_voucher"},
    "units-float": {0: "malformed_voucher"},
    "amount-over-u64": {0: "malformed_voucher", 1: "malformed_voucher"},
    "amount-float": {0: "malformed_voucher"},
    "amount-word": {1: "malformed_voucher"},
    "amount-number": {0: "malformed_voucher", 1: "malformed_voucher"},
    "amount-true": {0: "malformed_voucher"},
    "seq-string-lexi": {0: "malformed_voucher", 1: "malformed_voucher", 2: "malformed_voucher"},
    "seq-missing-later": {1: "malformed_voucher", 2: "sequence_not_monotonic"},
    "seq-null": {0: "malformed_voucher", 2: "amount_not_monotonic"},
    "seq-2^53+1": {0: "invalid_signature", 1: "malformed_voucher"},
    "uni-lone-surrogate": {0: "malformed_voucher"},
    "key-int-order": {1: "invalid_signature"},
    "extra-signed": {0: "malformed_voucher"},
    "unchecked-chain": {0: "network_mismatch"},
    "channel-weird-ids": {
        0: "malformed_voucher",
        4: "malformed_voucher",
        5: "amount_not_monotonic",
    },
    "channel-object-replay": dict.fromkeys(range(3), "malformed_voucher"),
    "remove-replay": {4: "session_removed", 5: "session_removed"},
}


class Seller:
    """One seller with the session rules of the reference, and a channel that stays removed."""

    def __init__(self, server: dict[str, str]) -> None:
        self.recipient = server["recipient"]
        self.price = int(server["pricePerUnit"])
        self.meter = server.get("meter", "request")
        self.network = NETWORKS["mainnet-beta"]
        self.latest: dict[str, VerifiedVoucher] = {}
        self.counts: dict[str, int] = {}
        self.removed: set[str] = set()

    def verify(self, raw: str) -> dict[str, Any]:
        expected = Expected(self.recipient, self.network.chain_id, CHANNEL_PROGRAM)
        try:
            paid = self.accept(verify(parse_envelope(raw), expected))
        except VoucherRejected as rejected:
            return {"valid": False, "error": rejected.error, "reason": rejected.reason}
        return {"valid": True, "amountPaid": str(paid)}

    def accept(self, voucher: VerifiedVoucher) -> int:
        required = self.price * voucher.units
        last = self.latest.get(voucher.channel_id)
        paid = voucher.cumulative_amount - (last.cumulative_amount if last else 0)
        if voucher.channel_id in self.removed:
            raise VoucherRejected("session_removed")
        if last and voucher.signer != last.signer:
            raise VoucherRejected("signer_changed_mid_session")
        if last and paid <= 0:
            raise VoucherRejected("amount_not_monotonic")
        if last and voucher.sequence <= last.sequence:
            raise VoucherRejected("sequence_not_monotonic")
        if paid < required:
            at_least = "" if last else "at least "
            raise VoucherRejected(
                "underpaid", f"underpaid: expected {at_least}{required}, got {paid}"
            )
        self.latest[voucher.channel_id] = voucher
        self.counts[voucher.channel_id] = self.counts.get(voucher.channel_id, 0) + 1
        return paid

    def context(self, channel_id: str) -> dict[str, Any] | None:
        if (last := self.latest.get(channel_id)) is None:
            return None
        return {
            "channelId": channel_id,
            "sessionPubkey": last.signer,
            "cumulativeAmount": str(last.cumulative_amount),
            "voucherCount": self.counts[channel_id],
        }

    def remove(self, channel_id: str) -> None:
        if self.latest.pop(channel_id, None):
            self.removed.add(channel_id)

    def challenge(self) -> dict[str, Any]:
        challenge = Challenge.of(
            recipient=self.recipient,
            network=self.network.name,
            price_per_unit=self.price,
            meter=self.meter,
        )
        body = dict(challenge.to_json())
        assert body.pop("chainId") == self.network.chain_id  # ours; the reference has none
        return body

    def answer(self, step: dict[str, Any]) -> Any:
        match step["op"]:
            case "verify":
                return self.verify(step["raw"])
            case "context":
                return self.context(step["channelId"])
            case "remove":
                return self.remove(step["channelId"])
            case "challenge":
                return self.challenge()
            case other:
                raise AssertionError(other)


@pytest.mark.parametrize("case", MATCH)
def test_answers_exactly_as_the_reference(case: dict[str, Any]) -> None:
    seller = Seller(case["server"])
    for step in case["steps"]:
        answer = seller.answer(step)
        if step["op"] == "verify" and not answer["valid"]:
            assert answer.pop("reason") == answer["error"].partition(":")[0]
        assert answer == step.get("expect")


@pytest.mark.parametrize("case", DIVERGE)
def test_departs_from_the_reference_only_as_recommended(case: dict[str, Any]) -> None:
    seller = Seller(case["server"])
    refusals: dict[int, str] = {}
    accepted: set[int] = set()
    for number, step in enumerate(case["steps"]):
        answer = seller.answer(step)
        if step["op"] != "verify":
            continue
        if answer["valid"]:
            accepted.add(number)
        else:
            refusals[number] = answer["reason"]
    assert refusals == OUR_REFUSALS.get(case["id"], {})
    assert set(case["must_accept"]) <= accepted
    assert set(case["must_reject"]) <= set(refusals)


@pytest.mark.parametrize("case", MATCH)
def test_signs_the_recorded_bytes_of_every_accepted_voucher(case: dict[str, Any]) -> None:
    for step in case["steps"]:
        if step["op"] == "verify" and step["expect"].get("valid"):
            voucher: Any = parse_envelope(step["raw"]).voucher
            assert message_bytes(voucher) == step["preimage"].encode()


def test_every_case_of_the_file_is_covered() -> None:
    left_out = {case["id"] for case in VECTORS["cases"]} - {case["id"] for case in CASES}
    assert left_out == {"config-empty-recipient"}
    assert (len(MATCH) + 1, len(DIVERGE)) == (
        VECTORS["counts"]["match"],
        VECTORS["counts"]["diverge"],
    )
    assert set(OUR_REFUSALS) < {case["id"] for case in CASES}
