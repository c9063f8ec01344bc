"""A request that a seller's shop is paid for, against the same request for nothing."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
from load import CONNECTIONS, LoadProcess, Order, Round, Target
from report import Bound, Part, median
from stand import READY_SECONDS, STOP_SECONDS, Server, database, server
from verify import Contender, figures, play

CPU_MAX = 16.0
"""The shop's processor time for a paid request, against a free one."""
PATHS = {"free": "/free", "middleware": "/middleware", "dependency": "/dependency"}
_SHOP = Path(__file__).with_name("shop.py")


def run(*, rounds: int, seconds: float) -> Part:
    """Interleaved rounds of all, so that a slow moment of the machine strikes all."""
    with database() as postgres, server(postgres.url()) as ledger:
        seller = ledger.register_seller("middleware")
        with shop(ledger, seller) as serving:
            target = replace(seller, host=serving.host, port=serving.port)
            with LoadProcess(target) as load:
                contenders = [
                    Contender(serving, load, Order(path, b'"served"', 0, consumes=name != "free"))
                    for name, path in PATHS.items()
                ]
                results = play(contenders, rounds=rounds, seconds=seconds)
    free = results[0]
    rows = [
        {
            "what": name,
            **figures(found),
            "ratio": median([b.rate / a.rate for a, b in zip(free, found, strict=True)]),
        }
        for name, found in zip(PATHS, results, strict=True)
    ]
    return Part(
        "A paid request of a seller's shop",
        f"{CONNECTIONS} keep-alive connections, {rounds} rounds of {seconds:g} s in turn. The shop "
        "is one process, the ledger another. free: the same application, request and answer.",
        rows,
        [
            Bound(
                f"{name} / free, processor time",
                _cpu_ratio(found, free),
                CPU_MAX,
                at_least=False,
            )
            for name, found in zip(PATHS, results, strict=True)
            if name != "free"
        ],
    )


def _cpu_ratio(rounds: Sequence[Round], base: Sequence[Round]) -> float:
    """The middle one of the ratios of neighbouring rounds."""
    used = [[each.server_cpu_seconds / each.requests for each in side] for side in (rounds, base)]
    return median([a / b for a, b in zip(*used, strict=True)])


@contextmanager
def shop(ledger: Server, seller: Target) -> Generator[Server]:
    """`shop.py` on a port of its own; it has no use for the ledger's token and key."""
    with socket.create_server(("127.0.0.1", 0), backlog=2_048) as listening:
        listening.set_inheritable(True)
        host, port = listening.getsockname()
        environment = os.environ | {
            "LEDGER_URL": ledger.url,
            "LEDGER_API_KEY": seller.api_key,
            "RECIPIENT": seller.recipient,
        }
        process = subprocess.Popen(
            [sys.executable, str(_SHOP), str(listening.fileno())],
            env=environment,
            pass_fds=(listening.fileno(),),
        )
        try:
            deadline = time.monotonic() + READY_SECONDS
            while httpx.post(f"http://{host}:{port}/free", timeout=READY_SECONDS).is_error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the shop did not start")
            yield Server(process.pid, host, port, ledger.admin_token, ledger.authority)
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)
