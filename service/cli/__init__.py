"""The command line: `session-ledger WORD`. One module for each group of words."""

from service.cli.main import main

__all__ = ["main"]
