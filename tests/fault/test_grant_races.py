"""Two processes, many channels and sellers, one grant: no limit is passed at any instant.

The judge below is written from the words of docs/grants.md and knows nothing of the code that
enforces them: it looks at every payment in the log, and at the sessions' own events beside it.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from kill_clients import Connection, address_of, key_of
from kill_harness import Serve
from ledger_checker import connect, read_stream
from racing import cpu_ticks, post

from service.application.streams import GRANT, grant_stream
from service.domain.codec import canonical, to_json
from service.domain.events import SessionOpened, VoucherAccepted
from service.domain.grant_events import GrantRegistered, GrantRevoked, GrantUsed
from service.domain.log import check_chain, decode
from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS
from session_ledger.grant import Grant, parse_grant, sign_grant, sign_revocation
from session_ledger.voucher import sign_voucher

SELLERS = 3
CHANNELS = 5
"""For each grant, dealt out to the sellers."""
LANES = 10
"""Connections that send at the same time."""
DEALS_MAX = 8
"""Times that the lanes connect anew until both processes had work."""
LIMITS: dict[str, dict[str, Any]] = {
    "calls": {"maxCalls": 25, "maxTotalAmount": "100000"},
    "total": {"maxCalls": 1_000, "maxTotalAmount": "150"},
    "window": {"maxCalls": 1_000, "window": {"seconds": 1, "maxAmount": "30"}},
    "payment": {"maxCalls": 1_000, "maxPaymentAmount": "4", "maxTotalAmount": "100000"},
    "revoked": {"maxCalls": 1_000, "maxTotalAmount": "100000"},
}
"""What is tight about each grant; beyond this, a payment may be 10 and all of them 100,000."""


async def test_no_limit_of_a_grant_is_ever_passed_whoever_uses_it_at_once(serve: Serve) -> None:
    await _play(serve, requests=600)


@pytest.mark.campaign
@pytest.mark.timeout(0)
async def test_no_limit_of_a_grant_is_ever_passed_in_a_campaign(serve: Serve) -> None:
    for _ in range(int(os.environ.get("ROUNDS", "20"))):
        await _play(serve, requests=2_000)


# --- the races ------------------------------------------------------------------------------


@dataclass(slots=True)
class Payer:
    """A channel under a grant: one voucher at a time is new, others may be sent again."""

    channel_id: str
    seller: dict[str, Any]
    owner: str
    grant_id: str
    paid: int = 0
    sequence: int = 0
    sent: list[bytes] = field(default_factory=list[bytes])
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def voucher(self, amount: int) -> bytes:
        """The next voucher, `amount` above what is paid."""
        self.sequence += 1
        fields = {
            "channelId": self.channel_id,
            "payer": self.owner,
            "recipient": self.seller["recipient"],
            "cumulativeAmount": str(self.paid + amount),
            "sequence": self.sequence,
            "meter": "request",
            "units": "1",
            "serverNonce": f"{self.channel_id}-{self.sequence}",
            "chainId": NETWORKS["localnet"].chain_id,
            "channelProgram": CHANNEL_PROGRAM,
            "grantId": self.grant_id,
        }
        return json.dumps(sign_voucher(fields, key_of(f"session of {self.owner}"))).encode()

    def note(self, answer: dict[str, Any]) -> None:
        """What is paid, by the receipts."""
        if "receipt" in answer:
            self.paid = max(self.paid, int(answer["receipt"]["cumulativeAmount"]))


@dataclass(slots=True)
class Play:
    """One grant of each kind, who uses them, and what they were told."""

    serve: Serve
    chance: random.Random
    grants: dict[str, tuple[str, Grant]] = field(default_factory=dict[str, tuple[str, Grant]])
    payers: list[Payer] = field(default_factory=list[Payer])
    answers: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    revoked_at: int | None = None

    def set_up(self, sellers: Sequence[dict[str, Any]], name: str) -> None:
        for kind, limits in LIMITS.items():
            owner = address_of(f"{name} {kind}")
            grant = _grant(self.serve, owner, limits)
            body = {"grant": grant.to_json(), "signature": sign_grant(grant, _owner(name, kind))}
            answer = httpx.post(f"{self.serve.facts['baseUrl']}/v1/grants", json=body, timeout=30)
            assert answer.status_code == 201, answer.text
            grant_id = answer.json()["grantId"]
            self.grants[kind] = grant_id, grant
            self.payers += [
                Payer(f"{name}-{kind}-{n}", sellers[n % SELLERS], owner, grant_id)
                for n in range(CHANNELS)
            ]

    async def lane(self, numbers: Iterator[int]) -> None:
        """One request after another, over connections of its own."""
        connections = {
            key: Connection("127.0.0.1", self.serve.port, key)
            for key in {payer.seller["apiKey"] for payer in self.payers}
        }
        for _ in numbers:
            payer = self.chance.choice(self.payers)
            connection = connections[payer.seller["apiKey"]]
            if payer.sent and self.chance.random() < 0.2:
                await self._repeat(payer, connection)
            else:
                async with payer.lock:
                    await self._pay(payer, connection)
        for connection in connections.values():
            connection.close()

    async def _pay(self, payer: Payer, connection: Connection) -> None:
        body = payer.voucher(self.chance.randint(1, 11))
        payer.sent.append(body)
        answer = await _verified(connection, body)
        payer.note(answer)
        self.answers[payer.grant_id, answer.get("code") or "accepted"] += 1

    async def _repeat(self, payer: Payer, connection: Connection) -> None:
        answer = await _verified(connection, self.chance.choice(payer.sent[-3:]))
        payer.note(answer)
        self.answers[payer.grant_id, "repeated " + (answer.get("code") or "accepted")] += 1

    async def revoke(self, name: str) -> None:
        """End the grant that is there for it, while it is used."""
        grant_id, at = self.grants["revoked"][0], int(time.time())
        signature = sign_revocation(grant_id, at, _owner(name, "revoked"))
        async with httpx.AsyncClient(base_url=self.serve.facts["baseUrl"], timeout=30) as client:
            body = {"signature": signature, "at": at}
            answer = await client.post(f"/v1/grants/{grant_id}/revoke", json=body)
        assert answer.status_code == 200, answer.text

    def told(self, kind: str) -> Counter[str]:
        """The codes that the users of a grant were told."""
        grant_id = self.grants[kind][0]
        return Counter({code: n for (of, code), n in self.answers.items() if of == grant_id})


async def _play(serve: Serve, *, requests: int) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().getrandbits(32)))
    print(f"\ngrant races: seed {seed}")
    before = cpu_ticks(serve)
    for deal in range(DEALS_MAX):
        await _one_deal(serve, f"grants-{seed}-{deal}-{time.monotonic_ns()}", seed, requests)
        worked = [after - before[pid] for pid, after in cpu_ticks(serve).items()]
        assert len(worked) == 2
        if min(worked) > 10:
            return
    pytest.fail("one of the processes had nothing to do")


async def _one_deal(serve: Serve, name: str, seed: int, requests: int) -> None:
    play = Play(serve, random.Random(seed))
    sellers = [serve.register_seller(f"{name} {number}") for number in range(SELLERS)]
    play.set_up(sellers, name)
    numbers = iter(range(requests))

    def until_half() -> Iterator[int]:
        for number in numbers:
            yield number
            if number >= requests // 2:
                return

    await asyncio.gather(*(play.lane(until_half()) for _ in range(LANES)))
    await asyncio.gather(*(play.lane(numbers) for _ in range(LANES)), play.revoke(name))
    for kind in LIMITS:
        print(kind, dict(play.told(kind)))
    connection = await connect(serve.facts["databaseUrl"])
    try:
        for kind, (grant_id, grant) in play.grants.items():
            channels = [p for p in play.payers if p.grant_id == grant_id]
            await _judge(connection, kind, grant, grant_id, channels)
    finally:
        await connection.close()
    assert play.told("calls")["grant_max_calls_exceeded"] > 0
    assert play.told("total")["grant_budget_exceeded"] > 0
    assert play.told("window")["grant_window_exceeded"] > 0
    assert play.told("payment")["grant_payment_too_large"] > 0
    assert play.told("revoked")["grant_revoked"] > 0


async def _verified(connection: Connection, body: bytes) -> dict[str, Any]:
    status, answer = await post(connection, "/v1/vouchers/verify", body)
    assert status == 200, answer
    return answer


def _owner(name: str, kind: str) -> Any:
    return key_of(f"{name} {kind}")


def _grant(serve: Serve, owner: str, limits: dict[str, Any]) -> Grant:
    now = int(time.time())
    return parse_grant(
        {
            "version": 1,
            "cluster": "localnet",
            "owner": owner,
            "sessionPublicKey": address_of(f"session of {owner}"),
            "mint": serve.facts["mint"],
            "allowedEntrypoints": ["transferChecked"],
            "allowedRecipients": ["*"],
            "maxPaymentAmount": "10",
            "maxCalls": 1_000,
            "maxTotalAmount": "100000",
            "validFrom": now - 60,
            "validUntil": now + 3_600,
            "nonce": "races",
            **limits,
        }
    )


# --- the judge ------------------------------------------------------------------------------


async def _judge(
    connection: Any, kind: str, grant: Grant, grant_id: str, payers: Sequence[Payer]
) -> None:
    """Every payment of one grant against its limits, at every instant of the log."""
    image = await read_stream(connection, grant_stream(grant_id).stream_id)
    assert check_chain(image.rows) == image.head_hash
    events = [decode(row.type, row.schema_version, row.payload) for row in image.rows]
    assert isinstance(events[0], GrantRegistered)
    assert canonical(to_json(GRANT.fold(None, events))) == image.projection
    amounts = list[tuple[int, int]]()
    for event in events[1:]:
        assert not any(isinstance(e, GrantRevoked) for e in events[: events.index(event)])
        if not isinstance(event, GrantUsed):
            continue
        assert event.calls == 1
        assert event.amount <= grant.max_payment_amount
        assert grant.valid_from * 1_000 <= event.at <= grant.valid_until * 1_000
        assert not amounts or amounts[-1][0] <= event.at
        amounts.append((event.at, event.amount))
        assert len(amounts) <= grant.max_calls
        assert sum(amount for _, amount in amounts) <= grant.max_total_amount
        if grant.window is not None:
            length = grant.window.seconds * 1_000
            recent = sum(amount for at, amount in amounts if event.at - at < length)
            assert recent <= grant.window.max_amount, kind
    await _judge_sessions(connection, events, grant_id, payers)
    if kind == "calls":
        assert len(amounts) == grant.max_calls, "the last calls were refused"


async def _judge_sessions(
    connection: Any, events: Sequence[Any], grant_id: str, payers: Sequence[Payer]
) -> None:
    """Each use is one accepted voucher of the same transaction, and each of those is one use."""
    accepted = list[tuple[str, bytes, int]]()
    for payer in payers:
        stream_id = f"session/{payer.seller['sellerId']}/{payer.channel_id}"
        image = await read_stream(connection, stream_id)
        found = [decode(row.type, row.schema_version, row.payload) for row in image.rows]
        if found:
            assert isinstance(found[0], SessionOpened)
            assert found[0].terms.grant_id == grant_id
        vouchers = [event for event in found if isinstance(event, VoucherAccepted)]
        assert sum(event.increment for event in vouchers) == payer.paid
        accepted += [(stream_id, event.message_hash, event.increment) for event in vouchers]
    uses = [e for e in events if isinstance(e, GrantUsed)]
    assert Counter((u.stream_id, u.message_hash, u.amount) for u in uses) == Counter(accepted)
    together = await connection.fetchval(
        """
        SELECT count(*) FROM events used JOIN events voucher
            ON voucher.tx_id = used.tx_id AND voucher.type = 'voucher_accepted'
           AND voucher.stream_id = convert_from(used.payload, 'UTF8')::jsonb ->> 'streamId'
         WHERE used.stream_id = $1 AND used.type = 'grant_used'
        """,
        grant_stream(grant_id).stream_id,
    )
    assert together == len(uses)
