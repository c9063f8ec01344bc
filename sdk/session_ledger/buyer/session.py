"""The session: a key that may spend, the grant that says how much, and who renews it."""

import base64
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

import httpx
from nacl.signing import SigningKey

from session_ledger.buyer.book import Book
from session_ledger.buyer.errors import GrantRefused, SessionMissing, StoreError
from session_ledger.buyer.mirroring import ChainLimit, mirror
from session_ledger.challenge import Network
from session_ledger.encoding import base58_encode
from session_ledger.grant import (
    Grant,
    GrantError,
    Window,
    grant_id,
    grant_message,
    parse_grant,
    revocation_message,
)
from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.sign_in import SIGN_IN_HEADER, SIGN_IN_PATH

SessionState = Literal["none", "created", "active", "expired", "revoked", "exhausted"]

HOUR: Final = 3_600
DURATION_SECONDS: Final = 6 * HOUR
SKEW_SECONDS: Final = 30
"""How far the ledger's clock may be from ours; it allows the same."""
TIMEOUT_SECONDS: Final = 30.0

ENDED_BY: Final[Mapping[str, SessionState]] = {
    "grant_expired": "expired",
    "grant_revoked": "revoked",
    "grant_max_calls_exceeded": "exhausted",
    "grant_budget_exceeded": "exhausted",
}
"""What a refusal says of the session."""


class Signer(Protocol):
    """Somebody who signs as a wallet, such as its owner: a key, a device, a person."""

    @property
    def address(self) -> str:
        """The wallet's address, base58."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of an Ed25519 signature."""
        ...


class KeySigner:
    """Signs with a key in memory."""

    def __init__(self, key: SigningKey | bytes) -> None:
        self._key = SigningKey(key) if isinstance(key, bytes) else key
        self.address = base58_encode(bytes(self._key.verify_key))

    def sign(self, message: bytes) -> bytes:
        """See `Signer`."""
        return self._key.sign(message).signature


@dataclass(frozen=True, slots=True)
class Limits:
    """What the owner allows the session key. Amounts are atomic USDC, durations seconds.

    `owner_may_sign` allows the fallback to single vouchers that the owner signs.
    """

    allowed_recipients: tuple[str, ...]
    max_payment_amount: int
    max_calls: int
    max_total_amount: int
    window: Window | None = None
    label: str | None = None
    owner_may_sign: bool = False


