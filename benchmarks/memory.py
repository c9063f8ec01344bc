"""The resident memory of a server process that serves very many open sessions."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from filler import fill
from load import Target
from report import MEGA, Bound, Part
from stand import BATCH, Server, connect, database, server
from vouchers import Buyer

from service.local.postgres import PostgresAddress

MEGABYTES_MAX = 200.0


def run(*, sessions: int) -> Part:
    """Sessions that are open already, and a voucher for each of them."""
    with database() as postgres, server(postgres.url()) as serving:
        target = serving.register_seller("memory")
        buyers = [Buyer(f"memory-{number}", target.recipient) for number in range(sessions)]
        asyncio.run(_open(postgres, target, buyers))
        rows = [_row("started", serving, sessions, 0.0)]
        started = time.monotonic()
        serving.pay_once(target, buyers)
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
