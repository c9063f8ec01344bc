"""The settlement worker's throughput, against the same payments sent straight to the chain."""

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from load import Target
from report import MICROS, Part, median
from solders.keypair import Keypair
from stand import SLOT_SECONDS, Chain, Server, connect, cpu_seconds, database, local_chain, rpc
from stand import server as serving_process
from vouchers import PRICE, Buyer
from wire import Connection, post_all

from service.adapters.solana.transfer import associated_token_address, build, transfer_instruction
from service.bootstrap import TOKEN_PROGRAM, policy_of
from service.config import Settings
from service.domain.onchain import TransferOrder
from service.domain.units import AtomicUsdc
from service.local.postgres import PostgresAddress
from session_ledger.challenge import NETWORKS

CONNECTIONS = 32
STATUSES_MAX = 256
"""Signatures in one look at the chain."""
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 300
_SETTLED = "SELECT status, count(*) FROM settlements WHERE seller_id = $1 GROUP BY status"
_DETOURS = """
SELECT type, payload FROM events
 WHERE seller_id = $1
   AND type IN ('attempt_expired', 'attempt_failed', 'settlement_parked', 'settlement_abandoned')
 ORDER BY feed_id
"""
"""What a settlement does not go through unless something is wrong, or too slow."""


def run(*, settlements: int, rounds: int) -> Part:
    """Payments sent by us and sessions settled by the worker in turn, on one chain."""
    with (
        database() as postgres,
        local_chain() as chain,
        serving_process(postgres.url(), chain) as serving,
    ):
        target = serving.register_seller("settle")
        chain.give_usdc([target.recipient], 0)
        stand = _Stand(postgres, chain, serving, target)
        raw: list[Burst] = []
        worker: list[Burst] = []
        for number in range(rounds):
            raw.append(asyncio.run(_raw(stand, stand.buyers(f"raw-{number}", settlements))))
            buyers = stand.buyers(f"closed-{number}", settlements)
            serving.pay_once(target, buyers)
            worker.append(asyncio.run(_worker(stand, buyers)))
    ratio = median([b.rate / a.rate for a, b in zip(raw, worker, strict=True)])
    return Part(
        "Settling",
        f"{rounds} rounds of {settlements} payments in turn, until all are finalized; slots of "
        f"{SLOT_SECONDS * 1_000:g} ms, 32 of them to finality. raw: signed beforehand, sent and "
        "polled. worker: sessions with a voucher, closed at once over HTTP.",
        [
            {"what": "raw", **_figures(raw), "ratio": 1.0},
            {"what": "worker", **_figures(worker), "ratio": ratio},
        ],
        [],
    )


@dataclass(frozen=True, slots=True)
class Burst:
    """One round: so many payments, until the last was finalized, and what it cost."""

    payments: int
    seconds: float
    server_cpu_seconds: float
    chain_cpu_seconds: float

    @property
    def rate(self) -> float:
        """Payments per second."""
        return self.payments / self.seconds


@dataclass(frozen=True, slots=True)
class _Stand:
    postgres: PostgresAddress
    chain: Chain
    serving: Server
    target: Target

    def buyers(self, name: str, count: int) -> list[Buyer]:
        """New buyers that can pay once, by our key."""
        buyers = [Buyer(f"{name}-{number}", self.target.recipient) for number in range(count)]
        delegate = str(self.serving.authority.pubkey())
        self.chain.give_usdc([buyer.payer for buyer in buyers], PRICE, delegate)
        return buyers


class _Clock:
    """Time and processor time from here on."""

    def __init__(self, stand: _Stand) -> None:
        self._pids = stand.serving.pid, stand.chain.pid
        self._used = [cpu_seconds(pid) for pid in self._pids]
        self._started = time.perf_counter()

    def burst(self, payments: int) -> Burst:
        seconds = time.perf_counter() - self._started
        used = (cpu_seconds(p) - before for p, before in zip(self._pids, self._used, strict=True))
        return Burst(payments, seconds, *used)

    async def look_again(self) -> None:
        if time.perf_counter() - self._started > PATIENCE_SECONDS:
            raise RuntimeError(f"not all payments were finalized within {PATIENCE_SECONDS} s")
        await asyncio.sleep(LOOK_SECONDS)


