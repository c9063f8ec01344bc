"""What was acknowledged survives SIGKILL, exactly once; and the checker that says so can fail."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kill_harness import READY_SECONDS, Clients, Killer, KillName, Serve, clients_at_work
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

from service.application.streams import session_stream

PROGRESS_EVERY = 10


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A service with everything durable, shared by the tests of this module."""
    service = Serve(tmp_path_factory.mktemp("serve"))
    service.start()
    yield service
    service.stop()


def _seed(name: str) -> int:
    """This run's seed; SEED repeats one."""
    seed = int(os.environ.get("SEED", random.SystemRandom().getrandbits(32)))
    print(f"\n{name}: seed {seed}")
    return seed


def _schedule(chance: random.Random, *, service: int, postgres: int) -> list[KillName]:
    """Half of the kills of the service take all of it, the others one server process."""
    whole = service - service // 2
    counts: dict[KillName, int] = {
        "service": whole,
        "server": service - whole,
        "postgres": postgres,
    }
    kills: list[KillName] = []
    for name, count in counts.items():
        kills.extend(name for _ in range(count))
    chance.shuffle(kills)
    return kills


async def _campaign(
    serve: Serve,
    seller: dict[str, Any],
    directory: Path,
    seed: int,
    *,
    service: int,
    postgres: int,
    **plan: Any,
) -> tuple[Killer, Clients, Report]:
    chance = random.Random(seed)
    async with clients_at_work(serve, seller, directory / "acks", seed, **plan) as clients:
        killer = Killer(serve, clients, chance)
        await killer.until(lambda: clients.progress() > 0)
        for name in _schedule(chance, service=service, postgres=postgres):
            await killer.kill(name)
            if killer.kills.total() % PROGRESS_EVERY == 0:
                print(f"{killer.kills.total()} kills, {clients.progress():,} bytes of answers")
    acks = read_acks(clients.directory)
    report = await check_log(serve.facts["databaseUrl"], seller["sellerId"], acks)
    print(f"{report.acks} answers, {report.events} events, {report.lost} lost; {killer.summary()}")
    print(clients.counts)
    return killer, clients, report


@pytest.mark.timeout(9 * READY_SECONDS)  # every recovery has a deadline of its own
async def test_no_acknowledged_voucher_is_lost_or_doubled_by_kills(
    serve: Serve, tmp_path: Path
) -> None:
    seed = _seed("kills")
    seller = serve.register_seller(f"Kills {seed}")
    killer, clients, report = await _campaign(serve, seller, tmp_path, seed, service=6, postgres=3)

    assert report.violations == []
    assert clients.counts["violations"] == []
    assert killer.kills.total() == 9
    assert report.acks > 500
    assert clients.counts["failures"], "no client noticed a kill: they did not strike"


@pytest.mark.campaign
@pytest.mark.timeout(0)
async def test_no_acknowledged_voucher_is_lost_or_doubled_in_a_campaign(
    serve: Serve, tmp_path: Path
) -> None:
    seed = _seed("campaign")
    _, clients, report = await _campaign(
        serve,
        serve.register_seller(f"Campaign {seed}"),
        tmp_path,
        seed,
        service=int(os.environ.get("KILLS_SERVICE", "200")),
        postgres=int(os.environ.get("KILLS_POSTGRES", "50")),
        clients=int(os.environ.get("KILLS_CLIENTS", "32")),
        pause_seconds=float(os.environ.get("KILLS_PAUSE", "0.02")),
    )
    assert report.violations == []
    assert clients.counts["violations"] == []


async def test_the_same_checker_finds_losses_when_commits_are_not_durable(tmp_path: Path) -> None:
    serve = Serve(tmp_path, SYNCHRONOUS_COMMIT="off")
    serve.start()
    try:
        seller = serve.register_seller("Negative control")
        await _delay_the_wal_writer(serve.facts["databaseUrl"])
        seed = _seed("negative control")
        _, _, report = await _campaign(serve, seller, tmp_path, seed, service=0, postgres=3)
    finally:
        serve.stop()

    assert report.lost > 0


async def _delay_the_wal_writer(database_url: str) -> None:
    """Without it the WAL writer saves what COMMIT did not within a fifth of a second.

    What stands so far, the seller among it, is made durable first.
    """
    connection = await connect(database_url)
    await connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    await connection.execute("ALTER SYSTEM SET wal_writer_flush_after = '1GB'")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.execute("CHECKPOINT")
    await connection.close()


# --- the checker itself ---------------------------------------------------------------------

Broken = tuple[StreamImage, list[Ack]]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answered")


