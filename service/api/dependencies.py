"""What routes ask for: the services, who is calling, a strict body, an idempotent answer."""

import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar, cast
from urllib.parse import unquote

from fastapi import Depends, Path, Request, Response
from pydantic import BaseModel, ValidationError

from service.application.seller_terms import SellerTerms
from service.bootstrap import Services
from service.domain.errors import (
    ClaimTaken,
    IdempotencyKeyReused,
    InvalidRequest,
    SessionNotFound,
    Unauthorized,
)
from service.domain.limits import CHANNEL_ID_CHARS_MAX, IDEMPOTENCY_KEY_CHARS_MAX, JSON_DEPTH_MAX
from service.ports import Append, Claim
from session_ledger.json_text import JsonTextError, JsonValue, parse

M = TypeVar("M", bound=BaseModel)

IDEMPOTENCY_HEADER: Final = "idempotency-key"
REPLAYED_HEADER: Final = "Idempotency-Replayed"
_PRINTABLE: Final = re.compile(rf"[\x21-\x7e]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}\Z")
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_STATUS_DIGITS: Final = 3


async def services_of(request: Request) -> Services:
    """What `bootstrap` wired for this process.

    A coroutine, like every dependency here: FastAPI sends plain functions to a thread.
    """
    return wired(request)


def wired(request: Request) -> Services:
    """The same, for code that has the request."""
    return cast("Services", request.app.state.services)


def bearer_token(request: Request) -> str:
    """The token of the Authorization header.

    Raises:
        Unauthorized: none was sent.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("the Authorization header must be `Bearer <key>`")
    return token.strip()


async def calling_seller(request: Request) -> SellerTerms:
    """The seller whose key was sent.

    Raises:
        Unauthorized: no key, or one that opens nothing.
    """
    return await wired(request).directory.authenticate(bearer_token(request))


async def calling_operator(request: Request) -> None:
    """Pass only the operators' token.

    Raises:
        Unauthorized: another token, or none is configured.
    """
    configured = wired(request).settings.admin_token
    token = bearer_token(request)
    if configured is None or not hmac.compare_digest(
        token.encode(), configured.get_secret_value().encode()
    ):
        raise Unauthorized("this route needs the operators' token (ADMIN_TOKEN)")


async def channel_id_of(
    channel_id: Annotated[str, Path(description="The buyer's channel id, percent-encoded.")],
) -> str:
    """The channel id of the path.

    Raises:
        SessionNotFound: no channel can have this id.
    """
    try:
        decoded = unquote(channel_id, errors="strict")
    except UnicodeDecodeError:
        decoded = ""
    if not 0 < len(decoded) <= CHANNEL_ID_CHARS_MAX or _UNSTORABLE.search(decoded):
        raise SessionNotFound("no channel has this id")
    return decoded


CallingSeller = Annotated[SellerTerms, Depends(calling_seller)]
Operator = Depends(calling_operator)
ChannelId = Annotated[str, Depends(channel_id_of)]
ServicesOf = Annotated[Services, Depends(services_of)]


async def json_of(request: Request, *, optional: bool = False) -> JsonValue:
    """The body as strict JSON; `{}` for an empty one where the body is optional.

    Raises:
        InvalidRequest: not JSON, nested too deeply, or with a name twice in one object.
    """
    body = await request.body()
    if optional and not body.strip():
        return {}
    try:
        value = parse(body, depth_max=JSON_DEPTH_MAX)
    except JsonTextError as error:
        raise InvalidRequest(f"the body is not JSON that can be read: {error}") from None
    # Only vouchers are read as JavaScript reads them; here the last repetition must not win.
    json.loads(body, object_pairs_hook=_refuse_repetition, parse_int=float)
    return value


def _refuse_repetition(pairs: list[tuple[str, object]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise InvalidRequest("the body repeats a name within one object")


async def body_as(model: type[M], request: Request, *, optional: bool = False) -> M:
    """The body as `model`, without coercion.

    Raises:
        InvalidRequest: naming the first field that is wrong.
    """
    return validated(model, await json_of(request, optional=optional))


def validated(model: type[M], value: object) -> M:
    """`value` as `model`, strictly.

    Raises:
        InvalidRequest: naming the first field that is wrong.
    """
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidRequest(f"{place}: {first['msg']}") from None


class Idempotency:
    """The Idempotency-Key of one request: its first answer is every answer.

    Spec: HTTP contract, "Verdict".
    """

    def __init__(self, services: Services, scope: str, key: str, request_hash: bytes) -> None:
        self._store = services.store
        self._scope = scope
        self._key = key
        self._hash = request_hash

    @classmethod
    async def of(cls, request: Request, services: Services, seller_id: str) -> "Idempotency | None":
        """The request's key, if it has one.

        Raises:
            InvalidRequest: not 1 to 255 printable ASCII characters.
        """
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is None:
            return None
        if not _PRINTABLE.match(key):
            raise InvalidRequest("Idempotency-Key must be 1 to 255 printable ASCII characters")
        # From the scope: `request.url` would also parse the Host header, which may be anything.
        path, query = request.scope["path"], request.scope["query_string"]
        target = f"{request.method} {path}?".encode() + query + b"\n"
        digest = hashlib.sha256(target + await request.body()).digest()
        return cls(services, f"idempotency/{seller_id}", key, digest)

    def claim(self, answer: Response) -> Claim:
        """Keeps `answer` for the key."""
        return Claim(self._scope, self._key, self._hash, _frozen(answer))

    async def earlier(self) -> Response | None:
        """The first answer, if there is one.

        Raises:
            IdempotencyKeyReused: it answered another request.
        """
        claim = await self._store.claim(self._scope, self._key)
        if claim is None:
            return None
        if not hmac.compare_digest(claim.request_hash, self._hash):
            raise IdempotencyKeyReused("this Idempotency-Key was used for another request")
        return _thawed(claim.response or b"")

    async def first(self, answer: Response) -> Response:
        """Keep `answer`, or give the one that was kept in the meantime."""
        try:
            await self._store.append(Append((), (self.claim(answer),)))
        except ClaimTaken:
            return await self.earlier() or answer
        return answer


async def answered_once(
    request: Request, services: Services, seller_id: str, produce: Callable[[], Awaitable[Response]]
) -> Response:
    """`produce`'s answer, or the first one under the request's Idempotency-Key."""
    key = await Idempotency.of(request, services, seller_id)
    if key is None:
        return await produce()
    return await key.earlier() or await key.first(await produce())


def _frozen(answer: Response) -> bytes:
    return str(answer.status_code).encode() + bytes(answer.body)


def _thawed(stored: bytes) -> Response:
    status, body = stored[:_STATUS_DIGITS], stored[_STATUS_DIGITS:]
    headers: dict[str, Any] = {REPLAYED_HEADER: "true"}
    return Response(body, int(status), headers, "application/json" if body else None)
