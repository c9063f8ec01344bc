"""Figures and tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

MILLIS = 1_000
MICROS = 1_000_000
MEGA = 1_000_000


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one of an odd number, the mean of the middle two of an even one."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure that must not pass a limit."""

    name: str
    value: float
    limit: float
    at_least: bool

    @property
    def holds(self) -> bool:
        """Whether the figure is on the right side."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Part:
    """The outcome of one benchmark: rows for a table, and what must hold of them."""

    title: str
    note: str
    rows: list[dict[str, Any]]
    bounds: list[Bound]

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "title": self.title,
            "rows": self.rows,
            "bounds": [
                {
                    "name": bound.name,
                    "value": bound.value,
                    ("atLeast" if bound.at_least else "atMost"): bound.limit,
                    "holds": bound.holds,
                }
                for bound in self.bounds
            ],
        }

    def show(self, console: Console) -> None:
        """For people."""
        table = Table(title=self.title, title_justify="left", caption=self.note)
        table.caption_justify = "left"
        for name in self.rows[0]:
            table.add_column(name, justify="left" if name == "what" else "right")
        for row in self.rows:
            table.add_row(*(_text(value) for value in row.values()))
        console.print(table)
        for bound in self.bounds:
            relation = ">=" if bound.at_least else "<="
            mark = "[green]holds[/green]" if bound.holds else "[bold red]MISSED[/bold red]"
            console.print(f"{bound.name}: {_text(bound.value)} {relation} {bound.limit:g}  {mark}")
        console.print()


def _text(value: object) -> str:
    match value:
        case float() if abs(value) < MILLIS:
            return f"{value:.3g}"
        case int() | float():
            return f"{value:,.0f}"
        case _:
            return str(value)
