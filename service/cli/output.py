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
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]

FAILED = 1
console = Console(highlight=False)
progress_console = Console(stderr=True, highlight=False)


def show(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """One object: as JSON, or a line for each field."""
    if as_json:
        _write(facts)
        return
    for name, value in facts.items():
        text = json.dumps(value, indent=2) if isinstance(value, dict | list) else str(value)
        console.print(Text.assemble((name, "bold"), f"  {_safe(text)}"), soft_wrap=True)


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Many objects: as a JSON array, or a table of `columns`."""
    if as_json:
        _write(list(rows))
        return
    table = Table(box=None)
    for number, column in enumerate(columns):  # an id is copied, so it stays whole
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_safe(str(row.get(column, "")))) for column in columns))
    console.print(table)


def fail(message: str, *, as_json: bool = False, **facts: Any) -> NoReturn:
    """Say what is wrong and what to do, and exit with status 1."""
    if as_json:
        _write({"error": message, **facts})
    else:
        Console(stderr=True, highlight=False).print(
            Text.assemble(("error:", "red"), f" {_safe(message)}"), soft_wrap=True
        )
    raise typer.Exit(FAILED)


def _write(value: object) -> None:
    """One line at once: whoever waits for it at the other end of a pipe has to see it."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _safe(text: str) -> str:
    """Strangers' strings are shown too: nothing in them may steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
