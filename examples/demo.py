"""A whole session on this machine: open, pay, a refused replay, close, settled on the chain.

Run it with `make demo`. It starts the service with its own Postgres and its own local chain, plays
a buyer and a seller against its public interfaces, and leaves it running for you to explore
(`DEMO_EXIT=1` stops it instead). The exit status is 0 only if the money arrived exactly once.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from nacl.signing import SigningKey
from rich.console import Console
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import (
    approve_checked,
    create_idempotent_associated_token_account,
    get_associated_token_address,
)
from spl.token.models import ApproveCheckedParams

from session_ledger.voucher import sign_voucher

DATA_DIR = Path(".session-ledger/demo")
USDC = 1_000_000
DEPOSIT = 5 * USDC
PRICE = 10_000
PAYMENTS = 5
TIMEOUT_SECONDS = 60

console = Console(highlight=False)


def step(text: str, **facts: Any) -> None:
    """Print one step of the play."""
    console.print(f"[bold green]*[/bold green] {text}")
    for name, value in facts.items():
        console.print(f"    [dim]{name:<12}[/dim] {value}", soft_wrap=True)


def usdc(amount: int | str) -> str:
    """Atomic units as people read them."""
    return f"{int(amount) // USDC}.{int(amount) % USDC:06d} USDC"


class Service:
    """`session-ledger serve`, with everything it needs, as a child process."""

    def __enter__(self) -> Self:
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        self.log = DATA_DIR / "demo.log"
        command = [sys.executable, "-m", "service.cli", "serve", "--data-dir", str(DATA_DIR)]
        command += ["--port", os.environ.get("DEMO_PORT", "0"), "--json"]
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        ready: dict[str, Any] = json.loads(line) if line.strip() else {"error": "it ended early"}
        if "error" in ready:
            sys.exit(f"the service did not start: {ready['error']}\nsee {self.log}")
        self.facts: dict[str, str] = json.loads((DATA_DIR / "local.json").read_text())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(TIMEOUT_SECONDS)


class Chain:
    """The local chain, through its public JSON-RPC."""

    def __init__(self, url: str, mint: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=30)
        self.mint = Pubkey.from_string(mint)

    def call(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call; an error ends the demo."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = self._http.post("/", json=body).json()
        if "error" in answer:
            sys.exit(f"{method}: {answer['error']}")
        return answer["result"]

    def balance(self, wallet: Pubkey) -> int:
        """USDC of a wallet at finalized, in atomic units."""
        account = get_associated_token_address(wallet, self.mint)
        held = self.call("getTokenAccountBalance", str(account), {"commitment": "finalized"})
        return int(held["value"]["amount"])

    def send(self, payer: Keypair, *instructions: Instruction) -> str:
        """Sign, send and wait until finalized."""
        blockhash = self.call("getLatestBlockhash")["value"]["blockhash"]
        message = MessageV0.try_compile(
            payer.pubkey(), list(instructions), [], Hash.from_string(blockhash)
        )
        raw = base64.b64encode(bytes(VersionedTransaction(message, [payer]))).decode()
        signature: str = self.call("sendTransaction", raw, {"encoding": "base64"})
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            status = self.call("getSignatureStatuses", [signature])["value"][0]
            if status and status["confirmationStatus"] == "finalized":
                return signature
            time.sleep(0.1)
        sys.exit(f"{signature} was not finalized within {TIMEOUT_SECONDS} s")


class Buyer:
    """A wallet with USDC, and a session key that signs its vouchers."""

    def __init__(self, chain: Chain, delegate: str) -> None:
        self.wallet = Keypair()
        self.session_key = SigningKey.generate()
        chain.call("requestAirdrop", str(self.wallet.pubkey()), 1_000_000_000)
        chain.call(
            "surfnet_setTokenAccount",
            str(self.wallet.pubkey()), str(chain.mint), {"amount": 25 * USDC},
        )  # fmt: skip
        approve = approve_checked(
            ApproveCheckedParams(
                program_id=TOKEN_PROGRAM_ID,
                source=get_associated_token_address(self.wallet.pubkey(), chain.mint),
                mint=chain.mint,
                delegate=Pubkey.from_string(delegate),
                owner=self.wallet.pubkey(),
                amount=DEPOSIT,
                decimals=6,
            )
        )
        self.approval = chain.send(self.wallet, approve)

    def voucher(self, challenge: dict[str, str], number: int) -> dict[str, Any]:
        """The voucher that pays the `number`-th request: a promise of everything so far."""
        return sign_voucher(
            {
                "channelId": "demo-channel",
                "payer": str(self.wallet.pubkey()),
                "recipient": challenge["recipient"],
                "cumulativeAmount": str(number * int(challenge["pricePerUnit"])),
                "sequence": number,
                "meter": challenge["meter"],
                "units": "1",
                "serverNonce": f"demo-{number}",
                "chainId": challenge["chainId"],
                "channelProgram": challenge["channelProgram"],
            },
            self.session_key,
        )


def play(service: Service) -> None:
    """The session, step by step."""
    facts = service.facts
    chain = Chain(facts["rpcUrl"], facts["mint"])
    operator = httpx.Client(
        base_url=facts["baseUrl"],
        headers={"Authorization": f"Bearer {facts['adminToken']}"},
        timeout=TIMEOUT_SECONDS + 5,
    )
    seller_wallet = Keypair()
    chain.call("requestAirdrop", str(seller_wallet.pubkey()), 1_000_000_000)
    chain.send(
        seller_wallet,
        create_idempotent_associated_token_account(
            seller_wallet.pubkey(), seller_wallet.pubkey(), chain.mint
        ),
    )
    registered = _ok(
        operator.post(
            "/v1/sellers",
            json={
                "name": f"Demo seller {time.strftime('%H:%M:%S')}",
                "recipient": str(seller_wallet.pubkey()),
                "pricePerUnit": str(PRICE),
            },
        )
    )
    seller = httpx.Client(
        base_url=facts["baseUrl"],
        headers={"Authorization": f"Bearer {registered['apiKey']}"},
        timeout=TIMEOUT_SECONDS + 5,
    )
    step("A seller is registered", seller=registered["sellerId"], recipient=registered["recipient"])

    buyer = Buyer(chain, facts["settlementAuthority"])
    source = get_associated_token_address(buyer.wallet.pubkey(), chain.mint)
    step(
        "A buyer approves the settlement key for its deposit, on the chain",
        buyer=buyer.wallet.pubkey(), deposit=usdc(DEPOSIT), transaction=buyer.approval,
    )  # fmt: skip
    before = chain.balance(buyer.wallet.pubkey()), chain.balance(seller_wallet.pubkey())

    opened = _ok(
        seller.post(
            "/v1/sessions",
            json={
                "channelId": "demo-channel",
                "payer": str(buyer.wallet.pubkey()),
                "sourceTokenAccount": str(source),
                "sessionPubkey": sign_voucher({}, buyer.session_key)["signer"],
                "deposit": str(DEPOSIT),
            },
        )
    )
    step("The session is open", state=opened["state"], funding=opened["funding"])

    challenge = _ok(seller.get("/v1/challenge"))
    vouchers = [buyer.voucher(challenge, number) for number in range(1, PAYMENTS + 1)]
    for signed in vouchers:
        verdict = _ok(seller.post("/v1/vouchers/verify", json=signed))
        _expect(verdict["verdict"] == "accepted", verdict)
        step(
            f"Voucher {signed['voucher']['sequence']} is accepted",
            paid=usdc(verdict["amountPaid"]), total=usdc(verdict["session"]["cumulativeAmount"]),
        )  # fmt: skip

    replay = _ok(seller.post("/v1/vouchers/verify", json=vouchers[1]))
    _expect(replay["verdict"] == "replayed" and not replay["valid"], replay)
    step("The same voucher again is refused", verdict=replay["verdict"], error=replay["error"])

    closed = _ok(seller.post("/v1/sessions/demo-channel/close", params={"wait": TIMEOUT_SECONDS}))
    settlement = _ok(seller.get(f"/v1/settlements/{closed['settlement']['settlementId']}"))
    _expect(settlement["status"] == "settled", settlement)
    step(
        "The session is closed and settled by one TransferChecked",
        amount=usdc(settlement["amount"]), signature=settlement["signature"],
        status=settlement["confirmationStatus"], slot=settlement["slot"],
    )  # fmt: skip

    after = chain.balance(buyer.wallet.pubkey()), chain.balance(seller_wallet.pubkey())
    step("Balances", buyer=_change(before[0], after[0]), seller=_change(before[1], after[1]))
    moved = PAYMENTS * PRICE
    _expect((before[0] - after[0], after[1] - before[1]) == (moved, moved), (before, after))

    history = _ok(seller.get("/v1/sessions/demo-channel/vouchers"))
    step("The log keeps every voucher, with its hash", vouchers=len(history["vouchers"]))
    step(
        "The service",
        address=facts["baseUrl"], reference=f"{facts['baseUrl']}/docs", chain=facts["rpcUrl"],
        facts=DATA_DIR / "local.json", log=service.log,
    )  # fmt: skip


def _change(before: int, after: int) -> str:
    return f"{usdc(before)} -> {usdc(after)}"


def _ok(response: httpx.Response) -> Any:
    if not response.is_success:
        sys.exit(f"{response.request.method} {response.request.url}: {response.text}")
    return response.json()


def _expect(holds: bool, seen: object) -> None:
    if not holds:
        sys.exit(f"unexpected: {seen}")


def main() -> None:
    """Play, then stay until Ctrl-C, or stop at once with DEMO_EXIT=1."""
    started = time.monotonic()
    with Service() as service:
        play(service)
        console.print(f"[bold]Done in {time.monotonic() - started:.1f} s.[/bold]")
        if os.environ.get("DEMO_EXIT") != "1":
            console.print("The service keeps running. Press Ctrl-C to stop it.")
            try:
                service.process.wait()
            except KeyboardInterrupt:
                console.print("Stopping.")


if __name__ == "__main__":
    main()
