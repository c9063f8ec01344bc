"""JSON-RPC 2.0 over the bank: one request or a batch in, its answers out."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from service.local.chain import (
    account_methods,
    cheat_methods,
    cluster_methods,
    transaction_methods,
)
from service.local.chain.bank import Bank
from service.local.chain.faults import Fault, Faults
from service.local.chain.params import Params
from service.local.chain.protocol import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    Json,
    RpcError,
    invalid_params,
)

BATCH_MAX: Final = 1_000
"""Most requests in one batch."""

Method = Callable[[Bank, Params], Json]

METHODS: Final[Mapping[str, Method]] = {
    **cluster_methods.METHODS,
    **account_methods.METHODS,
    **transaction_methods.METHODS,
    **cheat_methods.METHODS,
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One well-formed request. Without an id it is a notification and gets no answer."""

    method: str
    params: Params
    id: str | int | float | None
    wants_answer: bool


class Unanswered(Exception):
    """A fault keeps this HTTP request from being answered as JSON-RPC; `status` None: never."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


def parse_json(body: bytes | str) -> object:
    """The JSON value in `body`.

    Raises:
        RpcError: -32700, also for nesting that no parser should follow.
    """
    try:
        return cast("object", json.loads(body))
    except (ValueError, RecursionError) as error:
        raise RpcError(PARSE_ERROR, "Parse error") from error


def parse_request(value: object) -> Request:
    """`value` as a request.

    Raises:
        RpcError: -32600 when it is none, -32602 for parameters that are not positional.
    """
    if not isinstance(value, dict):
        raise RpcError(INVALID_REQUEST, "Invalid request")
    body = cast("dict[str, object]", value)
    method, params, request_id = body.get("method"), body.get("params"), body.get("id")
    if body.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "Invalid request")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | float | None):
        raise RpcError(INVALID_REQUEST, "Invalid request")
    if not isinstance(params, list | None):
        raise invalid_params("`params` should be an array")
    values = tuple(cast("list[object]", params or []))
    return Request(method, Params(values), request_id, "id" in body)


def answer(request_id: Json, result: Json) -> Json:
    """The response that carries a result."""
    return {"jsonrpc": "2.0", "result": result, "id": request_id}


def refusal(request_id: Json, error: RpcError) -> Json:
    """The response that carries an error."""
    return {"jsonrpc": "2.0", "error": error.as_json(), "id": request_id}


class Rpc:
    """The methods of the local chain, and the faults that stand before them."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self._faults = Faults()
        self._methods: dict[str, Method] = {
            **METHODS,
            "localchain_injectFault": lambda _bank, params: self._faults.inject(params),
            "localchain_clearFaults": lambda _bank, _params: self._faults.clear(),
        }

    def handle(self, body: bytes) -> Json:
        """The response to an HTTP body; None when nothing in it wants an answer.

        Raises:
            Unanswered: an injected fault.
        """
        try:
            value = parse_json(body)
        except RpcError as error:
            return refusal(None, error)
        if not isinstance(value, list):
            return self._respond(value)
        batch = cast("list[object]", value)
        if not 0 < len(batch) <= BATCH_MAX:
            return refusal(None, RpcError(INVALID_REQUEST, "Invalid request"))
        return [response for item in batch if (response := self._respond(item)) is not None] or None

    def _respond(self, value: object) -> Json:
        try:
            request = parse_request(value)
        except RpcError as error:
            return refusal(_id_of(value), error)
        try:
            result = self._call(request)
        except RpcError as error:
            return refusal(request.id, error)
        return answer(request.id, result) if request.wants_answer else None

    def _call(self, request: Request) -> Json:
        fault = self._faults.strike(request.method)
        if fault is None:
            return self.call(request.method, request.params)
        return self._suffer(fault, request)

    def call(self, method: str, params: Params) -> Json:
        """The result of one method.

        Raises:
            RpcError: the method is unknown, refuses, or failed (-32603, and the log says why).
        """
        implementation = self._methods.get(method)
        if implementation is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        try:
            return implementation(self.bank, params)
        except RpcError:
            raise
        except Exception as error:  # the boundary: one request's fault must not stop the chain
            _log.exception("local chain: %s failed", method)
            raise RpcError(INTERNAL_ERROR, "Internal error") from error

    def _suffer(self, fault: Fault, request: Request) -> Json:
        match fault.kind:
            case "timeout":
                if fault.forwarded:
                    self.call(request.method, request.params)
                raise Unanswered(None)
            case "drop":
                return transaction_methods.first_signature(request.params)
            case _:
                if fault.http_status is not None:
                    raise Unanswered(fault.http_status)
                raise fault.error


def _id_of(value: object) -> Json:
    """The id of a request that is otherwise malformed, when it has a usable one."""
    if not isinstance(value, dict):
        return None
    found = cast("dict[str, object]", value).get("id")
    return found if isinstance(found, str | int) else None
