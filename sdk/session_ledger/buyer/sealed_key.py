"""The session key at rest: sealed by a PIN, authenticated, and never sent anywhere.

`{"v":1,"kdf":"argon2id13","ops","mem","salt","cipher":"xsalsa20poly1305","nonce","ct",
"sessionPublicKey","validUntil","grantId"?}` with binary members as standard base64. The public
facts are bound to the ciphertext: the key inside must be that of `sessionPublicKey`.

Spec: RFC 9106 (Argon2id); NaCl secretbox.
"""

import base64
import binascii
import json
from typing import Final, Self

from nacl import pwhash, utils
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.signing import SigningKey

from session_ledger.buyer.errors import SessionKeyLocked, WeakPin
from session_ledger.encoding import base58_encode
from session_ledger.json_text import JsonTextError, JsonValue, parse

PIN_CHARS_MIN: Final = 6
TEXT_CHARS_MAX: Final = 4_096

_KDF: Final = "argon2id13"
_CIPHER: Final = "xsalsa20poly1305"
_OPS: Final = pwhash.argon2id.OPSLIMIT_MODERATE
_MEM: Final = pwhash.argon2id.MEMLIMIT_MODERATE
_MEM_MAX: Final = 2**30
"""Most memory that opening may take: the numbers come from the text."""
_OPS_MAX: Final = 16
_LOCKED: Final = "the session key stays locked: the PIN is wrong, or the text was altered"


class SealedKey:
    """A session key under a PIN, as text for a file or an environment variable."""

    def __init__(self, members: dict[str, JsonValue]) -> None:
        self._members = members

    @classmethod
    def seal(
        cls,
        key: SigningKey,
        pin: str,
        *,
        valid_until: int,
        grant_id: str | None = None,
        allow_weak_pin: bool = False,
        ops: int = _OPS,
        mem: int = _MEM,
    ) -> Self:
        """Seal a key; `valid_until` is in Unix seconds.

        Raises:
            WeakPin: the PIN has fewer than six characters.
        """
        if len(pin) < PIN_CHARS_MIN and not allow_weak_pin:
            raise WeakPin(f"a PIN has at least {PIN_CHARS_MIN} characters")
        salt = utils.random(pwhash.argon2id.SALTBYTES)
        nonce = utils.random(SecretBox.NONCE_SIZE)
        box = SecretBox(_derived(pin, salt, ops, mem))
        members: dict[str, JsonValue] = {
            "v": 1,
            "kdf": _KDF,
            "ops": ops,
            "mem": mem,
            "salt": _text(salt),
            "cipher": _CIPHER,
            "nonce": _text(nonce),
            "ct": _text(box.encrypt(bytes(key), nonce).ciphertext),
            "sessionPublicKey": base58_encode(bytes(key.verify_key)),
            "validUntil": valid_until,
        }
        if grant_id is not None:
            members["grantId"] = grant_id
        return cls(members)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The sealed key in a text that `to_text` made.

        Raises:
            SessionKeyLocked: it is no such text.
        """
        try:
            found = parse(text) if len(text) <= TEXT_CHARS_MAX else None
        except JsonTextError:
            found = None
        if not isinstance(found, dict):
            raise SessionKeyLocked(_LOCKED)
        return cls(found)

    def to_text(self) -> str:
        """One line of JSON. It holds no secret that the PIN does not guard."""
        return json.dumps(self._members, separators=(",", ":"))

    @property
    def session_public_key(self) -> str | None:
        """The address of the key inside, as the text says."""
        found = self._members.get("sessionPublicKey")
        return found if isinstance(found, str) else None

    @property
    def valid_until(self) -> int | None:
        """Unix seconds at which the key's session ends, as the text says."""
        found = self._members.get("validUntil")
        return found if isinstance(found, int) else None

    @property
    def grant_id(self) -> str | None:
        """The grant of the key, if the text names one."""
        found = self._members.get("grantId")
        return found if isinstance(found, str) else None

    def open(self, pin: str) -> SigningKey:
        """The key.

        Raises:
            SessionKeyLocked: a wrong PIN, or a text that was altered. Which, cannot be told.
        """
        match self._members:
            case {
                "v": 1,
                "kdf": str(kdf),
                "cipher": str(cipher),
                "ops": int(ops),
                "mem": int(mem),
                "salt": str(salt),
                "nonce": str(nonce),
                "ct": str(ciphertext),
            } if (kdf, cipher) == (_KDF, _CIPHER) and ops <= _OPS_MAX and mem <= _MEM_MAX:
                pass
            case _:
                raise SessionKeyLocked(_LOCKED)
        try:
            box = SecretBox(_derived(pin, _bytes(salt), ops, mem))
            key = SigningKey(box.decrypt(_bytes(ciphertext), _bytes(nonce)))
        except (CryptoError, ValueError, TypeError):
            raise SessionKeyLocked(_LOCKED) from None
        if base58_encode(bytes(key.verify_key)) != self.session_public_key:
            raise SessionKeyLocked(_LOCKED)
        return key


def _derived(pin: str, salt: bytes, ops: int, mem: int) -> bytes:
    return pwhash.argon2id.kdf(SecretBox.KEY_SIZE, pin.encode(), salt, ops, mem)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
