"""The keys with which we sign for buyers: made for one session, sealed at rest, forgotten after it.

A seed is never in the log, in a log line, in an error or in a repr. A secret of the configuration
seals it (XSalsa20-Poly1305), so a stolen database signs nothing.
"""

import binascii
import hashlib
import os
from base64 import b64decode
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Final

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.signing import SigningKey

from service.domain.errors import SessionKeysNotConfigured, SessionKeyUnavailable
from service.ports import SealedKey, SessionKeyStore
from session_ledger.encoding import base58_encode

SECRET_BYTES: Final = 32
REMEMBERED_MAX: Final = 20_000
ROTATE_BATCH: Final = 500
_KEY_ID_CHARS: Final = 8


class SessionSecret:
    """A secret that seals session keys; `key_id` names it without saying it."""

    __slots__ = ("_box", "key_id")

    def __init__(self, secret: bytes) -> None:
        self._box = SecretBox(secret)
        self.key_id = hashlib.sha256(secret).hexdigest()[:_KEY_ID_CHARS]

    def __repr__(self) -> str:
        return f"SessionSecret({self.key_id})"

    def seal(self, seed: bytes) -> bytes:
        """The seed, readable with this secret only."""
        return bytes(self._box.encrypt(seed))

    def open(self, sealed: bytes) -> bytes:
        """The seed again.

        Raises:
            CryptoError: it was sealed otherwise, or altered.
        """
        return self._box.decrypt(sealed)


def parse_secrets(text: str) -> tuple[SessionSecret, ...]:
    """The secrets of a comma-separated list, newest first.

    Raises:
        ValueError: one is not base64 of 32 bytes; the message does not show it.
    """
    secrets: list[SessionSecret] = []
    for number, part in enumerate(filter(None, (p.strip() for p in text.split(","))), start=1):
        try:
            secret = b64decode(part, validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"entry {number} is not base64 of {SECRET_BYTES} bytes")
        secrets.append(SessionSecret(secret))
    return tuple(secrets)


@dataclass(frozen=True, slots=True)
class OpenedKey:
    """A session's key, ready to sign, with its public key (base58)."""

    key: SigningKey = field(repr=False)
    pubkey: str

    @classmethod
    def of(cls, seed: bytes) -> "OpenedKey":
        """The key of a seed."""
        key = SigningKey(seed)
        return cls(key, base58_encode(bytes(key.verify_key)))


class SessionKeys:
    """Makes, opens and forgets session keys. One for one process."""

    def __init__(self, store: SessionKeyStore, secrets: tuple[SessionSecret, ...]) -> None:
        self._store = store
        self._secrets = {secret.key_id: secret for secret in secrets}
        self._newest = secrets[0] if secrets else None
        self._opened: OrderedDict[str, OpenedKey] = OrderedDict()

    def require(self) -> SessionSecret:
        """The secret that seals new keys.

        Raises:
            SessionKeysNotConfigured: there is none.
        """
        if self._newest is None:
            raise SessionKeysNotConfigured(
                "this service cannot open sessions yet: set SESSION_KEY_SECRETS to 32 random "
                "bytes as base64 and start it again"
            )
        return self._newest

    async def create(self, stream_id: str) -> str:
        """A fresh key for a session that does not exist yet; gives its public key (base58).

        Durable on return, so that no session is ever open without its key.

        Raises:
            SessionKeysNotConfigured: there is no secret to seal it with.
        """
        secret = self.require()
        seed = os.urandom(SECRET_BYTES)
        key = OpenedKey.of(seed)
        await self._store.put(SealedKey(stream_id, key.pubkey, secret.key_id, secret.seal(seed)))
        self._remember(stream_id, key)
        return key.pubkey

    async def opened(self, stream_id: str) -> OpenedKey:
        """The session's key, opened.

        Raises:
            SessionKeyUnavailable: it is not there, its secret is not configured, or it was altered.
        """
        known = self._opened.get(stream_id)
        if known is not None:
            self._opened.move_to_end(stream_id)
            return known
        stored = await self._store.get(stream_id)
        if stored is None:
            raise SessionKeyUnavailable("the session's key is not in the table session_keys")
        key = OpenedKey.of(self._unsealed(stored))
        self._remember(stream_id, key)
        return key

    async def forget(self, stream_id: str) -> None:
        """Delete the key of a session that signs no more."""
        self.drop(stream_id)
        await self._store.delete([stream_id])

    def drop(self, stream_id: str) -> None:
        """Forget the opened key in this process."""
        self._opened.pop(stream_id, None)

    async def sweep(self) -> int:
        """Delete the keys of sessions that sign no more, whoever closed them; gives how many."""
        return await self._store.sweep()

    async def rotate(self) -> AsyncIterator[int]:
        """Seal every key under the newest secret; gives how many, batch by batch. May be repeated.

        Raises:
            SessionKeysNotConfigured: there is no secret.
            SessionKeyUnavailable: some are sealed by a secret that is not configured, or altered;
                the others are done.
        """
        newest = self.require()
        older = [key_id for key_id in self._secrets if key_id != newest.key_id]
        while batch := await self._store.sealed_by(older, ROTATE_BATCH):
            yield await self._store.reseal(batch, [self._resealed(key, newest) for key in batch])
        for key_id, count in (await self._store.counts()).items():
            if key_id not in self._secrets:
                raise SessionKeyUnavailable(
                    f"{count} session keys are sealed by the secret {key_id}, "
                    "which is not in SESSION_KEY_SECRETS"
                )

    async def counts(self) -> dict[str, int]:
        """How many keys each secret seals, by its id; the configured ones first, newest first."""
        return {**dict.fromkeys(self._secrets, 0), **await self._store.counts()}

    def knows(self, key_id: str) -> bool:
        """Whether the secret of this id is configured."""
        return key_id in self._secrets

    def _resealed(self, key: SealedKey, secret: SessionSecret) -> SealedKey:
        return replace(key, key_id=secret.key_id, sealed=secret.seal(self._unsealed(key)))

    def _unsealed(self, key: SealedKey) -> bytes:
        secret = self._secrets.get(key.key_id)
        if secret is None:
            raise SessionKeyUnavailable(
                f"the session's key is sealed by the secret {key.key_id}, "
                "which is not in SESSION_KEY_SECRETS"
            )
        try:
            return secret.open(key.sealed)
        except CryptoError:
            raise SessionKeyUnavailable(
                f"the session's key cannot be opened with the secret {key.key_id}"
            ) from None

    def _remember(self, stream_id: str, key: OpenedKey) -> None:
        self._opened[stream_id] = key
        if len(self._opened) > REMEMBERED_MAX:
            self._opened.popitem(last=False)
