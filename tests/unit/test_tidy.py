"""The habits of the house, as tests: cheaper than review and friendlier than a guide."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
LINES_MAX = 400
FUNCTION_LINES_MAX = 70
CHARS_MAX = 100

NUMBERS_OF_STRANGERS = {"codec.py", "voucher.py"}
"""Domain modules that must name `float` to refuse what a JSON number can be."""

# A call, and what to use instead.
BANNED_CALLS = {
    "datetime.now": "the Clock port",
    "datetime.utcnow": "the Clock port",
    "eval": "a parser",
    "exec": "a function",
    "os.system": "subprocess with a list",
    "pickle.loads": "JSON",
    "random.random": "secrets",
    "time.time": "the Clock port",
    "uuid.uuid1": "uuid.uuid4",
}
CLOCKS = {"service/adapters/system.py", "sdk/session_ledger/testing/client.py"}
"""Where the time of day may be read; the local chain has a clock of its own."""


@cache
def _tracked() -> tuple[Path, ...]:
    """Every file of the repository: known to git, or new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return tuple(sorted(path for path in paths if path.is_file()))


@cache
def _text(path: Path) -> str:
    return path.read_text()


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(_text(path))))


def _sources(*folders: str) -> Iterator[Path]:
    for path in _tracked():
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders:
            yield path


def _texts() -> Iterator[tuple[str, str]]:
    """Files that people read, without vectors and lock files."""
    for path in _tracked():
        name = str(path.relative_to(ROOT))
        generated = "/vectors/" in name or "lock" in path.name
        if not generated and path.suffix not in {".png", ".so"}:
            yield name, _text(path)


def _where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_no_module_is_longer_than_400_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {count}"
        for path in _sources(
            "service", "sdk", "tests", "migrations", "examples", "benchmarks", "docs"
        )
        if (count := len(_text(path).splitlines())) > LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_no_function_is_longer_than_70_lines() -> None:
    long = [
        _where(path, node.lineno)
        for path in _sources("service", "sdk", "examples", "benchmarks", "docs")
        for node in _nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and _length(node) > FUNCTION_LINES_MAX
        and str(path.relative_to(ROOT)) != "examples/demo.py"  # a play, read from top to bottom
    ]
    assert not long, "\n".join(long)


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_no_line_is_longer_than_100_characters() -> None:
    pragma = re.compile(r"\s+# (noqa|pyright|fmt).*")  # may hang over, as ruff lets it
    long = [
        _where(path, number)
        for path in _sources("service", "sdk", "examples", "docs")
        for number, line in enumerate(_text(path).splitlines(), 1)
        if len(pragma.sub("", line)) > CHARS_MAX
    ]
    assert not long, "\n".join(long)


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    left = [
        _where(path, number)
        for path in _sources("service", "sdk", "tests", "migrations", "examples", "benchmarks")
        for number, line in enumerate(_text(path).splitlines(), 1)
        if marks.search(line) and path != Path(__file__)
    ]
    assert not left, "\n".join(left)


def test_money_is_never_a_float_or_a_decimal() -> None:
    found: list[str] = []
    for path in _sources("service"):
        if path.parent.name != "domain" or path.name in NUMBERS_OF_STRANGERS:
            continue
        for node in _nodes(path):
            inexact = isinstance(node, ast.Constant) and isinstance(node.value, float | complex)
            named = isinstance(node, ast.Name) and node.id in {"float", "Decimal", "Fraction"}
            divided = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
            if inexact or named or divided:
                found.append(_where(path, getattr(node, "lineno", 0)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("banned", BANNED_CALLS)
def test_a_banned_call_is_not_made(banned: str) -> None:
    found = [
        _where(path, node.lineno)
        for path in _sources("service", "sdk")
        if "local" not in path.relative_to(ROOT).parts and str(path.relative_to(ROOT)) not in CLOCKS
        for node in _nodes(path)
        if isinstance(node, ast.Call) and ast.unparse(node).startswith(f"{banned}(")
    ]
    assert not found, f"use {BANNED_CALLS[banned]}: {found}"


def test_every_link_of_the_documents_leads_somewhere() -> None:
    link = re.compile(r"\]\(([^)\s]+)\)")
    broken: list[str] = []
    for path in _tracked():
        if path.suffix != ".md" or "node_modules" in path.parts:
            continue
        for target in link.findall(_text(path)):
            address, _, anchor = unquote(target).partition("#")
            if "://" in address:
                continue
            file = (path.parent / address).resolve() if address else path
            known = file.exists() and (not anchor or anchor in _anchors(file))
            if not known:
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)


def _anchors(file: Path) -> set[str]:
    """The anchors of a document's headings, as renderers make them."""
    headings = re.findall(r"^#+ (.+)$", _text(file), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_path_of_a_machine_is_written_down() -> None:
    # Put together here, so that this file does not find itself.
    folders = "|".join(("wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers"))
    local = re.compile(rf"(?<![\w./$}}-])/(?:{folders})/\w|/tm" + r"p/\w*brief|fi" + r"le:///")
    found = [name for name, text in _texts() if local.search(text)]
    assert not found, "\n".join(found)


def test_no_package_host_is_named() -> None:
    hosts = re.compile(
        r"(?i)pypi\." + r"org|pythonhost" + r"ed|npmjs\." + r"(com|org)|extra-" + r"index-url"
    )
    found = [
        str(path.relative_to(ROOT))
        for path in _tracked()
        if "vectors" not in path.parts and path.suffix != ".so" and hosts.search(_text(path))
    ]
    assert not found, "\n".join(found)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    missing = [
        f"{name}: make {target}"
        for name, text in _texts()
        if name.endswith((".md", ".py", ".yaml", "run"))
        for target in re.findall(r"(?:`(?:[A-Z_]+=\S+ )?|\$ )make ([a-z][a-z-]+)", text)
        if target not in targets
    ]
    assert not missing, "\n".join(missing)


def test_every_test_module_that_is_named_exists() -> None:
    missing = [
        f"{name}: {module}"
        for name, text in _texts()
        for module in re.findall(r"(?<![\w./])tests/[\w/]+\.py\b", text)
        if not (ROOT / module).exists()
    ]
    assert not missing, "\n".join(missing)


def test_every_campaign_has_a_make_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    mark = "mark." + "campaign"
    unnamed = [
        name
        for path in _sources("tests")
        if mark in _text(path) and (name := str(path.relative_to(ROOT))) not in makefile
    ]
    assert not unnamed, "\n".join(unnamed)
