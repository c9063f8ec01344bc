"""`make bench`: every benchmark, or those named with --only. Status 1 when a bound is missed."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import append
import backlog
import client
import direct
import memory
import middleware
import settle
import sign
import verify
from report import Part
from rich.console import Console

from service.observability import configure_logging

PARTS = (
    "verify",
    "sign",
    "direct",
    "client",
    "middleware",
    "settle",
    "backlog",
    "memory",
    "append",
)
OUT = Path(__file__).with_name("out")


def main() -> None:
    """Run, print, write, judge."""
    options = _options()
    configure_logging("warning", "console")
    parts: dict[str, Callable[[], Part]] = {
        "verify": lambda: verify.run(rounds=options.rounds, seconds=options.seconds),
        "sign": lambda: sign.run(rounds=options.rounds, seconds=options.seconds),
        "direct": lambda: direct.run(rounds=options.rounds, seconds=options.seconds),
        "client": lambda: client.run(rounds=options.rounds, seconds=options.seconds),
        "middleware": lambda: middleware.run(rounds=options.rounds, seconds=options.seconds),
        "settle": lambda: settle.run(
            settlements=options.settlements, rounds=max(1, options.rounds // 2)
        ),
        "backlog": lambda: backlog.run(
            rounds=options.rounds, seconds=options.seconds, events=options.events
        ),
        "memory": lambda: memory.run(sessions=options.sessions),
        "append": lambda: append.run(seconds=options.seconds),
    }
    console = Console(stderr=options.json, highlight=False)
    results: dict[str, Part] = {}
    for name in options.only or parts:
        console.print(f"[dim]running {name} ...[/dim]")
        results[name] = parts[name]()
        results[name].show(console)
    text = json.dumps(_document(results), indent=2)
    OUT.mkdir(exist_ok=True)
    (OUT / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json").write_text(text + "\n")
    if options.json:
        print(text)
    sys.exit(0 if all(b.holds for part in results.values() for b in part.bounds) else 1)


def _document(results: dict[str, Part]) -> dict[str, object]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "benchmarks": {name: part.to_json() for name, part in results.items()},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=6, help="interleaved rounds of each side")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one round")
    parser.add_argument("--events", type=int, default=1_000_000, help="length of the long log")
    parser.add_argument("--sessions", type=int, default=100_000, help="open sessions in memory")
    parser.add_argument(
        "--settlements", type=int, default=300, help="sessions closed at once in one round"
    )
    parser.add_argument("--json", action="store_true", help="results on stdout, tables on stderr")
    return parser.parse_args()


if __name__ == "__main__":
    main()
