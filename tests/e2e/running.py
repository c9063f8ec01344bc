"""The whole service as a child process, and the sellers, buyers and chain that tests play with."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import asyncpg
import httpx
from nacl.signing import SigningKey
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import (
    approve_checked,
    get_associated_token_address,
    revoke,
)
from spl.token.models import ApproveCheckedParams, RevokeParams

from session_ledger.encoding import base58_encode
from session_ledger.voucher import sign_voucher
from tests.e2e import documented
from tests.e2e.chain_client import Chain
from tests.e2e.waiting import until
from tests.memory import temporary

PRICE: Final = 10_000
USDC: Final = 1_000_000
START_SECONDS: Final = 60
CONTEXT: Final = {
    "channelId", "state", "sessionPubkey", "cumulativeAmount", "voucherCount", "lastSequence",
    "payer", "recipient", "network", "deposit", "remaining", "funding", "position", "openedAt",
    "lastVoucherAt", "closeRequestedAt", "settlement", "grantId", "fundingSlot",
    "sourceTokenAccount", "swigAddress", "validUntil", "limits",
}  # fmt: skip
"""Every field of the session context."""
_numbers = count(1)


def fresh(name: str) -> str:
    """A name that no other test of this process has."""
    return f"{name}-{next(_numbers)}"


def seed(name: str) -> bytes:
    """32 bytes that follow from a name: the seed of a test key."""
    return sha256(b"e2e test " + name.encode()).digest()


@dataclass
class Service:
    """A running `serve`: its addresses, its log, and clients for it."""

    facts: dict[str, str]
    log: Path
    data_dir: Path
    process: subprocess.Popen[bytes]
    http: httpx.Client

    @property
    def url(self) -> str:
        return self.facts["baseUrl"]

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def admin(self) -> "Caller":
        return Caller(self, self.facts["adminToken"])

    @property
    def chain(self) -> Chain:
        return Chain(self.http, self.facts)

    def logged(self) -> str:
        """Everything that the processes wrote to standard error so far."""
        return self.log.read_text(errors="replace")

    def seller(self, name: str = "seller", **terms: Any) -> "Seller":
        """A new seller, with a recipient of its own unless the terms name one."""
        name = fresh(name)
        recipient = str(Keypair.from_seed(seed(name)).pubkey())
        body = {"name": name, "recipient": recipient, "pricePerUnit": str(PRICE), **terms}
        answer = self.admin.post("/v1/sellers", json=body)
        assert answer.status_code == 201, answer.text
        facts = answer.json()
        return Seller(self, facts["apiKey"], facts, Keypair.from_seed(seed(name)))

    def buyer(self, name: str = "buyer") -> "Buyer":
        """A new buyer, without money."""
        return Buyer(self, fresh(name))

    async def rows(self, query: str, *values: object) -> list[asyncpg.Record]:
        """Rows of the service's own database."""
        connection = await asyncpg.connect(self.facts["databaseUrl"])
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    async def contents(self, seller: "Seller") -> dict[str, str]:
        """A digest of all that the database holds of a seller, traces of refusals aside, and how
        many sellers there are."""
        own = "FROM {} t WHERE seller_id = $1"
        parts = {
            "events": own.format("events"),
            "streams": own.format("streams"),
            "sessions": own.format("(SELECT seller_id, stream_id, state FROM sessions)"),
            "settlements": own.format("(SELECT seller_id, settlement_id, status FROM settlements)"),
            "seller_keys": own.format("seller_keys"),
            "claims": "FROM claims t WHERE scope LIKE '%' || $1",
            "sellers": "FROM (SELECT count(*) FROM sellers WHERE $1 <> '') t",
        }
        digest = "md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), ''))"
        query = " UNION ALL ".join(
            f"SELECT '{name}' AS name, {digest} AS digest {rows}" for name, rows in parts.items()
        )
        return {row["name"]: row["digest"] for row in await self.rows(query, seller.id)}


@dataclass
class Caller:
    """Sends requests with one bearer token."""

    service: Service
    token: str

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return self.service.http.request(method, path, headers=headers, **options)

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.send("GET", path, params=params)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.send("POST", path, **options)

    def delete(self, path: str) -> httpx.Response:
        return self.send("DELETE", path)


