"""`session-ledger replay`: is everything that was derived from the log what the log says?"""

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)

from service.application.history import parse_instant
from service.application.replay import Replay, Report, Scope
from service.application.streams import session_stream
from service.cli.connection import OpenLedger, run_on_ledger
from service.cli.output import FAILED, AsJson, progress_console, show, show_rows
from service.cli.settings import DataDir
from service.domain.errors import InvalidRequest
from service.domain.units import UnixMillis

COLUMNS = ("stream", "position", "what", "detail", "repaired")


def replay(
    *,
    seller: Annotated[str | None, typer.Option(help="With --channel: one session only.")] = None,
    channel: Annotated[str | None, typer.Option(help="With --seller: one session only.")] = None,
    stream: Annotated[
        str | None, typer.Option(help="One stream only, such as seller/slr_... .")
    ] = None,
    to_position: Annotated[
        int | None, typer.Option(min=1, help="Fold one stream up to this event, and show it.")
    ] = None,
    to_time: Annotated[
        str | None, typer.Option(help="Fold up to an RFC 3339 time, such as 2026-11-21T12:00:00Z.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Remake projections that differ. Never the log.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="With --rebuild: remake all, also where the log ends before its projection, "
            "which hides that events were lost.",
        ),
    ] = False,
    verify_signatures: Annotated[
        bool,
        typer.Option("--verify-signatures", help="Decide every accepted voucher again, offline."),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fold the log again and compare: positions, hashes, projections, side tables.

    Exit status 0 when everything agrees (or was repaired), 1 when something differs. Safe beside
    a running service. After a repair restart the service: it may remember what was wrong.
    """
    scope = Scope(
        stream_id=_stream_id(seller, channel, stream),
        to_position=to_position,
        to_millis=_millis(to_time),
        rebuild=rebuild,
        force=force,
        verify_vouchers=verify_signatures,
    )
    _check_usage(scope)
    started = time.monotonic()

    async def run(ledger: OpenLedger) -> Report:
        total = await ledger.replay_store.event_count(scope.stream_id)
        with _progress(total) as on_progress:
            work = Replay(ledger.replay_store, ledger.store, on_progress=on_progress)
            return await work.run(scope)

    report = run_on_ledger(run, data_dir, as_json=as_json)
    _show(report, time.monotonic() - started, as_json=as_json)
    if report.remaining:
        raise typer.Exit(FAILED)


def _stream_id(seller: str | None, channel: str | None, stream: str | None) -> str | None:
    if (seller is None) != (channel is None) or (stream is not None and seller is not None):
        raise typer.BadParameter("name one session by --seller and --channel, or by --stream")
    if seller is not None and channel is not None:
        return session_stream(seller, channel).stream_id
    return stream


def _millis(text: str | None) -> UnixMillis | None:
    if text is None:
        return None
    try:
        millis = parse_instant(text).millis
    except InvalidRequest:
        millis = None
    if millis is None:
        raise typer.BadParameter("--to-time must be an RFC 3339 time with its zone")
    return UnixMillis(millis)


def _check_usage(scope: Scope) -> None:
    bounded = scope.to_position is not None or scope.to_millis is not None
    if scope.to_position is not None and scope.stream_id is None:
        raise typer.BadParameter("--to-position needs one session: positions count in a stream")
    if scope.to_position is not None and scope.to_millis is not None:
        raise typer.BadParameter("give --to-position or --to-time, not both")
    if scope.rebuild and bounded:
        raise typer.BadParameter("--rebuild goes to the end of the log; leave the bound out")
    if scope.force and not scope.rebuild:
        raise typer.BadParameter("--force belongs to --rebuild")


def _show(report: Report, seconds: float, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"stream": d.pop("stream_id"), **d} for d in map(asdict, report.differences)
    ]
    facts: dict[str, Any] = {
        "streams": report.streams,
        "events": report.events,
        "vouchers": report.vouchers,
        "differences": report.count,
        "remaining": report.remaining,
        "rebuilt": report.rebuilt,
        "seconds": round(seconds, 3),
    }
    if report.state is not None:
        facts["state"] = json.loads(report.state)
    if as_json:
        show({**facts, "found": rows}, as_json=True)
        return
    if rows:
        show_rows(rows, COLUMNS, as_json=False)
    show(facts, as_json=False)


class _Rate(ProgressColumn):
    """Events a second."""

    def render(self, task: Task) -> str:
        """The rate as text."""
        return "" if task.speed is None else f"{task.speed:,.0f}/s"


@contextmanager
def _progress(total: int) -> Generator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; gives what to call with each number of events."""
    with Progress(
        TextColumn("replay"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=progress_console,
        transient=True,
        disable=not progress_console.is_terminal,
    ) as progress:
        task = progress.add_task("replay", total=total)

        def advance(events: int) -> None:
            progress.advance(task, events)

        yield advance