async def _raw(stand: _Stand, buyers: Sequence[Buyer]) -> Burst:
    """Sent as the worker sends: past preflight, once."""
    signed = _signed_payments(stand, buyers)
    options = {"encoding": "base64", "skipPreflight": True, "maxRetries": 0}
    sends = [rpc("sendTransaction", wire, options) for _, wire in signed]
    connections = [Connection(stand.chain.host, stand.chain.port) for _ in range(CONNECTIONS)]
    clock = _Clock(stand)
    answers = await post_all(connections, [("/", json.dumps(send).encode()) for send in sends])
    refused = [answer for answer in answers if b'"error"' in answer]
    if refused:
        raise RuntimeError(f"the chain refused {len(refused)} payments: {refused[0]!r}")
    waiting = [signature for signature, _ in signed]
    while waiting:
        await clock.look_again()
        waiting = await _not_final(connections[0], waiting)
    burst = clock.burst(len(buyers))
    for connection in connections:
        connection.close()
    return burst


async def _not_final(connection: Connection, signatures: Sequence[str]) -> list[str]:
    """Those of `signatures` that are not finalized yet."""
    left: list[str] = []
    for first in range(0, len(signatures), STATUSES_MAX):
        asked = signatures[first : first + STATUSES_MAX]
        request = rpc("getSignatureStatuses", asked, {"searchTransactionHistory": True})
        answer = json.loads(await connection.post("/", json.dumps(request).encode()))
        for signature, status in zip(asked, answer["result"]["value"], strict=True):
            if status is None or status["err"] is not None:
                raise RuntimeError(f"a payment did not land: {status}")
            if status["confirmationStatus"] != "finalized":
                left.append(signature)
    return left


async def _worker(stand: _Stand, buyers: Sequence[Buyer]) -> Burst:
    target = stand.target
    database = await connect(stand.postgres)
    before = await _counted(database, _SETTLED, target.seller_id)
    key = f"Authorization: Bearer {target.api_key}"
    connections = [Connection(target.host, target.port, key) for _ in range(CONNECTIONS)]
    clock = _Clock(stand)
    closes = [(f"/v1/sessions/{buyer.channel_id}/close", b"") for buyer in buyers]
    await post_all(connections, closes)
    while True:
        found = await _counted(database, _SETTLED, target.seller_id)
        if found["settled"] - before["settled"] == len(buyers):
            break
        await clock.look_again()
        await connections[0].post(*closes[0])  # the API answers, whatever the worker does
    burst = clock.burst(len(buyers))
    detours = await database.fetch(_DETOURS, target.seller_id)
    if detours:
        examples = "; ".join(
            f"{row['type']} {bytes(row['payload']).decode()}" for row in detours[:3]
        )
        raise RuntimeError(f"{len(detours)} events that no settlement needed: {examples}")
    for connection in connections:
        connection.close()
    await database.close()
    return burst


async def _counted(database: Any, query: str, seller_id: str) -> Counter[str]:
    return Counter({row["status"]: row["count"] for row in await database.fetch(query, seller_id)})


def _signed_payments(stand: _Stand, buyers: Sequence[Buyer]) -> list[tuple[str, str]]:
    """Signature and wire form of each buyer's payment, as the worker would build it."""
    authority = stand.serving.authority
    latest = stand.chain.call("getLatestBlockhash", {"commitment": "confirmed"})
    policy = policy_of(Settings())
    mint = NETWORKS["localnet"].usdc_mint
    destination = associated_token_address(stand.target.recipient, mint, TOKEN_PROGRAM)
    signed: list[tuple[str, str]] = []
    for number, buyer in enumerate(buyers):
        order = TransferOrder(
            settlement_id=f"raw_{number:032}",
            source=associated_token_address(buyer.payer, mint, TOKEN_PROGRAM),
            destination=destination,
            recipient=stand.target.recipient,
            mint=mint,
            decimals=6,
            token_program=TOKEN_PROGRAM,
            authority=str(authority.pubkey()),
            fee_payer=str(authority.pubkey()),
            amount=AtomicUsdc(PRICE),
            create_recipient_account=False,
            compute_unit_limit=policy.compute_unit_limit,
            compute_unit_price=policy.compute_unit_price,
        )
        signed.append(_sign(order, latest["value"]["blockhash"], authority))
    return signed


def _sign(order: TransferOrder, blockhash: str, key: Keypair) -> tuple[str, str]:
    unsigned = build(order, transfer_instruction(order), blockhash)
    signature = key.sign_message(unsigned.message)
    wire = unsigned.signed({str(key.pubkey()): bytes(signature)})
    return str(signature), base64.b64encode(wire).decode()


def _figures(bursts: Sequence[Burst]) -> dict[str, float]:
    payments = sum(burst.payments for burst in bursts)
    return {
        "payments/s": median([burst.rate for burst in bursts]),
        "seconds": median([burst.seconds for burst in bursts]),
        "server us/payment": sum(b.server_cpu_seconds for b in bursts) / payments * MICROS,
        "chain us/payment": sum(b.chain_cpu_seconds for b in bursts) / payments * MICROS,
    }
