"""Buyers' sessions: we sign, the seller presents, and a close takes exactly what was presented.

Two server processes; every race is played over HTTP by a buyer that onboarded and opened a session
as buyers do, and ends with money on the local chain.
"""

import asyncio
import base64
import json
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx
import pytest
from kill_clients import PRICE, Connection, address_of, key_of
from kill_harness import Serve
from ledger_checker import Ack, Report, StreamImage, check_stream, connect, read_stream
from racing import Purse, cpu_ticks, post, present, settled_once, soon

from service.application.streams import session_stream
from service.domain.events import VoucherAccepted, VoucherSigned
from session_ledger.challenge import NETWORKS
from session_ledger.sign_in import SIGN_IN_HEADER, build

LANES = 24
"""Races that are played at the same time; a close waits for its payment, so there are many."""
RIVALS = 3
"""Vouchers that are signed and presented while the session is closed."""
DEPOSIT = PRICE * (1 + RIVALS)
REFUSALS = ("amount_not_monotonic", "channel_already_closed")
"""What a rival may be told instead of a signature."""


async def test_a_voucher_signed_here_that_races_a_close_is_refused_or_settled(
    serve: Serve,
) -> None:
    await _play_races(serve, "Buyers", 40)


@pytest.mark.campaign
@pytest.mark.timeout(0)
async def test_a_voucher_signed_here_that_races_a_close_is_refused_or_settled_in_a_campaign(
    serve: Serve,
) -> None:
    await _play_races(serve, "Buyers' campaign", int(os.environ.get("RACES", "5000")))


# --- one race -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signed:
    """A voucher that a buyer was given."""

    amount: int
    sequence: int
    signature: bytes


@dataclass(slots=True)
class Race:
    """What a channel's rivals and closes were told."""

    channel_id: str
    signed: list[Signed] = field(default_factory=list[Signed])
    acks: list[Ack] = field(default_factory=list[Ack])
    refused: list[str] = field(default_factory=list[str])
    closes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Lane:
    """A buyer that opens one session after another, and connections for all who race there."""

    def __init__(
        self, serve: Serve, seller: dict[str, Any], buyer: str, chance: random.Random
    ) -> None:
        def connection() -> Connection:
            return Connection("127.0.0.1", serve.port, seller["apiKey"])

        self._recipient: str = seller["recipient"]
        self._buyer = buyer
        self._rivals = [connection() for _ in range(RIVALS)]
        self._closers = [connection() for _ in range(2)]
        self._random = chance

    async def race(self) -> Race:
        """A session with one accepted voucher, then rivals against two closes."""
        race = Race(await self._open())
        await self._pay(race, 1, self._rivals[0])
        assert [ack.verdict for ack in race.acks] == ["accepted"]
        rivals = [
            soon(self._random, self._pay, race, number, connection)
            for number, connection in enumerate(self._rivals, start=2)
        ]
        closes = [soon(self._random, self._close, race, each) for each in self._closers]
        await asyncio.gather(*rivals, *closes)
        return race

    def end(self) -> None:
        """Drop the connections."""
        for connection in (*self._rivals, *self._closers):
            connection.close()

    async def _open(self) -> str:
        opening = {
            "buyer_wallet": self._buyer,
            "buyer_swig_address": self._buyer,
            "seller_wallet": self._recipient,
            "deposit_atomic": str(DEPOSIT),
        }
        _, answer = await post(self._rivals[0], "/mpp/session/open", json.dumps(opening).encode())
        assert answer["success"] is True, answer
        return answer["channel_id"]

    async def _pay(self, race: Race, number: int, connection: Connection) -> None:
        """Have a voucher signed, and present the whole answer to the seller's ledger."""
        amount = number * PRICE
        asked = {"channel_id": race.channel_id, "amount": str(amount), "serverNonce": str(number)}
        _, signed = await post(connection, "/mpp/session/voucher", json.dumps(asked).encode())
        if not signed["success"]:
            assert signed["error"] in REFUSALS, signed
            race.refused.append(signed["error"])
            return
        assert signed["voucher"]["cumulativeAmount"] == signed["amount"] == str(amount)
        assert signed["voucher"]["sequence"] == signed["sequence"]
        signature = base64.b64decode(signed["signature"])
        race.signed.append(Signed(amount, signed["sequence"], signature))
        envelope = json.dumps(signed).encode()
        race.acks.append(await present(connection, race.channel_id, amount, envelope))

    async def _close(self, race: Race, connection: Connection) -> None:
        """Close, and close again while the payment is not final."""
        body = json.dumps({"channel_id": race.channel_id}).encode()
        while True:
            try:
                _, answer = await post(connection, "/mpp/session/close", body)
            except TimeoutError:
                continue  # the client gave up waiting; calling again goes on
            if answer["success"]:
                race.closes.append(answer["settlement"])
                return
            assert answer["error"] == "settlement_pending", answer