class GrantClient:
    """The ledger's routes for grants. They need no key of ours: a grant proves itself."""

    def __init__(self, ledger_url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(base_url=ledger_url, timeout=TIMEOUT_SECONDS, transport=transport)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def register(
        self, grant: Grant, signature: str, *, previous: str | None = None
    ) -> dict[str, JsonValue]:
        """Register a signed grant; once more is the same. `previous` is the one that it renews.

        Raises:
            GrantRefused: the ledger refused, or gave no answer.
        """
        body: dict[str, JsonValue] = {"grant": grant.to_json(), "signature": signature}
        if previous is not None:
            body["previousGrantId"] = previous
        return self._call("POST", "/v1/grants", body)

    def show(self, identity: str) -> dict[str, JsonValue]:
        """The grant and what is left of it.

        Raises:
            GrantRefused: as for `register`.
        """
        return self._call("GET", f"/v1/grants/{identity}")

    def revoke(self, identity: str, at: int, signature: str) -> dict[str, JsonValue]:
        """End the grant; `at` (Unix seconds) is part of what the owner signed.

        Raises:
            GrantRefused: as for `register`.
        """
        body: JsonValue = {"signature": signature, "at": at}
        return self._call("POST", f"/v1/grants/{identity}/revoke", body)

    @property
    def host(self) -> str:
        """The ledger's hostname, as a sign-in names it."""
        host = self._http.base_url.host
        return f"[{host}]" if ":" in host else host

    def onboard(self, body: Mapping[str, JsonValue], proof: str) -> dict[str, JsonValue]:
        """What the wallet has to sign so that the ledger may pay for it; `proof` is its sign-in.

        Raises:
            GrantRefused: as for `register`, or the onboarding does not go on.
        """
        return self._call("POST", SIGN_IN_PATH, dict(body), proof)

    def confirm(self, body: Mapping[str, JsonValue], proof: str) -> dict[str, JsonValue]:
        """Hand in what the wallet signed.

        Raises:
            GrantRefused: as for `onboard`.
        """
        return self._call("POST", f"{SIGN_IN_PATH}/confirm", dict(body), proof)

    def _call(
        self, method: str, path: str, body: JsonValue = None, proof: str | None = None
    ) -> dict[str, JsonValue]:
        headers = {} if proof is None else {SIGN_IN_HEADER: proof}
        try:
            answer = self._http.request(method, path, json=body, headers=headers)
            found = parse(answer.content)
        except (httpx.HTTPError, JsonTextError) as error:
            raise GrantRefused(f"the ledger gave no answer: {error}", "unavailable", 0) from error
        members = found if isinstance(found, dict) else {}
        if answer.is_success and members.get("success") is not False:
            return members
        code = str(members.get("code") or members.get("error") or "unknown")
        detail = members.get("detail")
        raise GrantRefused(f"the ledger says {code}: {detail}", code, answer.status_code)


class Session:
    """The session key and its grant. A grant that was registered is kept in the client's book."""

    def __init__(
        self,
        book: Book,
        network: Network,
        *,
        key: SigningKey | None,
        payer: str | None,
        owner: Signer | None,
        grants: GrantClient | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._book = book
        self._network = network
        self._key = key
        self._payer = payer
        self._grants = grants
        self._clock = clock
        self._ended: SessionState | None = None
        self._ended_by: str | None = None
        self.owner = owner
        self.grant, self._signature = _kept(book)

    @property
    def state(self) -> SessionState:
        """Where the session stands, as far as this client knows."""
        if self._key is None:
            return "none"
        grant = self._own_grant
        if grant is None:
            return "created"
        if self._ended is not None:
            return self._ended
        late = self._clock() > grant.valid_until + SKEW_SECONDS
        return "expired" if late else "active"

    @property
    def public_key(self) -> str | None:
        """The session key's address."""
        return None if self._key is None else base58_encode(bytes(self._key.verify_key))

    @property
    def grant_id(self) -> str | None:
        """The grant under which the session key pays."""
        grant = self._own_grant
        return None if grant is None else grant_id(grant_message(grant))

    @property
    def payer(self) -> str:
        """The wallet that pays.

        Raises:
            SessionMissing: nobody was named.
        """
        grant = self._own_grant
        found = self._payer if grant is None else grant.owner
        if found is None:
            raise SessionMissing("nobody pays: register a grant, or pass payer=")
        return found

    @property
    def signer(self) -> KeySigner:
        """The session key.

        Raises:
            SessionMissing: there is none.
        """
        if self._key is None:
            raise SessionMissing("there is no session key: pass one, or call create_session()")
        return KeySigner(self._key)

    @property
    def owner_may_sign(self) -> bool:
        """Whether the grant leaves single vouchers to its owner."""
        grant = self._own_grant
        return grant is not None and grant.fallback is not None

    @property
    def key(self) -> SigningKey | None:
        """The key itself, to be sealed."""
        return self._key

    def create(self) -> str:
        """Make a fresh session key; its address. It is not registered yet."""
        self._key = SigningKey.generate()
        self._ended = None
        return self.signer.address

    def register(self, limits: Limits, *, duration: int = DURATION_SECONDS) -> str:
        """Have the owner sign a grant for the session key, register it and keep it; its id.

        Raises:
            SessionMissing: there is no session key, no owner, or no ledger.
            GrantError: the limits are no valid grant.
            GrantRefused, StoreError: it was not registered, or could not be kept.
        """
        if self.owner is None or self._grants is None:
            raise SessionMissing("a grant needs owner_signer= and ledger_url=")
        now = int(self._clock())
        grant = Grant(
            cluster=self._network.name,
            owner=self.owner.address,
            session_public_key=self.signer.address,
            mint=self._network.usdc_mint,
            allowed_recipients=limits.allowed_recipients,
            max_payment_amount=limits.max_payment_amount,
            max_calls=limits.max_calls,
            max_total_amount=limits.max_total_amount,
            window=limits.window,
            valid_from=now,
            valid_until=now + duration,
            nonce=secrets.token_hex(16),
            label=limits.label,
            fallback="owner_signature" if limits.owner_may_sign else None,
        )
        return self._registered(grant, self.owner)

    def renew(self) -> str:
        """Have the owner sign the same limits for as long as before, from now on.

        Raises:
            SessionMissing, GrantRefused, StoreError: as for `register`.
        """
        grant = self._own_grant
        if grant is None or self.owner is None:
            raise SessionMissing("there is no grant to renew, or no owner_signer= to renew it")
        now = int(self._clock())
        fresh = replace(
            grant,
            valid_from=now,
            valid_until=now + grant.valid_until - grant.valid_from,
            nonce=secrets.token_hex(16),
        )
        return self._registered(fresh, self.owner, previous=self.grant_id)

    def revoke(self) -> None:
        """Have the owner end the grant.

        Raises:
            SessionMissing, GrantRefused: as for `register`.
        """
        identity = self.grant_id
        if identity is None or self.owner is None or self._grants is None:
            raise SessionMissing("revoking needs a registered grant, owner_signer= and ledger_url=")
        at = int(self._clock())
        signature = self.owner.sign(revocation_message(identity, at))
        self._grants.revoke(identity, at, base58_encode(signature))
        self._ended = "revoked"

    def mirror(self, *, at_most: int | None = None) -> ChainLimit:
        """Have the chain enforce the grant's total as well: the owner approves what its grants
        still allow and what it owes. Without `at_most`, no more than this grant's total.

        Raises:
            SessionMissing: there is no grant, no owner, or no ledger.
            ApprovalRefused, GrantRefused: see `mirroring.mirror`.
        """
        grant, identity = self._own_grant, self.grant_id
        if grant is None or identity is None or self.owner is None or self._grants is None:
            raise SessionMissing("mirroring needs a grant, owner_signer= and ledger_url=")
        limit = grant.max_total_amount if at_most is None else at_most
        return mirror(
            self._grants, self._network, self.owner, identity, at_most=limit, clock=self._clock
        )

    def adopt(self, grant: Grant, signature: str) -> None:
        """Pay under a grant that was registered elsewhere.

        Raises:
            StoreError: it could not be kept.
        """
        self._book.keep_grant({"grant": grant.to_json(), "signature": signature})
        self.grant, self._signature = grant, signature
        self._ended = None

    @property
    def ended_by(self) -> str | None:
        """The refusal that ended the grant."""
        return self._ended_by

    def ended(self, code: str) -> None:
        """A refusal said what became of the grant."""
        self._ended, self._ended_by = ENDED_BY[code], code

    def close(self) -> None:
        """Drop the key and the connections."""
        self._key = None
        if self._grants is not None:
            self._grants.close()

    @property
    def _own_grant(self) -> Grant | None:
        """The grant, unless it is for another session key."""
        grant = self.grant
        return grant if grant is not None and grant.session_public_key == self.public_key else None

    def _registered(self, grant: Grant, owner: Signer, *, previous: str | None = None) -> str:
        parse_grant(grant.to_json())  # the same checks as at the ledger, before anybody signs
        assert self._grants is not None
        message = grant_message(grant)
        signature = base58_encode(owner.sign(message))
        self._grants.register(grant, signature, previous=previous)
        self.adopt(grant, signature)
        return grant_id(message)


def _kept(book: Book) -> tuple[Grant | None, str | None]:
    kept: dict[str, Any] | None = book.grant
    if kept is None:
        return None, None
    try:
        return parse_grant(kept["grant"]), str(kept["signature"])
    except (GrantError, KeyError, TypeError) as error:
        raise StoreError(f"the client's file is damaged: {error}") from error


def signature_text(signature: bytes) -> str:
    """A voucher's signature as it travels: standard base64."""
    return base64.b64encode(signature).decode()
