"""What the auto-paying client adds to a request: against the same request without payment.

The seller is a process that takes every voucher for good, so that nothing but the client and the
wire is measured. Run as a program with a socket's descriptor, this module is that seller.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvicorn
from nacl.signing import SigningKey
from report import MICROS, MILLIS, Bound, Part, median, percentile
from vouchers import PRICE, address

from service.local.lifeline import PARENT_VARIABLE
from session_ledger.buyer import (
    AutoPay,
    FileStore,
    MemoryStore,
    Store,
    sync_autopay_client,
)
from session_ledger.challenge import Challenge
from session_ledger.voucher import VOUCHER_HEADER

RATE_MIN = 0.45
CPU_MAX = 2.2
"""Against two free requests: as many requests a second at least, processor time at most."""
READY_SECONDS = 30
STOP_SECONDS = 15
RECIPIENT = address("client benchmark")
_TWICE, _PAID = "two free requests", "paid, kept in memory"
_HEADER = VOUCHER_HEADER.encode()
_CHALLENGE = json.dumps(
    Challenge.of(recipient=RECIPIENT, network="localnet", price_per_unit=PRICE).to_json()
).encode()
_ANSWER = b'{"served": true}'


def run(*, rounds: int, seconds: float) -> Part:
    """Rounds of each kind in turn, one request at a time."""
    with TemporaryDirectory(prefix="session-ledger-bench-") as directory, _seller() as url:
        file = FileStore(Path(directory) / "purse.json")
        with httpx.Client() as free, _paying(MemoryStore()) as memory, _paying(file) as durable:
            kinds = {
                "free": (lambda: free.get(f"{url}/free")),
                _TWICE: (lambda: (free.get(f"{url}/free"), free.get(f"{url}/free"))[1]),
                _PAID: (lambda: memory.get(f"{url}/paid")),
                "paid, kept on disk": (lambda: durable.get(f"{url}/paid")),
            }
            found = _play(kinds, rounds=rounds, seconds=seconds)
    base, twice, paid = (found[what] for what in ("free", _TWICE, _PAID))
    return Part(
        "The auto-paying client, one request at a time",
        f"{rounds} rounds of {seconds:g} s in turn; the seller takes every voucher for good. A "
        "paid request is two, since each price is asked for; on disk, a voucher is synced before "
        "it leaves.",
        [_row(what, measured, base) for what, measured in found.items()],
        [
            Bound(f"{_PAID} / {_TWICE}", _ratio(paid, twice, _rate), RATE_MIN, at_least=True),
            Bound("the same, processor time", _ratio(paid, twice, _cpu), CPU_MAX, at_least=False),
        ],
    )


@dataclass(frozen=True, slots=True)
class _Round:
    latencies: list[float]
    seconds: float
    cpu_seconds: float


def _play(
    kinds: dict[str, Callable[[], httpx.Response]], *, rounds: int, seconds: float
) -> dict[str, list[_Round]]:
    found: dict[str, list[_Round]] = {what: [] for what in kinds}
    for number in range(rounds + 1):
        for what, ask in kinds.items():
            measured = _round(ask, seconds if number else seconds / 4)
            if number:  # the first round warms up
                found[what].append(measured)
    return found


def _round(ask: Callable[[], httpx.Response], seconds: float) -> _Round:
    latencies: list[float] = []
    cpu, start = time.process_time(), time.perf_counter()
    while (begun := time.perf_counter()) < start + seconds:
        answer = ask()
        latencies.append(time.perf_counter() - begun)
        if answer.content != _ANSWER:
            raise RuntimeError(f"unexpected answer: {answer.status_code} {answer.text[:300]}")
    return _Round(latencies, time.perf_counter() - start, time.process_time() - cpu)


def _row(what: str, rounds: Sequence[_Round], base: Sequence[_Round]) -> dict[str, Any]:
    latencies = [latency for each in rounds for latency in each.latencies]
    added = percentile(latencies, 50) - percentile([x for r in base for x in r.latencies], 50)
    return {
        "what": what,
        "requests/s": median([_rate(each) for each in rounds]),
        "p50 ms": percentile(latencies, 50) * MILLIS,
        "p99 ms": percentile(latencies, 99) * MILLIS,
        "added p50 ms": added * MILLIS,
        "client us/request": sum(each.cpu_seconds for each in rounds) / len(latencies) * MICROS,
        "ratio": _ratio(rounds, base, _rate),
    }


def _rate(found: _Round) -> float:
    return len(found.latencies) / found.seconds


def _cpu(found: _Round) -> float:
    return found.cpu_seconds / len(found.latencies)


def _ratio(
    rounds: Sequence[_Round], base: Sequence[_Round], figure: Callable[[_Round], float]
) -> float:
    """The middle one of the ratios of neighbouring rounds."""
    return median([figure(a) / figure(b) for a, b in zip(rounds, base, strict=True)])


@contextmanager
def _paying(store: Store) -> Generator[httpx.Client]:
    key = SigningKey.generate()
    payer = AutoPay(
        network="localnet",
        session_key=key,
        payer=address("client benchmark payer"),
        max_payment_amount=PRICE,
        max_total=2**64 - 1,
        allowed_recipients=[RECIPIENT],
        store=store,
    )
    with payer, sync_autopay_client(payer) as client:
        yield client


@contextmanager
def _seller() -> Generator[str]:
    """The seller's process; its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        listening.set_inheritable(True)
        host, port = listening.getsockname()
        process = subprocess.Popen(
            [sys.executable, __file__, str(listening.fileno())],
            env=os.environ | {PARENT_VARIABLE: str(os.getpid())},
            pass_fds=(listening.fileno(),),
        )
        try:
            httpx.get(f"http://{host}:{port}/free", timeout=READY_SECONDS).raise_for_status()
            yield f"http://{host}:{port}"
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


async def _application(scope: Any, receive: Any, send: Any) -> None:
    """402 without a voucher on `/paid`, the same answer everywhere else."""
    del receive
    paid = any(name == _HEADER for name, _ in scope["headers"])
    wanted = scope["path"] == "/paid" and not paid
    status, body = (402, _CHALLENGE) if wanted else (200, _ANSWER)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    config = uvicorn.Config(_application, log_level="warning", lifespan="off", ws="none")
    uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[1]))])
