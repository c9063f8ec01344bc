"""No key, token or full voucher reaches a log line, whatever goes wrong."""

import ast
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.observability import ALLOWED, VALUE_CHARS_MAX, configure_logging

SERVICE = Path(__file__).parents[2] / "service"
METHODS = {"debug", "info", "warning", "error", "exception", "critical", "bind", "bind_contextvars"}
LOGGERS = {"log", "_log", "logger", "_logger", "contextvars"}
CANARY = "canary-secret-value"


def log_calls(source: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if node.func.attr in METHODS and name in LOGGERS:
                yield node


SOURCES = sorted(SERVICE.rglob("*.py"))
# The standard library's logger quotes what it is given; only the local chain, which holds no
# secret, may use it.
PLAIN_LOGGING = [path for path in SOURCES if "logging.getLogger(" in path.read_text("utf-8")]
CALLS = [
    pytest.param(call, id=f"{source.relative_to(SERVICE)}:{call.lineno}")
    for source in SOURCES
    if source not in PLAIN_LOGGING
    for call in log_calls(source)
]


@pytest.mark.parametrize("call", CALLS)
def test_a_log_call_names_a_plain_event_and_fields_of_the_list(call: ast.Call) -> None:
    assert len(call.args) <= 1
    for event in call.args:
        assert isinstance(event, ast.Constant), "the event is a fixed word: values go into fields"
    names = {keyword.arg for keyword in call.keywords}
    assert None not in names, "fields are named one by one"
    assert names - {"exc_info"} <= ALLOWED


def test_the_scan_finds_the_calls_and_no_unfiltered_logger() -> None:
    assert len(CALLS) > 10
    chain = SERVICE / "local" / "chain"
    assert {path.parent for path in PLAIN_LOGGING} <= {chain}


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a configured process logs, until the test ends."""
    before = structlog.get_config()
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.root.level
    stream = io.StringIO()
    structlog.reset_defaults()
    configure_logging(stream=stream)
    yield stream
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def last_line(lines: io.StringIO) -> dict[str, Any]:
    return json.loads(lines.getvalue().splitlines()[-1])


def test_a_field_that_is_not_on_the_list_is_dropped_by_name(lines: io.StringIO) -> None:
    structlog.get_logger().info("event", code="shown", api_key=CANARY, voucher={"x": CANARY})
    assert CANARY not in lines.getvalue()
    seen = last_line(lines)
    assert (seen["code"], seen["dropped"]) == ("shown", ["api_key", "voucher"])


def test_a_long_value_is_cut(lines: io.StringIO) -> None:
    structlog.get_logger().info("event", detail="x" * 10_000)
    assert len(last_line(lines)["detail"]) == VALUE_CHARS_MAX + 3


def failed() -> Exception:
    try:
        int(CANARY)  # whose message quotes it
    except ValueError as error:
        return error
    raise AssertionError


def test_an_exception_is_named_but_not_quoted(lines: io.StringIO) -> None:
    structlog.get_logger().error("event", exc_info=failed())
    assert CANARY not in lines.getvalue()
    assert "ValueError in failed" in last_line(lines)["exception"]


def test_an_exception_that_a_library_logs_is_named_but_not_quoted(lines: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").error("Exception in application", exc_info=failed())
    assert "ValueError in failed" in lines.getvalue()
    assert CANARY not in lines.getvalue()


def test_what_libraries_log_of_their_requests_stays_out(lines: io.StringIO) -> None:
    logging.getLogger("httpx").info("POST %s", CANARY)
    assert lines.getvalue() == ""