# --- all of them ----------------------------------------------------------------------------


async def _play_races(serve: Serve, name: str, count: int) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().getrandbits(32)))
    print(f"\n{name}: seed {seed}")
    chance = random.Random(seed)
    seller = serve.register_seller(name)
    buyers = [f"{name}'s {number}" for number in range(LANES)]
    wallets = [address_of(buyer) for buyer in buyers]
    purse = Purse(serve, wallets, seller["recipient"], count * DEPOSIT)
    for buyer in buyers:
        await asyncio.to_thread(_onboard, serve, buyer)
    before = cpu_ticks(serve)
    numbers = iter(range(count))
    races: list[Race] = []

    async def play(lane: Lane) -> None:
        for _ in numbers:
            races.append(await lane.race())
            if len(races) % 1_000 == 0:
                print(f"{len(races)} races")
        lane.end()

    await asyncio.gather(*(play(Lane(serve, seller, wallet, chance)) for wallet in wallets))
    worked = [after - before[pid] for pid, after in cpu_ticks(serve).items()]
    connection = await connect(serve.facts["databaseUrl"])
    try:
        report, outcomes, settled = Report(), Counter[str](), 0
        for race in races:
            stream = session_stream(seller["sellerId"], race.channel_id)
            image = await read_stream(connection, stream.stream_id)
            check_stream(image, race.acks, report)
            settled += _settled_as_presented(race, image)
            outcomes.update(ack.verdict for ack in race.acks[1:])
            outcomes.update(f"not signed: {refusal}" for refusal in race.refused)
    finally:
        await connection.close()
    print(f"{len(races)} races, {dict(outcomes)}, {settled} atomic units settled, ticks {worked}")

    assert len(races) == count
    assert report.violations == []
    late = outcomes["closed"] + outcomes["not signed: channel_already_closed"]
    assert min(outcomes["accepted"], late) > count // 20, "these were no races"
    assert len(worked) == 2
    assert min(worked) > 10, f"one of the processes had nothing to do: {worked}"
    assert await purse.until_moved(settled)


def _onboard(serve: Serve, buyer: str) -> None:
    """The chain grants everything already, so one request does it."""
    proof = build(
        key_of(buyer),
        domain="127.0.0.1",
        chain_id=NETWORKS["localnet"].chain_id,
        now_millis=time.time_ns() // 1_000_000,
    )
    answer = httpx.post(
        f"{serve.facts['baseUrl']}/api/sessions/onboard",
        headers={SIGN_IN_HEADER: proof},
        json={"buyer_wallet": address_of(buyer)},
        timeout=30,
    )
    assert answer.json()["status"] == "ready", answer.text


def _settled_as_presented(race: Race, image: StreamImage) -> int:
    """The amount of the one settlement, as both closes were told it; what was signed rises."""
    settled = settled_once(image, race.acks)
    signed = [event for event in settled.events if isinstance(event, VoucherSigned)]
    accepted = [event for event in settled.events if isinstance(event, VoucherAccepted)]
    assert all(b.cumulative_amount > a.cumulative_amount for a, b in pairwise(signed)), race
    assert all(b.sequence > a.sequence for a, b in pairwise(signed)), race
    logged = {Signed(v.cumulative_amount, v.sequence, v.signature) for v in signed}
    assert set(race.signed) == logged, race
    assert {Signed(v.cumulative_amount, v.sequence, v.signature) for v in accepted} <= logged, race
    expected = {
        "amount_settled": str(settled.amount),
        "buyer_refund": str(DEPOSIT - settled.amount),
        "voucher_count": len(accepted),
    }
    told = [{name: close[name] for name in expected} for close in race.closes]
    assert told == [expected, expected], race
    return settled.amount
