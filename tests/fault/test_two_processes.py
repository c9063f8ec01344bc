"""Two server processes on one database give one linear history, and a close wins or loses cleanly.

Every race is played with real processes over HTTP; the settlements end on the local chain.
"""

import asyncio
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kill_clients import PRICE, Channel, Connection, address_of
from kill_harness import Serve, clients_at_work
from ledger_checker import (
    Ack,
    Report,
    StreamImage,
    check_log,
    check_stream,
    connect,
    read_acks,
    read_stream,
)
from racing import Purse, cpu_ticks, post, present, settled_once, soon, until, until_settled

from service.application.streams import session_stream

LANES = 8
"""Races that are played at the same time."""
RIVALS = 3
"""Vouchers that race each close."""
PAYER = address_of("the races' payer")
DEALS_MAX = 8
"""Times that the writers connect anew until both processes had work."""


async def test_writers_of_the_same_channels_get_one_linear_history(
    serve: Serve, tmp_path: Path
) -> None:
    """The kernel deals the connections out, now and then nearly all to one process: deal again."""
    before = cpu_ticks(serve)
    worked = [0, 0]
    for deal in range(DEALS_MAX):
        await _write_and_check(serve, tmp_path / f"acks-{deal}", f"Linear {deal}")
        worked = [after - before[pid] for pid, after in cpu_ticks(serve).items()]
        assert len(worked) == 2
        if min(worked) > 10:
            break
    assert min(worked) > 10, f"one of the processes had nothing to do: {worked}"


async def _write_and_check(serve: Serve, acks_directory: Path, name: str) -> None:
    seller = serve.register_seller(name)
    plan = {"own": 0, "shared": 4, "repeat": 0.4}
    async with clients_at_work(serve, seller, acks_directory, 1, **plan) as clients:
        await until(lambda: _written(clients.directory, 2_000), seconds=60)
    acks = read_acks(clients.directory)
    report = await check_log(serve.facts["databaseUrl"], seller["sellerId"], acks)
    print(report, clients.counts)
    assert report.violations == []
    assert clients.counts["violations"] == []
    assert clients.counts["verdicts"]["accepted"] > 100
    assert clients.counts["verdicts"]["replayed"] > 100


async def test_a_voucher_that_races_a_close_is_refused_or_settled(serve: Serve) -> None:
    await _play_races(serve, "Races", 120)


@pytest.mark.campaign
@pytest.mark.timeout(0)
async def test_a_voucher_that_races_a_close_is_refused_or_settled_in_a_campaign(
    serve: Serve,
) -> None:
    await _play_races(serve, "Race campaign", int(os.environ.get("RACES", "5000")))


# --- one race -------------------------------------------------------------------------------


@dataclass(slots=True)
class Race:
    """What the rivals and the closes of one channel were told."""

    channel_id: str
    acks: list[Ack] = field(default_factory=list[Ack])
    closes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Lane:
    """Connections of their own for the rivals and the closes of one race after another."""

    def __init__(self, serve: Serve, seller: dict[str, Any], chance: random.Random) -> None:
        def connection() -> Connection:
            return Connection("127.0.0.1", serve.port, seller["apiKey"])

        self._recipient: str = seller["recipient"]
        self._rivals = [connection() for _ in range(RIVALS)]
        self._closers = [connection() for _ in range(2)]
        self._random = chance

    async def race(self, channel_id: str) -> Race:
        """One accepted voucher, then rivals against two closes."""
        race = Race(channel_id)
        channel = Channel(channel_id, self._recipient)
        await self._pay(race, channel, 1, self._rivals[0])
        assert race.acks[0].verdict == "accepted"
        rivals = [
            soon(self._random, self._pay, race, channel, number, connection)
            for number, connection in enumerate(self._rivals, start=2)
        ]
        closes = [soon(self._random, self._close, race, connection) for connection in self._closers]
        await asyncio.gather(*rivals, *closes)
        return race

    def end(self) -> None:
        """Drop the connections."""
        for connection in (*self._rivals, *self._closers):
            connection.close()

    async def _pay(self, race: Race, channel: Channel, number: int, connection: Connection) -> None:
        body = channel.body(number, PAYER)
        race.acks.append(await present(connection, race.channel_id, number * PRICE, body))

    async def _close(self, race: Race, connection: Connection) -> None:
        status, answer = await post(connection, f"/v1/sessions/{race.channel_id}/close", b"")
        assert status in (200, 202), answer
        race.closes.append(answer["settlement"])


# --- all of them ----------------------------------------------------------------------------


async def _play_races(serve: Serve, name: str, count: int) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().getrandbits(32)))
    print(f"\n{name}: seed {seed}")
    chance = random.Random(seed)
    seller = serve.register_seller(name)
    purse = Purse(serve, [PAYER], seller["recipient"], count * PRICE * (1 + RIVALS))
    numbers = iter(range(count))
    races: list[Race] = []

    async def play(lane: Lane) -> None:
        for number in numbers:
            races.append(await lane.race(f"race-{seed}-{number}"))
            if len(races) % 1_000 == 0:
                print(f"{len(races)} races")
        lane.end()

    await asyncio.gather(*(play(Lane(serve, seller, chance)) for _ in range(LANES)))
    connection = await connect(serve.facts["databaseUrl"])
    try:
        await until_settled(connection, seller["sellerId"], count)
        report, verdicts, settled = Report(), Counter[str](), 0
        for race in races:
            stream = session_stream(seller["sellerId"], race.channel_id)
            image = await read_stream(connection, stream.stream_id)
            check_stream(image, race.acks, report)
            settled += _settled_once(race, image)
            verdicts.update(ack.verdict for ack in race.acks[1:])
    finally:
        await connection.close()
    print(f"{len(races)} races, {dict(verdicts)}, {settled} atomic units settled")

    assert len(races) == count
    assert report.violations == []
    assert min(verdicts["accepted"], verdicts["closed"]) > count // 20, "these were no races"
    assert await purse.until_moved(settled)


def _settled_once(race: Race, image: StreamImage) -> int:
    """The amount of the one settlement, as both closes were told it."""
    settled = settled_once(image, race.acks)
    told = [(close["settlementId"], close["amount"]) for close in race.closes]
    assert told == [(settled.settlement_id, str(settled.amount))] * 2
    return settled.amount


def _written(directory: Path, answers: int) -> bool:
    return sum(file.read_bytes().count(b"\n") for file in directory.glob("*.acks")) >= answers
