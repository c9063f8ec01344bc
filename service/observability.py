"""Structured logs and metrics. No key, token or full voucher ever reaches a log line.

Log fields pass an allow-list: a value whose name is not on it is dropped and its name listed under
`dropped`, so that a careless `log.info(..., request=request)` leaks nothing.
"""

import io
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# fmt: off
ALLOWED: Final = frozenset((
    "address", "alarm", "amount", "api_version", "appends", "attempt", "attempts", "balance",
    "batch", "binaries", "cause", "channels", "code", "count", "cursor", "data_dir", "database",
    "deadline", "detail", "directory", "elapsed_ms", "elapsed_seconds", "error", "event", "events",
    "exception", "failure", "fee_payer", "first", "height", "host", "kind", "latency_ms", "level",
    "logger", "lost", "method", "mint", "name", "network", "next", "number", "phase", "pid", "port",
    "position", "programs", "provider", "reason", "recovered", "request_id", "result", "retry_at",
    "retry_seconds", "revision", "route", "rpc_method", "seconds", "seller_id", "server_log",
    "settlement_id", "settlements_left", "signal", "signature", "size", "slot", "source", "state",
    "status", "step", "stream", "timestamp", "type", "url", "version", "waited_seconds", "worker",
    "workers",
))
# fmt: on
VALUE_CHARS_MAX: Final = 300


class _StandardError(io.TextIOBase):
    """Standard error as it is when a line is written, not as it was when logging was set up."""

    def write(self, text: str, /) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure_logging(
    level: str = "info", style: str = "json", stream: TextIO | None = None
) -> None:
    """Send structlog and the standard library's loggers to one stream of JSON lines (stderr)."""
    output = stream or _StandardError()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer()
        if style == "console"
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_exception,
            keep_allowed,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", output)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(_NamedExceptions("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def keep_allowed(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Drop every field that is not on the list, and cut what is long."""
    dropped = [name for name in event if name not in ALLOWED]
    kept = {name: _short(value) for name, value in event.items() if name in ALLOWED}
    if dropped:
        kept["dropped"] = sorted(dropped)
    return kept


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > VALUE_CHARS_MAX:
        return value[:VALUE_CHARS_MAX] + "..."
    return value


def _name_exception(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """An exception by its type and place: its message or its locals may hold what was sent."""
    info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info
    if isinstance(error, BaseException):
        event["exception"] = _named(error)
    return event


class _NamedExceptions(logging.Formatter):
    """The same for what libraries log."""

    def formatException(self, ei: Any) -> str:  # noqa: N802  the name of the base class
        return "" if ei[1] is None else _named(ei[1])


def _named(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_qualname}:{frame.tb_lineno}" if frame else "?"
    return f"{type(error).__name__} in {place}"


class Metrics:
    """What operators watch, in one registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.vouchers = Counter(
            "session_ledger_vouchers_total",
            "Vouchers by verdict",
            ["verdict"],
            registry=self.registry,
        )
        self.verdicts = {
            kind: self.vouchers.labels(kind) for kind in ("accepted", "replayed", "rejected")
        }
        self.requests = Counter(
            "session_ledger_requests_total",
            "Requests by status",
            ["status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "session_ledger_request_seconds",
            "Time to answer a request",
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
        )
        self.settlements = Counter(
            "session_ledger_settlement_steps_total",
            "Settlement steps by status afterwards",
            ["status"],
            registry=self.registry,
        )
        self.sessions_watched = Counter(
            "session_ledger_sessions_watched_total",
            "Looks at open sessions and their funding sources",
            registry=self.registry,
        )
        self.funding_changes = Counter(
            "session_ledger_funding_changes_total",
            "Changes of funding that the watcher noticed, by state afterwards",
            ["state"],
            registry=self.registry,
        )
        self.auto_closes = Counter(
            "session_ledger_auto_closes_total",
            "Sessions closed without being asked, by reason",
            ["reason"],
            registry=self.registry,
        )
        self.direct_payments = Counter(
            "session_ledger_direct_payments_total",
            "Direct payments by what became of them",
            ["outcome"],
            registry=self.registry,
        )
        self.open_settlements = Gauge(
            "session_ledger_open_settlements",
            "Settlements this worker holds that are not terminal",
            registry=self.registry,
        )
