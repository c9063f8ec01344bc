"""The published x402 packages, each in an environment of its own, as child processes."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from javascript import install, with_packages
from running import PRICE, Buyer, Seller, Service, seed, until

HOME: Final = Path(__file__).parents[1] / "x402"
PYTHON: Final = HOME / "python"
NODE: Final = HOME / "node"
ANSWER_SECONDS: Final = 100
"""The published servers give a facilitator 90 seconds."""
CAIP2: Final = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
V1_NAME: Final = "solana-devnet"
MEMO: Final = "order 4711 \u00e9\u20ac"
WHAT: Final = "PUBLISHED X402"


def python() -> list[str]:
    """The interpreter that has the locked PyPI packages, installed once."""
    folder = PYTHON / ".venv"
    interpreter = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-compile"]
    options = ["--quiet", "--disable-pip-version-check", "--retries=1", "--only-binary=:all:"]
    install(
        WHAT,
        PYTHON / "requirements.lock",
        folder,
        [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)],
        [*pip, *options, "--require-hashes", "-r", "requirements.lock"],
    )
    return [interpreter]


def node() -> list[str]:
    """The node command, with the locked npm packages installed once."""
    return [with_packages(WHAT, NODE)]


@dataclass
class Program:
    """A child that speaks one JSON object a line."""

    process: subprocess.Popen[str]
    log: Path

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        return json.loads(line)

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.read()


@contextmanager
def program(command: list[str], log: Path, *arguments: str) -> Iterator[Program]:
    """The command as a child, stopped afterwards."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        try:
            yield Program(process, log)
        finally:
            process.kill()


@dataclass
class Answer:
    """What a client saw last, and the payment that it sent (None if it sent none)."""

    status: int
    headers: dict[str, str]
    body: Any
    payment: str | None

    def decoded(self, header: str) -> dict[str, Any]:
        return decoded(self.headers[header])


@dataclass
class Client:
    """A published client and the wallet that it pays with."""

    program: Program
    buyer: Buyer

    def get(self, *urls: str, buyer: Buyer | None = None) -> list[Answer]:
        """Pay for the addresses at the same time, with another wallet if one is given."""
        payer = buyer or self.buyer
        found = self.program.ask(seed=seed(payer.name).hex(), urls=urls)
        return [Answer(**answer) for answer in found["answers"]]


@dataclass
class Shop:
    """A published server, and the seller whom it is paid for."""

    url: str
    seller: Seller
    service: Service

    def get(self, path: str, payment: str | None = None, *, version: int = 2) -> Answer:
        """Ask without a published client, with a payment that was seen on the wire."""
        name = {1: "x-payment", 2: "payment-signature"}[version]
        headers = {} if payment is None else {name: payment}
        answer = httpx.get(self.url + path, headers=headers, timeout=ANSWER_SECONDS)
        return Answer(answer.status_code, dict(answer.headers), answer.json(), payment)

    @property
    def earned(self) -> int:
        return self.service.chain.balance(self.seller.wallet)

    def payments(self) -> dict[str, dict[str, Any]]:
        """What the log holds, by signature: payments as submitted, and how often they ended."""
        events = [e for e in self.seller.events() if e["stream"] == "payment"]
        ended = [e["payload"]["signature"] for e in events if e["type"] == "settlement_finalized"]
        submitted = [e["payload"] for e in events if e["type"] == "payment_submitted"]
        signatures = [payment["signature"] for payment in submitted]
        assert len(set(signatures)) == len(signatures)
        return {p["signature"]: {**p, "finalized": ended.count(p["signature"])} for p in submitted}

    def payment(self, signature: str) -> dict[str, Any]:
        """The payment, once the seller's feed tells of it."""
        return until(lambda: self.payments().get(signature))


def decoded(header: str) -> dict[str, Any]:
    return json.loads(base64.b64decode(header, validate=True))


def terms(service: Service, seller: Seller) -> str:
    """The configuration that both published servers read."""
    return json.dumps(
        {
            "facilitator": f"{service.url}/x402",
            "rpcUrl": service.facts["rpcUrl"],
            "network": CAIP2,
            "payTo": seller.facts["recipient"],
            "asset": str(service.chain.mint),
            "amount": str(PRICE),
            "price": "$0.01",
            "memo": MEMO,
        }
    )
