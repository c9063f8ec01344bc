"""The checks of `make check`, as tests, so that one command finds everything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMANDS = ["ruff check .", "ruff format --check .", "basedpyright", "lint-imports"]


@pytest.mark.timeout(300)  # the type checker shares two cores with all other tests
@pytest.mark.parametrize("command", COMMANDS)
def test_the_sources_pass(command: str) -> None:
    program, *arguments = command.split()
    path = Path(sys.executable).parent / program
    done = subprocess.run(
        [path, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=290, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_check_runs_the_same_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in COMMANDS:
        program, *arguments = command.split()
        assert " ".join([f"$(BIN)/{program}", *arguments]) in makefile
