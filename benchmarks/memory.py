"""The resident memory of a server process that serves very many open sessions."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx
from filler import fill
from load import Target
from report import MEGA, Bound, Part
from stand import Server, connect, database, server
from vouchers import Buyer

from service.local.postgres import PostgresAddress

MEGABYTES_MAX = 200.0
BATCH = 1_000
ANSWER_SECONDS = 120


def run(*, sessions: int) -> Part:
    """Sessions that are open already, and a voucher for each of them."""
    with database() as postgres, server(postgres.url()) as serving:
        target = serving.register_seller("memory")
        buyers = [Buyer(f"memory-{number}", target.recipient) for number in range(sessions)]
        asyncio.run(_open(postgres, target, buyers))
        rows = [_row("started", serving, sessions, 0.0)]
        started = time.monotonic()
        _pay(serving, target, buyers)
        rows.append(_row("every session touched", serving, sessions, time.monotonic() - started))
    return Part(
        "Memory of one server process",
        f"Vouchers by verify-batch, {BATCH} in a request; the process also runs the worker.",
        rows,
        [Bound("peak MB", rows[-1]["peak MB"], MEGABYTES_MAX, at_least=False)],
    )


async def _open(postgres: PostgresAddress, target: Target, buyers: Sequence[Buyer]) -> None:
    connection = await connect(postgres)
    await fill(connection, seller_id=target.seller_id, buyers=buyers, vouchers=0)
    await connection.close()


def _row(what: str, serving: Server, sessions: int, seconds: float) -> dict[str, Any]:
    return {
        "what": what,
        "open sessions": sessions,
        "MB": serving.memory_bytes("VmRSS") / MEGA,
        "peak MB": serving.memory_bytes("VmHWM") / MEGA,
        "seconds": seconds,
    }


def _pay(serving: Server, target: Target, buyers: Sequence[Buyer]) -> None:
    with httpx.Client(
        base_url=serving.url,
        headers={"Authorization": f"Bearer {target.api_key}"},
        timeout=ANSWER_SECONDS,
    ) as client:
        for first in range(0, len(buyers), BATCH):
            vouchers = [buyer.voucher(1) for buyer in buyers[first : first + BATCH]]
            answer = client.post(
                "/v1/vouchers/verify-batch", content=json.dumps({"vouchers": vouchers})
            )
            answer.raise_for_status()
            verdicts = {result["verdict"] for result in answer.json()["results"]}
            if verdicts != {"accepted"}:
                raise RuntimeError(f"unexpected verdicts: {verdicts}")
