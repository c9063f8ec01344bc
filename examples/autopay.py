"""An agent that pays by itself, within what its owner signed, on this machine.

Start `session-ledger serve`, then run this with its data directory (`.session-ledger` unless it is
given). A seller charges one cent for each answer; the buyer's owner signs once for six hours and
ten calls; the agent asks eleven times. The exit status is 0 only if ten answers were paid, each
once, and the eleventh was refused.
"""

import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from nacl.signing import SigningKey
from solders.keypair import Keypair

from session_ledger.buyer import (
    AutoPay,
    FileStore,
    KeySigner,
    Limits,
    OwnerSignatureRequired,
    sync_autopay_client,
)
from session_ledger.seller import SyncSessionServer

PRICE = 10_000
HOURS = 3_600
CALLS = 10


def new_seller(ledger: str, admin_token: str, recipient: str) -> str:
    """Register a seller; its API key."""
    body = {
        "name": f"autopay-{uuid4().hex[:8]}",
        "recipient": recipient,
        "pricePerUnit": str(PRICE),
    }
    headers = {"authorization": f"Bearer {admin_token}"}
    answer = httpx.post(f"{ledger}/v1/sellers", json=body, headers=headers)
    answer.raise_for_status()
    return answer.json()["apiKey"]


@contextmanager
def selling(server: SyncSessionServer) -> Iterator[str]:
    """A seller of weather on a port of its own; gives its address."""

    class Weather(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Write nothing."""

        def do_GET(self) -> None:
            voucher = self.headers.get("x-mpp-voucher")
            if voucher is None:
                self.answer(402, server.get_challenge())
                return
            verdict = server.verify_voucher(voucher)
            if verdict.valid:
                self.answer(200, {"sky": "clear"})
            else:
                self.answer(402, {**verdict.body, **server.get_challenge()})

        def answer(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Weather) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        host, port = http.server_address[:2]
        try:
            yield f"http://{host!s}:{port}/weather"
        finally:
            http.shutdown()
            thread.join()


def main() -> None:
    """Sell, sign once, buy ten times, and check what came of it."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".session-ledger")
    facts = json.loads((directory / "local.json").read_text())
    recipient = str(Keypair().pubkey())
    key = new_seller(facts["baseUrl"], facts["adminToken"], recipient)
    owner = KeySigner(SigningKey.generate())
    with (
        tempfile.TemporaryDirectory() as purse,
        SyncSessionServer(
            recipient, PRICE, facts["baseUrl"], facts["network"], api_key=key
        ) as server,
        selling(server) as url,
        AutoPay(
            network=facts["network"],
            max_payment_amount=PRICE,
            max_total=100 * PRICE,
            allowed_recipients=[recipient],
            owner_signer=owner,
            ledger_url=facts["baseUrl"],
            store=FileStore(Path(purse) / "purse.json"),
            on_payment_complete=lambda paid: print("paid", paid.delta, "in all", paid.cumulative),
        ) as payer,
        sync_autopay_client(payer) as client,
    ):
        payer.create_session()
        limits = Limits(
            allowed_recipients=(recipient,),
            max_payment_amount=PRICE,
            max_calls=CALLS,
            max_total_amount=CALLS * PRICE,
        )
        grant = payer.register(limits, duration=6 * HOURS)
        print("signed once:", grant)
        payer.session.owner = None  # from here on the agent is alone
        for number in range(CALLS):
            client.get(f"{url}?q={number}").raise_for_status()
        try:
            client.get(f"{url}?q={CALLS}")
        except OwnerSignatureRequired as over:
            print("refused:", over.code)
        else:
            raise AssertionError("the eleventh call was paid")
        assert (payer.payment_count, payer.total_spent) == (CALLS, CALLS * PRICE)
        assert payer.session.state == "exhausted"


if __name__ == "__main__":
    main()