@pytest.fixture
async def sound(serve: Serve, answered: Path) -> Broken:
    """A stream that real clients wrote, and what they were told."""
    seed = len(list(answered.iterdir()))
    seller = serve.register_seller(f"Sound {seed}")
    plan = {"clients": 4, "own": 0, "shared": 1, "repeat": 0.3}
    async with clients_at_work(serve, seller, answered / str(seed), seed, **plan) as clients:
        await Killer(serve, clients, random.Random(seed)).until(lambda: clients.progress() > 10_000)
    acks = read_acks(clients.directory)
    stream = session_stream(seller["sellerId"], acks[0].channel_id)
    connection = await connect(serve.facts["databaseUrl"])
    try:
        return await read_stream(connection, stream.stream_id), acks
    finally:
        await connection.close()


def _without(image: StreamImage, index: int) -> StreamImage:
    rows, amounts = list(image.rows), list(image.amounts)
    del rows[index], amounts[index]
    return replace(image, rows=rows, amounts=amounts)


def _twice(image: StreamImage, index: int) -> StreamImage:
    rows, amounts = list(image.rows), list(image.amounts)
    rows.insert(index, rows[index])
    amounts.insert(index, amounts[index])
    return replace(image, rows=rows, amounts=amounts)


def _edited(image: StreamImage, index: int) -> StreamImage:
    rows = list(image.rows)
    rows[index] = replace(rows[index], payload=rows[index].payload.replace(b'"at":1', b'"at":2'))
    return replace(image, rows=rows)


def _with_other_amounts(image: StreamImage) -> StreamImage:
    return replace(image, amounts=[0] * len(image.rows))


def _cut(image: StreamImage) -> StreamImage:
    """The last event gone without a trace, head and projection as they were before it."""
    return replace(
        image,
        rows=image.rows[:-1],
        amounts=image.amounts[:-1],
        head_position=image.head_position - 1,
        head_hash=image.rows[-1].prev_hash,
    )


def _told_elsewhere(acks: list[Ack]) -> list[Ack]:
    index = next(n for n, ack in enumerate(acks) if ack.verdict == "accepted")
    return [*acks[:index], replace(acks[index], position=acks[index].position + 1)]


def _accepted_twice(acks: list[Ack]) -> list[Ack]:
    return [*acks, next(ack for ack in acks if ack.verdict == "accepted")]


def _refused_but_there(acks: list[Ack]) -> list[Ack]:
    ack = next(ack for ack in acks if ack.verdict == "accepted")
    return [replace(ack, verdict="rejected", position=0, event_hash="")]


def _answered_before_asked(acks: list[Ack]) -> list[Ack]:
    """The last one was answered before the first was asked for: no line fits that."""
    accepted = sorted((a for a in acks if a.verdict == "accepted"), key=lambda ack: ack.position)
    first, last = accepted[0], accepted[-1]
    return [first, replace(last, invoked=first.invoked - 2, returned=first.invoked - 1)]


def _refused_for_nothing(acks: list[Ack]) -> list[Ack]:
    top = max(acks, key=lambda ack: ack.amount)
    return [replace(top, amount=top.amount + 1, verdict="rejected", position=0, event_hash="")]


BREAKS: dict[str, Callable[[StreamImage, list[Ack]], Broken]] = {
    "row_removed": lambda image, acks: (_without(image, 3), acks),
    "first_row_removed": lambda image, acks: (_without(image, 0), acks),
    "last_row_removed": lambda image, acks: (_without(image, -1), acks),
    "tail_cut_with_its_head": lambda image, acks: (_cut(image), acks),
    "row_doubled": lambda image, acks: (_twice(image, 3), acks),
    "row_edited": lambda image, acks: (_edited(image, 3), acks),
    "amount_column_edited": lambda image, acks: (_with_other_amounts(image), acks),
    "projection_edited": lambda image, acks: (replace(image, projection=b"{}"), acks),
    "head_hash_edited": lambda image, acks: (replace(image, head_hash=bytes(32)), acks),
    "told_elsewhere": lambda image, acks: (image, _told_elsewhere(acks)),
    "accepted_twice": lambda image, acks: (image, _accepted_twice(acks)),
    "refused_but_there": lambda image, acks: (image, _refused_but_there(acks)),
    "answered_before_asked": lambda image, acks: (image, _answered_before_asked(acks)),
    "refused_for_nothing": lambda image, acks: (image, _refused_for_nothing(acks)),
}


@pytest.mark.parametrize("breaking", BREAKS.values(), ids=BREAKS.keys())
def test_the_checker_notices(
    sound: Broken, breaking: Callable[[StreamImage, list[Ack]], Broken]
) -> None:
    image, acks = sound
    before, after = Report(), Report()
    check_stream(image, acks, before)
    check_stream(*breaking(image, acks), after)

    assert before.violations == []
    assert after.violations != []
