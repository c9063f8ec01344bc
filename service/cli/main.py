"""The index of commands. Each is imported when it is called: a child starts with what it runs."""

from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

COMMANDS: Final = {
    "serve": "serve:serve",
    "migrate": "migrate:migrate",
    "worker": "worker:worker",
    "devchain": "devchain:devchain",
    "replay": "replay:replay",
    "doctor": "doctor:doctor",
    "seller": "sellers:app",
    "pay": "pay:pay",
    "grant": "grants:app",
    "settlement": "settlements:app",
    "keys": "keys:app",
}
"""Each command, or group of commands, by its module in this package and its name there."""


class Index(TyperGroup):
    """The commands of `COMMANDS`."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  typer's signature
        """In the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002  typer's signature
        """The command of that name; `None` is an error of the caller's."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(f"service.cli.{module}"), name)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)


app = typer.Typer(
    name="session-ledger",
    help="The ledger that machine payments run on.",
    cls=Index,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def index() -> None:
    """The ledger that machine payments run on."""


def main() -> None:
    """The entry point."""
    app()
