"""The session key at rest: only its PIN opens it, and any change to the text is noticed."""

import json
from typing import Any

import pytest
from nacl import pwhash

from session_ledger.buyer import SealedKey, SessionKeyLocked, WeakPin
from session_ledger.encoding import base58_encode
from tests.buyer_shop import KEY, OWNER, autopay

PIN = "482913"
FAST = {
    "ops": pwhash.argon2id.OPSLIMIT_MIN,
    "mem": pwhash.argon2id.MEMLIMIT_MIN,
}


def sealed(pin: str = PIN, **changes: Any) -> SealedKey:
    return SealedKey.seal(KEY, pin, valid_until=1_900_000_000, **{**FAST, **changes})


def altered(**changes: Any) -> SealedKey:
    members = json.loads(sealed(grant_id="g1").to_text())
    return SealedKey.parse(json.dumps({**members, **changes}))


def test_the_pin_opens_what_it_sealed() -> None:
    text = sealed(grant_id="g1").to_text()
    found = SealedKey.parse(text)
    assert bytes(found.open(PIN)) == bytes(KEY)
    assert found.session_public_key == base58_encode(bytes(KEY.verify_key))
    assert (found.valid_until, found.grant_id) == (1_900_000_000, "g1")
    assert bytes(KEY).hex() not in text


def test_the_same_key_is_never_sealed_to_the_same_text() -> None:
    one, other = json.loads(sealed().to_text()), json.loads(sealed().to_text())
    assert {name for name in one if one[name] != other[name]} == {"salt", "nonce", "ct"}


@pytest.mark.parametrize("pin", ["482914", "", "48291", "482913 "])
def test_a_wrong_pin_opens_nothing(pin: str) -> None:
    with pytest.raises(SessionKeyLocked):
        sealed().open(pin)


@pytest.mark.parametrize(
    "changes",
    [
        {"ct": "AAAA"},
        {"ct": "not base64!"},
        {"nonce": "AAAA"},
        {"salt": "AAAA"},
        {"ops": 2},
        {"ops": -1},
        {"ops": 2**40},
        {"mem": 2**40},
        {"kdf": "md5"},
        {"cipher": "aes-cbc"},
        {"v": 2},
        {"sessionPublicKey": OWNER.address},
        {"salt": None},
    ],
)
def test_an_altered_text_opens_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(SessionKeyLocked):
        altered(**changes).open(PIN)


def test_every_altered_byte_of_the_ciphertext_is_noticed() -> None:
    members = json.loads(sealed().to_text())
    for at in range(0, len(members["ct"]) - 1, 7):
        changed = "A" if members["ct"][at] != "A" else "B"
        text = members["ct"][:at] + changed + members["ct"][at + 1 :]
        with pytest.raises(SessionKeyLocked):
            SealedKey.parse(json.dumps({**members, "ct": text})).open(PIN)


@pytest.mark.parametrize("text", ["", "[]", "{", "1", "x" * 5_000, "{}"])
def test_what_is_no_sealed_key_opens_nothing(text: str) -> None:
    with pytest.raises(SessionKeyLocked):
        SealedKey.parse(text).open(PIN)


def test_a_short_pin_is_refused_unless_it_is_wanted() -> None:
    with pytest.raises(WeakPin):
        sealed("12345")
    assert bytes(sealed("12345", allow_weak_pin=True).open("12345")) == bytes(KEY)


def test_a_client_opens_a_sealed_key_with_its_pin_only() -> None:
    with autopay(session_key=None, sealed_key=sealed(), pin=PIN) as payer:
        assert payer.session.public_key == base58_encode(bytes(KEY.verify_key))
        again = payer.sealed(PIN)
        assert bytes(again.open(PIN)) == bytes(KEY)
    with pytest.raises(SessionKeyLocked):
        autopay(session_key=None, sealed_key=sealed(), pin="000000")
