"""`make demo`, as somebody runs it who has just cloned the repository."""

import os
import subprocess
import sys
from pathlib import Path

from tests.memory import temporary

ROOT = Path(__file__).parents[2]


def test_the_demo_plays_a_whole_session_and_ends_well() -> None:
    with temporary() as directory:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "demo.py")],
            cwd=directory,
            env={**os.environ, "DEMO_EXIT": "1"},
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The session is closed and settled by one TransferChecked" in done.stdout
    assert "0.000000 USDC -> 0.050000 USDC" in done.stdout
