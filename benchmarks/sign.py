"""Signing a buyer's voucher over HTTP with a durable commit, against merely parsing and answering.

The sessions are opened as a buyer opens them: money on the local chain, onboarding with a signed
proof, then one request for each session.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from load import CHANNELS_EACH, CONNECTIONS, Body, LoadProcess, Order, Target
from nacl.signing import SigningKey
from report import Part, median
from server import PARSE_ONLY_SIGN_PATH
from stand import Chain, Server, database, local_chain, server
from verify import Contender, figures, play
from vouchers import PRICE
from wire import Connection

from session_ledger.challenge import NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.sign_in import SIGN_IN_HEADER, build

SESSIONS = CONNECTIONS * CHANNELS_EACH
DEPOSIT = 1_000_000_000
"""Atomic units of one session; no run gets there."""

PARSE_ONLY = Order(PARSE_ONLY_SIGN_PATH, b'"success":true', 0, consumes=False)
SIGN = Order("/mpp/session/voucher", b'"success":true', 0, consumes=True)


def run(*, rounds: int, seconds: float) -> Part:
    """Interleaved rounds of both, so that a slow moment of the machine strikes both."""
    with (
        database() as postgres,
        local_chain() as chain,
        server(postgres.url(), chain) as serving,
    ):
        target = serving.register_seller("sign")
        channels = asyncio.run(_open(chain, serving, target))
        with LoadProcess(target, Totals(channels)) as load:
            contenders = (Contender(serving, load, PARSE_ONLY), Contender(serving, load, SIGN))
            parsed, signed = play(contenders, rounds=rounds, seconds=seconds)
    ratio = median([b.rate / a.rate for a, b in zip(parsed, signed, strict=True)])
    return Part(
        "Sign over HTTP with a durable commit",
        f"{CONNECTIONS} keep-alive connections, {SESSIONS} sessions, {rounds} rounds of "
        f"{seconds:g} s in turn. parse-only: the same server, middleware and body; no signature, "
        "no database.",
        [
            {"what": "parse-only", **figures(parsed), "ratio": 1.0},
            {"what": "sign", **figures(signed), "ratio": ratio},
        ],
        [],
    )


@dataclass(frozen=True, slots=True)
class Totals:
    """Rising totals to sign, in channels that each connection has for itself."""

    channels: tuple[str, ...]

    def bodies(self, connection: int) -> Iterator[Body]:
        """See `Bodies`. Nobody else signs there, so each sequence number is known before."""
        for number in itertools.count(1):
            for channel in self.channels[connection::CONNECTIONS]:
                body = {
                    "channel_id": channel,
                    "amount": str(number * PRICE),
                    "serverNonce": f"{channel}-{number}",
                }
                yield Body(json.dumps(body).encode(), b'"sequence":%d,' % number)


async def _open(chain: Chain, serving: Server, target: Target) -> tuple[str, ...]:
    """A buyer with money, onboarded, and its sessions."""
    key = SigningKey.generate()
    wallet = base58_encode(bytes(key.verify_key))
    chain.give_usdc([wallet], SESSIONS * DEPOSIT, str(serving.authority.pubkey()))
    proof = build(
        key,
        domain=serving.host,
        chain_id=NETWORKS["localnet"].chain_id,
        now_millis=time.time_ns() // 1_000_000,
    )
    connection = Connection(serving.host, serving.port, f"{SIGN_IN_HEADER}: {proof}")
    answer = await connection.post("/api/sessions/onboard", _json({"buyer_wallet": wallet}))
    if json.loads(answer)["status"] != "ready":
        raise RuntimeError(f"the buyer was not onboarded: {answer!r}")
    opening = {
        "buyer_wallet": wallet,
        "buyer_swig_address": wallet,
        "seller_wallet": target.recipient,
        "deposit_atomic": str(DEPOSIT),
    }
    answers = [await connection.post("/mpp/session/open", _json(opening)) for _ in range(SESSIONS)]
    connection.close()
    return tuple(json.loads(answer)["channel_id"] for answer in answers)


def _json(body: dict[str, str]) -> bytes:
    return json.dumps(body).encode()
