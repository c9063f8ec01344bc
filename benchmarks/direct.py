"""Verifying a direct payment, the chain's answer at hand, against the same call switched off."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha512

from direct_server import MEMO, MINT, NAME, OFF_PATH, PAYER, VERIFY_PATH
from load import CONNECTIONS, Body, LoadProcess, Order, Target
from report import Bound, Part, median
from stand import database, server
from verify import Contender, figures, play
from vouchers import PRICE

from session_ledger.encoding import base58_encode
from session_ledger.x402.direct import PaymentPayload, PaymentRequirements, payment_header

RATIO_MIN = 0.1
_VALID = b'"isValid": true'


def run(*, rounds: int, seconds: float) -> Part:
    """Interleaved rounds of both, so that a slow moment of the machine strikes both."""
    with database() as postgres, server(postgres.url()) as serving:
        target = serving.register_seller(NAME)
        with LoadProcess(target, Payments(target)) as load:
            off = Contender(serving, load, Order(OFF_PATH, _VALID, 0, consumes=False))
            on = Contender(serving, load, Order(VERIFY_PATH, _VALID, 0, consumes=True))
            unverified, verified = play((off, on), rounds=rounds, seconds=seconds)
    ratio = median([b.rate / a.rate for a, b in zip(unverified, verified, strict=True)])
    return Part(
        "Verify a direct payment with a durable commit",
        f"{CONNECTIONS} keep-alive connections, {rounds} rounds of {seconds:g} s in turn. off: the "
        "same call, authenticated, parsed and answered; nothing looked up, judged or appended.",
        [
            {"what": "off", **figures(unverified), "ratio": 1.0},
            {"what": "verify", **figures(verified), "ratio": ratio},
        ],
        [Bound("verify / off", ratio, RATIO_MIN, at_least=True)],
    )


@dataclass(frozen=True, slots=True)
class Payments:
    """Payments of which each is shown once."""

    target: Target

    def bodies(self, connection: int) -> Iterator[Body]:
        """See `Bodies`."""
        required = PaymentRequirements(
            network="localnet",
            max_amount_required=PRICE,
            resource="https://shop.example/premium",
            pay_to=self.target.recipient,
            asset=MINT,
            extra={"memo": MEMO},
        )
        asked, number = required.to_json(), 0
        while True:
            number += 1
            signature = base58_encode(sha512(b"%d %d" % (connection, number)).digest())
            paid = PaymentPayload(signature, PAYER, PRICE, MINT, number, "localnet")
            body = {"paymentHeader": payment_header(paid), "paymentRequirements": asked}
            yield Body(json.dumps(body).encode(), signature.encode())
