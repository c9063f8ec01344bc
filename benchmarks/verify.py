"""Verifying a voucher over HTTP with a durable commit, against merely parsing and answering."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from load import CONNECTIONS, LoadProcess, Order, Round
from report import MICROS, MILLIS, Bound, Part, median, percentile
from server import PARSE_ONLY_PATH
from stand import Server, database, server

RATIO_MIN = 0.35
WARM_UP_SECONDS = 1.5
RATE_FIRST = 6_000.0
"""Requests per second that the warm-up is prepared for; later rounds know better."""
SPARE = 1.5
"""Signed in advance, as a multiple of what the fastest round so far would need."""

PARSE_ONLY = Order(PARSE_ONLY_PATH, b'"accepted"', 0, consumes=False)
VERIFY = Order("/v1/vouchers/verify", b'"verdict":"accepted"', 0, consumes=True)


def run(*, rounds: int, seconds: float) -> Part:
    """Interleaved rounds of both, so that a slow moment of the machine strikes both."""
    with (
        database() as postgres,
        server(postgres.url()) as serving,
        LoadProcess(serving.register_seller("verify")) as load,
    ):
        contenders = (Contender(serving, load, PARSE_ONLY), Contender(serving, load, VERIFY))
        parsed, verified = play(contenders, rounds=rounds, seconds=seconds)
    ratios = [b.rate / a.rate for a, b in zip(parsed, verified, strict=True)]
    return Part(
        "Verify over HTTP with a durable commit",
        f"{CONNECTIONS} keep-alive connections, {rounds} rounds of {seconds:g} s in turn. "
        "parse-only: the same server, middleware and body; no authentication, signature, database.",
        [
            {"what": "parse-only", **figures(parsed), "ratio": 1.0},
            {"what": "verify", **figures(verified), "ratio": median(ratios)},
        ],
        [Bound("verify / parse-only", median(ratios), RATIO_MIN, at_least=True)],
    )


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is asked, by whom, and for what."""

    serving: Server
    load: LoadProcess
    order: Order


def play(contenders: Sequence[Contender], *, rounds: int, seconds: float) -> list[list[Round]]:
    """Rounds of each contender in turn, after a warm-up."""
    rate = RATE_FIRST
    results: list[list[Round]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        length = seconds if number else WARM_UP_SECONDS
        for contender, found in zip(contenders, results, strict=True):
            contender.load.prepare(math.ceil(rate * length * SPARE / CONNECTIONS))
            before = contender.serving.cpu_seconds()
            measured = contender.load.run(replace(contender.order, seconds=length))
            used = contender.serving.cpu_seconds() - before
            if contender.order.consumes:
                rate = measured.rate
            if number:
                found.append(replace(measured, server_cpu_seconds=used))
    return results


def figures(rounds: Sequence[Round]) -> dict[str, float]:
    """Requests per second (median of the rounds) and latencies over all, in milliseconds."""
    latencies = [latency * MILLIS for each in rounds for latency in each.latencies]
    return {
        "requests/s": median([each.rate for each in rounds]),
        "p50 ms": percentile(latencies, 50),
        "p99 ms": percentile(latencies, 99),
        "server us/request": sum(each.server_cpu_seconds for each in rounds)
        / len(latencies)
        * MICROS,
    }
