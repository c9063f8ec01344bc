"""How commands speak: text for people, JSON for scripts, exit statuses for both.

0 done    1 it failed, or found something wrong    2 the command was used wrongly
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]

FAILED = 1
console = Console(highlight=False)
progress_console = Console(stderr=True, highlight=False)


def show(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """One object: as JSON, or a line for each field."""
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    for name, value in facts.items():
        text = json.dumps(value, indent=2) if isinstance(value, dict | list) else str(value)
        console.print(f"[bold]{name}[/bold]  {text}", soft_wrap=True)


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Many objects: as a JSON array, or a table of `columns`."""
    if as_json:
        sys.stdout.write(json.dumps(list(rows)) + "\n")
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    console.print(table)


def fail(message: str, *, as_json: bool = False, **facts: Any) -> NoReturn:
    """Say what is wrong and what to do, and exit with status 1."""
    if as_json:
        sys.stdout.write(json.dumps({"error": message, **facts}) + "\n")
    else:
        Console(stderr=True, highlight=False).print(f"[red]error:[/red] {message}", soft_wrap=True)
    raise typer.Exit(FAILED)
