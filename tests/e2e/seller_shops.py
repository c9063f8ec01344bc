"""The example shops as child processes, and vouchers for what they sell."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from javascript import with_packages
from running import Buyer, Seller

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
EXPRESS: Final = EXAMPLES / "express"
START_SECONDS: Final = 60
_UVICORN: Final = """
import sys, uvicorn
from fastapi_seller import app
class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print('{"url": "http://127.0.0.1:%d"}' % port, flush=True)
Server(uvicorn.Config(app, port=0, log_level="warning")).run()
"""


@dataclass
class Shop:
    """A running shop."""

    url: str
    seller: Seller
    process: subprocess.Popen[str]
    http: httpx.Client

    def get(self, path: str, voucher: dict[str, Any] | str | None = None) -> httpx.Response:
        return self.http.get(self.url + path, headers=paying(voucher))


@dataclass
class Purse:
    """A buyer's channel with one seller: each voucher promises more than the last."""

    buyer: Buyer
    seller: Seller
    channel: str
    total: int = 0
    number: int = 0

    def voucher(self, amount: int) -> dict[str, Any]:
        self.total, self.number = self.total + amount, self.number + 1
        return self.buyer.pay(self.seller, self.channel, self.total, self.number)


def paying(voucher: dict[str, Any] | str | None) -> dict[str, str]:
    """The header of a voucher."""
    if voucher is None:
        return {}
    return {"x-mpp-voucher": voucher if isinstance(voucher, str) else json.dumps(voucher)}


@contextmanager
def fastapi_shop(seller: Seller) -> Iterator[Shop]:
    """`examples/fastapi_seller.py` under uvicorn."""
    command = [sys.executable, "-c", _UVICORN]
    with _shop(command, EXAMPLES, seller) as shop:
        yield shop


@contextmanager
def express_shop(seller: Seller, program: str | None = None) -> Iterator[Shop]:
    """`examples/express`, its locked packages installed once; or a program beside its modules."""
    node = with_packages("EXPRESS EXAMPLE", EXPRESS)
    run = ["server.mjs"] if program is None else ["--input-type=module", "--eval", program]
    with _shop([node, *run], EXPRESS, seller, PORT="0") as shop:
        yield shop


@contextmanager
def _shop(command: list[str], folder: Path, seller: Seller, **environment: str) -> Iterator[Shop]:
    known = {
        "LEDGER_URL": seller.service.url,
        "LEDGER_API_KEY": seller.token,
        "RECIPIENT": seller.facts["recipient"],
        "NETWORK": seller.facts["network"],
    }
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **known, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as output, httpx.Client(timeout=START_SECONDS) as http:
        try:
            line = output.readline()
            assert line.startswith("{"), line
            yield Shop(json.loads(line)["url"], seller, process, http)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_SECONDS)