@dataclass
class Seller(Caller):
    """A registered seller."""

    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    wallet: Keypair = field(default_factory=lambda: Keypair.from_seed(seed("nobody")))

    @property
    def id(self) -> str:
        return str(self.facts["sellerId"])

    def verify(self, body: Any, **options: Any) -> dict[str, Any]:
        """The verdict for a signed voucher: a body as JSON, or its very text."""
        given = {"content": body} if isinstance(body, str | bytes) else {"json": body}
        answer = self.post("/v1/vouchers/verify", **given, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def batch(self, bodies: list[Any]) -> list[dict[str, Any]]:
        answer = self.post("/v1/vouchers/verify-batch", json={"vouchers": bodies})
        assert answer.status_code == 200, answer.text
        return answer.json()["results"]

    def session(self, channel: str, **params: Any) -> dict[str, Any]:
        answer = self.get(path_of(channel), **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def open(self, buyer: "Buyer", channel: str, **terms: Any) -> httpx.Response:
        """Register a channel of the buyer's, with a deposit of 1 USDC unless the terms differ."""
        body = {
            "channelId": channel,
            "payer": buyer.address,
            "sessionPubkey": buyer.signer,
            "deposit": str(USDC),
            **terms,
        }
        return self.post("/v1/sessions", json={k: v for k, v in body.items() if v is not None})

    def close(self, channel: str, body: Any = None, *, wait: float = 0) -> httpx.Response:
        return self.post(path_of(channel) + "/close", params={"wait": wait}, json=body or {})

    def events(self, **params: Any) -> list[dict[str, Any]]:
        """The whole feed behind `after`, page by page, once it has come to rest."""
        found: list[dict[str, Any]] = []
        after = params.pop("after", "0-0")
        while page := self.get("/v1/events", after=after, **params).json()["events"]:
            found += page
            after = page[-1]["cursor"]
        return found


@dataclass
class Buyer:
    """A wallet, and the session key that signs its vouchers."""

    service: Service
    name: str

    def __post_init__(self) -> None:
        self.wallet = Keypair.from_seed(seed(self.name))
        self.key = SigningKey(seed(self.name + " session"))

    @property
    def address(self) -> str:
        return str(self.wallet.pubkey())

    @property
    def signer(self) -> str:
        return base58_encode(bytes(self.key.verify_key))

    @property
    def source(self) -> str:
        """Its token account."""
        return str(get_associated_token_address(self.wallet.pubkey(), self.service.chain.mint))

    def pay(
        self, seller: Seller, channel: str, amount: int | str, number: int, **fields: Any
    ) -> dict[str, Any]:
        """A signed voucher; a field that is given as `...` is left out."""
        voucher = {
            "channelId": channel,
            "payer": self.address,
            "recipient": seller.facts["recipient"],
            "cumulativeAmount": str(amount),
            "sequence": number,
            "meter": "request",
            "units": "1",
            "serverNonce": f"nonce-{number}",
            **fields,
        }
        return sign_voucher({k: v for k, v in voucher.items() if v is not ...}, self.key)

    def fund(self, amount: int = 25 * USDC, *, approved: int | None = None) -> None:
        """Give it USDC and approve the settlement key, finalized on return."""
        chain = self.service.chain
        chain.call("requestAirdrop", self.address, 1_000_000_000)
        chain.call("surfnet_setTokenAccount", self.address, str(chain.mint), {"amount": amount})
        self.approve(amount if approved is None else approved)

    def approve(self, amount: int) -> None:
        chain = self.service.chain
        parameters = ApproveCheckedParams(
            program_id=TOKEN_PROGRAM_ID,
            source=Pubkey.from_string(self.source),
            mint=chain.mint,
            delegate=Pubkey.from_string(self.service.facts["settlementAuthority"]),
            owner=self.wallet.pubkey(),
            amount=amount,
            decimals=6,
        )
        chain.send(self.wallet, approve_checked(parameters))

    def revoke(self) -> None:
        chain = self.service.chain
        source = Pubkey.from_string(self.source)
        owner = self.wallet.pubkey()
        parameters = RevokeParams(program_id=TOKEN_PROGRAM_ID, account=source, owner=owner)
        chain.send(self.wallet, revoke(parameters))


def path_of(channel: str) -> str:
    """The path of a session, its channel id percent-encoded."""
    return f"/v1/sessions/{quote(channel, safe='').replace('.', '%2E')}"


def settled(seller: Seller, settlement_id: str, *statuses: str) -> dict[str, Any]:
    """The settlement, once it has one of the statuses."""

    def reached() -> dict[str, Any] | None:
        found = seller.get(f"/v1/settlements/{settlement_id}").json()
        return found if found["status"] in statuses else None

    return until(reached)  # type: ignore[return-value]  until gives what is true


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem of an answer, checked against RFC 9457 and the contract."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    names = {"type", "title", "status", "detail", "code", "retryable", "hint", "requestId"}
    assert set(body) == names
    assert body["type"] == f"urn:session-ledger:problem:{code}"
    assert (body["status"], body["code"]) == (status, code)
    assert re.fullmatch(r"req_[0-9a-f]{16}", body["requestId"])
    assert answer.headers["x-request-id"] == body["requestId"]
    return body


@contextmanager
def running(*options: str, **environment: str) -> Iterator[Service]:
    """`serve` with a database and a chain of its own, stopped afterwards."""
    with (
        temporary() as directory,
        serving(Path(directory), *options, **environment) as service,
    ):
        yield service


@contextmanager
def serving(directory: Path, *options: str, **environment: str) -> Iterator[Service]:
    """`serve` on what the directory holds, for one life; a later option wins."""
    data_dir, log = directory / "data", directory / "serve.log"
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--json"]
    command += ["--data-dir", str(data_dir), *options]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **environment}
        )
    assert process.stdout is not None
    with process.stdout as output:
        try:
            line = output.readline()
            assert b'"ready"' in line, (line, log.read_text())
            facts = json.loads((data_dir / "local.json").read_text())
            hooks = {"response": [documented.check]}
            with httpx.Client(
                base_url=facts["baseUrl"], timeout=START_SECONDS, event_hooks=hooks
            ) as http:
                yield Service(facts, log, data_dir, process, http)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)
