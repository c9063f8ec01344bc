"""Faults that tests inject: answers that never come, errors, transactions that get lost."""

from dataclasses import dataclass
from typing import Final

from service.local.chain.params import Params, as_options
from service.local.chain.protocol import NODE_UNHEALTHY, Json, RpcError, invalid_params

FAULTS_MAX: Final = 1_000_000
"""Most repetitions of one fault."""

HOLD_SECONDS: Final = 60
"""How long a request with a timeout fault is left without an answer."""

_HTTP_STATUSES: Final = (400, 599)


@dataclass(slots=True)
class Fault:
    """A fault that strikes the next `count` calls of `method`.

    `timeout`: the call is carried out (unless `forwarded` is false) and never answered.
    `error`: the call is not carried out and answered with `error`, or with a bare HTTP status.
    `drop`: sendTransaction answers with the signature, and the transaction is lost.
    """

    method: str
    kind: str
    count: int
    forwarded: bool
    error: RpcError
    http_status: int | None


class Faults:
    """The faults that are still to strike, in the order that they were injected."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def inject(self, params: Params) -> Json:
        """[{method, kind, count?, forwarded?, code?, message?, httpStatus?}] -> null."""
        options = as_options(params.required(0))
        method = options.text("method")
        if method is None:
            raise invalid_params("Invalid params: a fault needs a method")
        kind = options.choice("kind", ("timeout", "error", "drop"), "error")
        if kind == "drop" and method != "sendTransaction":
            raise invalid_params("Invalid params: only sendTransaction can be dropped")
        code = options.integer("code", low=-(2**31), high=2**31)
        low, high = _HTTP_STATUSES
        fault = Fault(
            method=method,
            kind=kind,
            count=options.integer("count", low=1, high=FAULTS_MAX) or 1,
            forwarded=options.flag("forwarded", default=True),
            error=RpcError(
                NODE_UNHEALTHY if code is None else code,
                options.text("message") or "Node is unhealthy",
            ),
            http_status=options.integer("httpStatus", low=low, high=high),
        )
        self._waiting.append(fault)
        return None

    def clear(self) -> Json:
        """Forgets the faults that have not struck."""
        self._waiting.clear()
        return None

    def strike(self, method: str) -> Fault | None:
        """The fault for this call of `method`, counted down; None when there is none."""
        fault = next((fault for fault in self._waiting if fault.method == method), None)
        if fault is None:
            return None
        fault.count -= 1
        if not fault.count:
            self._waiting.remove(fault)
        return fault
