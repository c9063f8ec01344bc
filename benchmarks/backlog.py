"""Verifying with a long log against verifying with an empty one."""

import asyncio
from dataclasses import replace

from filler import fill
from load import CONNECTIONS, LoadProcess, Target
from report import Bound, Part, median
from stand import connect, database, server
from verify import VERIFY, Contender, figures, play
from vouchers import Buyer

from service import migrations
from service.local.postgres import PostgresAddress

RATIO_MIN = 0.9
EVENTS_EACH = 500


def run(*, rounds: int, seconds: float, events: int) -> Part:
    """Two databases of one Postgres, one of them filled; interleaved rounds on both."""
    with database() as empty:
        full = replace(empty, database="long_log")
        asyncio.run(_create(empty, full))
        migrations.upgrade(full.url())
        with server(empty.url()) as first, server(full.url()) as second:
            target = second.register_seller("backlog")
            written = asyncio.run(_fill(full, target, events))
            with (
                LoadProcess(first.register_seller("backlog")) as first_load,
                LoadProcess(target) as second_load,
            ):
                contenders = (
                    Contender(first, first_load, VERIFY),
                    Contender(second, second_load, VERIFY),
                )
                none, many = play(contenders, rounds=rounds, seconds=seconds)
    ratios = [b.rate / a.rate for a, b in zip(none, many, strict=True)]
    return Part(
        "Verify with a long log",
        f"{CONNECTIONS} keep-alive connections, {rounds} rounds of {seconds:g} s in turn, one "
        "server process for each database of the same Postgres.",
        [
            {"what": "log is empty", "events": 0, **figures(none), "ratio": 1.0},
            {"what": "log is long", "events": written, **figures(many), "ratio": median(ratios)},
        ],
        [Bound("long / empty", median(ratios), RATIO_MIN, at_least=True)],
    )


async def _create(known: PostgresAddress, new: PostgresAddress) -> None:
    connection = await connect(known)
    await connection.execute(f"CREATE DATABASE {new.database}")
    await connection.close()


async def _fill(full: PostgresAddress, target: Target, events: int) -> int:
    connection = await connect(full)
    written = await fill(
        connection,
        seller_id=target.seller_id,
        buyers=[Buyer(f"filler-{n}", target.recipient) for n in range(-(-events // EVENTS_EACH))],
        vouchers=EVENTS_EACH - 1,
    )
    await connection.close()
    return written
