"""Two server processes on one database give one linear history, and a close wins or loses cleanly.

Every race is played with real processes over HTTP; the settlements end on the local chain.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
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
from solders.pubkey import Pubkey
from spl.token.instructions import get_associated_token_address

from service.application.streams import session_stream
from service.domain.events import CloseRequested, SettlementFinalized, SettlementIntended
from service.domain.log import decode

LANES = 8
"""Races that are played at the same time."""
RIVALS = 3
"""Vouchers that race each close."""
SPREAD_SECONDS = 0.004
"""Rivals and closes start at random moments within this time."""
PAYER = address_of("the races' payer")
DEALS_MAX = 8
"""Times that the writers connect anew until both processes had work."""
SETTLE_SECONDS = 0.5
"""For one settlement, in the deadline of all."""
RETRYABLE = (409, 503)
VERDICTS = {"": "accepted", "amount_not_monotonic": "rejected", "session_closed": "closed"}
"""By the code of the answer; a rival must meet no other."""


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One listening socket, two processes behind it."""
    service = Serve(
        tmp_path_factory.mktemp("serve"), "--workers", "2", SETTLEMENT_POLL_SECONDS="0.2"
    )
    service.start()
    yield service
    service.stop()


async def test_writers_of_the_same_channels_get_one_linear_history(
    serve: Serve, tmp_path: Path
) -> None:
    """The kernel deals the connections out, now and then nearly all to one process: deal again."""
    before = _cpu_ticks(serve)
    worked = [0, 0]
    for deal in range(DEALS_MAX):
        await _write_and_check(serve, tmp_path / f"acks-{deal}", f"Linear {deal}")
        worked = [after - before[pid] for pid, after in _cpu_ticks(serve).items()]
        assert len(worked) == 2
        if min(worked) > 10:
            break
    assert min(worked) > 10, f"one of the processes had nothing to do: {worked}"


async def _write_and_check(serve: Serve, acks_directory: Path, name: str) -> None:
    seller = serve.register_seller(name)
    plan = {"own": 0, "shared": 4, "repeat": 0.4}
    async with clients_at_work(serve, seller, acks_directory, 1, **plan) as clients:
        await _until(lambda: _written(clients.directory, 2_000), seconds=60)
    acks = read_acks(clients.directory)
    report = await check_log(serve.facts["databaseUrl"], seller["sellerId"], acks)
    print(report, clients.counts)
    assert report.violations == []
    assert clients.counts["violations"] == []
    assert clients.counts["verdicts"]["accepted"] > 100
    assert clients.counts["verdicts"]["replayed"] > 100


