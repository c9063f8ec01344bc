"""`session-ledger keys`: the secrets that seal buyers' session keys. No secret is ever shown."""

from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from service.cli.connection import OpenLedger, run_on_ledger
from service.cli.output import FAILED, AsJson, progress_console, show, show_rows
from service.cli.settings import DataDir

app = typer.Typer(
    name="keys", help="The secrets that seal buyers' session keys.", no_args_is_help=True
)


@app.command("list")
def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """The secrets by their ids, newest first, and how many session keys each seals.

    Exit status 1 when session keys are sealed by a secret that is not configured.
    """

    async def run(ledger: OpenLedger) -> list[dict[str, Any]]:
        counts = await ledger.session_keys.counts()
        return [
            {
                "keyId": key_id,
                "configured": ledger.session_keys.knows(key_id),
                "newest": number == 0 and ledger.session_keys.knows(key_id),
                "sessionKeys": count,
            }
            for number, (key_id, count) in enumerate(counts.items())
        ]

    rows = run_on_ledger(run, data_dir, as_json=as_json)
    show_rows(rows, ("keyId", "configured", "newest", "sessionKeys"), as_json=as_json)
    if not all(row["configured"] for row in rows):
        raise typer.Exit(FAILED)


@app.command()
def rotate(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Seal every session key under the newest secret of SESSION_KEY_SECRETS.

    Put the new secret in front and restart every process first; afterwards the old one can go.
    Safe beside a running service; one that was interrupted is simply run again.
    """

    async def run(ledger: OpenLedger) -> dict[str, Any]:
        keys = ledger.session_keys
        newest = keys.require().key_id
        total = sum(count for key_id, count in (await keys.counts()).items() if key_id != newest)
        resealed = 0
        with Progress(
            TextColumn("rotate"),
            BarColumn(),
            MofNCompleteColumn(),
            console=progress_console,
            transient=True,
            disable=not progress_console.is_terminal,
        ) as progress:
            task = progress.add_task("rotate", total=total)
            async for count in keys.rotate():
                resealed += count
                progress.advance(task, count)
        return {"keyId": newest, "resealed": resealed}

    show(run_on_ledger(run, data_dir, as_json=as_json), as_json=as_json)
