"""What a seller asks of the session ledger for direct payments."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NamedTuple
from uuid import uuid4

import httpx

from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.x402.errors import X402Error

_ATTEMPTS: Final = 2
_TIMEOUT_SECONDS: Final = 30


class LedgerError(X402Error):
    """The ledger gave no answer that a seller may deliver on."""


class Offer(NamedTuple):
    """What a resource costs. `amount` is in atomic units, the time limit in seconds."""

    resource: str
    amount: int
    description: str | None = None
    mime_type: str | None = None
    max_timeout_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A payment that bought something, just now. `amount` is in atomic units."""

    transaction: str
    payer: str
    amount: int
    response_header: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A payment that buys nothing; `status` and `error` are for the client."""

    status: int
    error: str


class Ledger:
    """The ledger at `url`, for the seller of `api_key`. Safe to share between threads."""

    def __init__(self, url: str, api_key: str) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=_TIMEOUT_SECONDS,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def requirements(self, offer: Offer) -> dict[str, JsonValue]:
        """The body of a 402 for the offer, with a fresh challenge in it.

        Raises:
            LedgerError: the ledger refuses the offer or cannot be reached.
        """
        members = {
            "resource": offer.resource,
            "amount": str(offer.amount),
            "description": offer.description,
            "mimeType": offer.mime_type,
            "maxTimeoutSeconds": offer.max_timeout_seconds,
        }
        query = {name: value for name, value in members.items() if value is not None}
        return self._call("GET", "/v1/payments/requirements", params=query)

    def verify(self, header: str, offer: Offer) -> Accepted | Refused:
        """Use a payment up for the offer. A lost answer is asked for again under the same key.

        Raises:
            LedgerError: the ledger did not say: nothing may be delivered.
        """
        match self.requirements(offer):
            case {"accepts": [{**requirements}, *_]}:
                pass
            case _:
                raise LedgerError("the ledger's requirements have another shape")
        verdict = self._call(
            "POST",
            "/v1/payments/verify",
            headers={"idempotency-key": str(uuid4())},
            json={"paymentHeader": header, "paymentRequirements": requirements},
        )
        match verdict:
            case {
                "isValid": True,
                "transaction": str(transaction),
                "payer": str(payer),
                "amount": str(amount),
                "paymentResponseHeader": str(response_header),
            }:
                return Accepted(transaction, payer, int(amount), response_header)
            case {"isValid": False, "error": str(error), "status": int(status)}:
                return Refused(status, error)
            case _:
                raise LedgerError("the ledger's verdict has another shape")

    def delivery_failed(self, transaction: str, resource: str) -> None:
        """Report that the payment's buyer got nothing, so that it may present it once more.

        Raises:
            LedgerError: the ledger cannot be reached, or does not know the payment.
        """
        path = f"/v1/payments/{transaction}/delivery-failed"
        self._call("POST", path, json={"resource": resource})

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str | int] | None = None,
        headers: dict[str, str] | None = None,
        json: JsonValue = None,
    ) -> dict[str, JsonValue]:
        answer = self._send(
            self._http.build_request(method, path, params=params, headers=headers, json=json)
        )
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            raise LedgerError(f"the ledger answered {answer.status_code}: {answer.text}")
        try:
            body = parse(answer.content)
        except JsonTextError as error:
            raise LedgerError(f"the ledger did not answer in JSON: {error}") from error
        return body if isinstance(body, dict) else {}

    def _send(self, request: httpx.Request) -> httpx.Response:
        """Every call may be repeated: it writes nothing, or carries its key, or is idempotent."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._http.send(request)
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS:
                    raise LedgerError(f"the ledger cannot be reached: {error}") from error
        raise AssertionError