async def test_a_voucher_that_races_a_close_is_refused_or_settled(serve: Serve) -> None:
    await _play_races(serve, "Races", 300)


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
            self._soon(self._pay, race, channel, number, connection)
            for number, connection in enumerate(self._rivals, start=2)
        ]
        closes = [self._soon(self._close, race, connection) for connection in self._closers]
        await asyncio.gather(*rivals, *closes)
        return race

    def end(self) -> None:
        """Drop the connections."""
        for connection in (*self._rivals, *self._closers):
            connection.close()

    async def _soon(self, act: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        await asyncio.sleep(self._random.uniform(0, SPREAD_SECONDS))
        await act(*arguments)

    async def _pay(self, race: Race, channel: Channel, number: int, connection: Connection) -> None:
        invoked = time.monotonic_ns()
        body = channel.body(number, PAYER)
        verdict = await _post(connection, "/v1/vouchers/verify", body)
        name = VERDICTS[verdict.get("code", "")]
        receipt: dict[str, Any] = verdict.get("receipt") or {"position": 0, "eventHash": ""}
        answer = name, receipt["position"], receipt["eventHash"]
        times = invoked, time.monotonic_ns()
        race.acks.append(Ack(race.channel_id, number * PRICE, *answer, *times))

    async def _close(self, race: Race, connection: Connection) -> None:
        answer = await _post(connection, f"/v1/sessions/{race.channel_id}/close", b"")
        race.closes.append(answer["settlement"])


async def _post(connection: Connection, path: str, body: bytes) -> dict[str, Any]:
    """The answer, asked for again while the service says that it lost a race."""
    while True:
        status, answer = await connection.post(path, body)
        if status not in RETRYABLE:
            assert status in (200, 202), answer
            return json.loads(answer)
        await asyncio.sleep(0.01)


# --- all of them ----------------------------------------------------------------------------


async def _play_races(serve: Serve, name: str, count: int) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().getrandbits(32)))
    print(f"\n{name}: seed {seed}")
    chance = random.Random(seed)
    seller = serve.register_seller(name)
    purse = Purse(serve, seller["recipient"], count)
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
        await _until_settled(connection, seller["sellerId"], count)
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
    """The amount of the one settlement, which covers all that was acknowledged."""
    events = [decode(row.type, row.schema_version, row.payload) for row in image.rows]
    intents = [event for event in events if isinstance(event, SettlementIntended)]
    payments = [event for event in events if isinstance(event, SettlementFinalized)]
    closed = [n for n, event in enumerate(events, start=1) if isinstance(event, CloseRequested)]
    assert (len(intents), len(payments), len(closed)) == (1, 1, 1), race
    amount: int = intents[0].amount
    paid = [ack for ack in race.acks if ack.verdict == "accepted"]
    assert amount == max(ack.amount for ack in paid), race
    assert all(ack.position < closed[0] for ack in paid), race
    assert {close["settlementId"] for close in race.closes} == {intents[0].settlement_id}
    assert {close["amount"] for close in race.closes} == {str(amount)}
    assert len(race.closes) == 2
    return amount


async def _until_settled(connection: Any, seller_id: str, count: int) -> None:
    statuses: Counter[str] = Counter()
    deadline = time.monotonic() + 30 + count * SETTLE_SECONDS
    while statuses["settled"] < count:
        assert time.monotonic() < deadline, statuses
        await asyncio.sleep(0.2)
        rows = await connection.fetch(
            "SELECT status, count(*) FROM settlements WHERE seller_id = $1 GROUP BY 1", seller_id
        )
        statuses = Counter({row["status"]: row["count"] for row in rows})


class Purse:
    """The payer's and the recipient's money on the local chain, in atomic units."""

    def __init__(self, serve: Serve, recipient: str, races: int) -> None:
        self._url, self._mint = serve.facts["rpcUrl"], serve.facts["mint"]
        self._recipient = recipient
        self._amount = races * PRICE * (1 + RIVALS)
        delegated = {
            "delegate": serve.facts["settlementAuthority"],
            "delegatedAmount": self._amount,
        }
        self._rpc(
            "surfnet_setTokenAccount", PAYER, self._mint, {"amount": self._amount, **delegated}
        )
        self._rpc("surfnet_setTokenAccount", recipient, self._mint, {"amount": 0})

    async def until_moved(self, amount: int) -> bool:
        """Whether exactly `amount` went from the one to the other, once it is finalized."""
        await _until(lambda: self._balance(self._recipient) >= amount, seconds=30)
        left, arrived = self._balance(PAYER), self._balance(self._recipient)
        return (self._amount - left, arrived) == (amount, amount)

    def _balance(self, owner: str) -> int:
        account = get_associated_token_address(
            Pubkey.from_string(owner), Pubkey.from_string(self._mint)
        )
        held = self._rpc("getTokenAccountBalance", str(account), {"commitment": "finalized"})
        return int(held["value"]["amount"])

    def _rpc(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx.post(self._url, json=body, timeout=30).json()
        assert "error" not in answer, answer
        return answer["result"]


async def _until(holds: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


def _written(directory: Path, answers: int) -> bool:
    return sum(file.read_bytes().count(b"\n") for file in directory.glob("*.acks")) >= answers


def _cpu_ticks(serve: Serve) -> dict[int, int]:
    """Processor time of each server process so far."""
    ticks = dict[int, int]()
    for pid in serve.servers():
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        ticks[pid] = int(user) + int(system)
    return ticks
