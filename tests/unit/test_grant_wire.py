"""The session grant as its owner signs it: strict, and the same bytes everywhere."""

import base64
import hashlib
import json
from typing import Any

import pytest
from nacl.signing import SigningKey

from session_ledger.encoding import base58_encode
from session_ledger.grant import (
    ANY_RECIPIENT,
    LIFE_SECONDS_MAX,
    GrantError,
    grant_id,
    grant_message,
    is_grant_id,
    parse_grant,
    revocation_message,
    sign_grant,
    sign_revocation,
    verify_signature,
)

OWNER = SigningKey(bytes([1]) * 32)
SESSION = base58_encode(bytes([2]) * 32)
RECIPIENT = base58_encode(bytes([3]) * 32)
OWNER_ADDRESS = base58_encode(bytes(OWNER.verify_key))
MINT = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"


def document(**changes: Any) -> dict[str, Any]:
    """A good grant; a member that is given as `...` is left out."""
    members: dict[str, Any] = {
        "version": 1,
        "cluster": "localnet",
        "owner": OWNER_ADDRESS,
        "sessionPublicKey": SESSION,
        "mint": MINT,
        "allowedEntrypoints": ["transferChecked"],
        "allowedRecipients": [RECIPIENT],
        "maxPaymentAmount": "10",
        "maxCalls": 3,
        "maxTotalAmount": "25",
        "validFrom": 1_000,
        "validUntil": 4_600,
        "nonce": "n-1",
        **changes,
    }
    return {name: value for name, value in members.items() if value is not ...}


def test_the_signed_bytes_are_the_domain_and_canonical_json() -> None:
    window = {"seconds": 60, "maxAmount": "20"}
    given = document(window=window, label="café \u20ac", fallback="owner_signature")
    text = json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    message = grant_message(parse_grant(given))
    assert message == b"session-grant:v1\n" + text.encode()
    digest = hashlib.sha256(message).digest()
    assert base64.urlsafe_b64decode(grant_id(message) + "=") == digest
    assert is_grant_id(grant_id(message))


def test_what_was_parsed_is_written_as_it_came() -> None:
    for given in (document(), document(allowedRecipients=[ANY_RECIPIENT], label="l")):
        assert parse_grant(given).to_json() == given


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"version": "1"}, "version"),
        ({"cluster": "testnet"}, "cluster"),
        ({"owner": "owner"}, "owner"),
        ({"owner": SESSION, "sessionPublicKey": SESSION}, "sessionPublicKey"),
        ({"sessionPublicKey": "1" + RECIPIENT}, "sessionPublicKey"),
        ({"mint": 5}, "mint"),
        ({"allowedRecipients": []}, "allowedRecipients"),
        ({"allowedRecipients": ["*", RECIPIENT]}, "allowedRecipients"),
        ({"allowedRecipients": [RECIPIENT, RECIPIENT]}, "allowedRecipients"),
        ({"allowedRecipients": [RECIPIENT, 5]}, "allowedRecipients"),
        ({"allowedRecipients": "*"}, "allowedRecipients"),
        ({"allowedRecipients": None}, "allowedRecipients"),
        ({"allowedEntrypoints": []}, "allowedEntrypoints"),
        ({"allowedEntrypoints": None}, "allowedEntrypoints"),
        ({"maxPaymentAmount": 10}, "maxPaymentAmount"),
        ({"maxPaymentAmount": "0"}, "maxPaymentAmount"),
        ({"maxPaymentAmount": "010"}, "maxPaymentAmount"),
        ({"maxPaymentAmount": "26"}, "maxPaymentAmount"),
        ({"maxTotalAmount": str(2**64)}, "maxTotalAmount"),
        ({"maxCalls": 0}, "maxCalls"),
        ({"maxCalls": True}, "maxCalls"),
        ({"maxCalls": 3.0}, "maxCalls"),
        ({"maxCalls": "3"}, "maxCalls"),
        ({"maxCalls": 2**53}, "maxCalls"),
        ({"window": None}, "window"),
        ({"window": {"seconds": 60}}, "window"),
        ({"window": {"maxAmount": "60"}}, "window"),
        ({"window": {"seconds": 0, "maxAmount": "60"}}, "window.seconds"),
        ({"window": {"seconds": 60, "maxAmount": "0"}}, "window.maxAmount"),
        ({"window": {"seconds": 60, "maxAmount": "9"}}, "maxPaymentAmount"),
        ({"window": {"seconds": 60, "maxAmount": "60", "more": 1}}, "window"),
        ({"validFrom": 4_600}, "validUntil"),
        ({"validUntil": 1_001 + LIFE_SECONDS_MAX}, "validUntil"),
        ({"validUntil": -1}, "validUntil"),
        ({"nonce": ""}, "nonce"),
        ({"nonce": "\ud800"}, "nonce"),
        ({"label": "a\nb"}, "label"),
        ({"label": "x" * 129}, "label"),
        ({"fallback": None}, "fallback"),
        ({"fallback": "anything"}, "fallback"),
        ({"encryptedPrivateKey": "x"}, "no other members"),
    ],
)
def test_a_grant_that_is_not_exactly_one_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(GrantError, match=named) as refused:
        parse_grant(document(**changes))
    assert refused.value.code.startswith("grant_")


@pytest.mark.parametrize("name", sorted(document()))
def test_every_limit_is_given_or_there_is_no_grant(name: str) -> None:
    with pytest.raises(GrantError, match=name):
        parse_grant(document(**{name: ...}))


def test_another_entrypoint_has_a_code_of_its_own() -> None:
    for listed in (["approve"], ["transferChecked", "approve"]):
        with pytest.raises(GrantError) as refused:
            parse_grant(document(allowedEntrypoints=listed))
        assert refused.value.code == "grant_entrypoint_not_allowed"


@pytest.mark.parametrize("value", [None, [], "grant", 5, {}])
def test_other_json_is_no_grant(value: Any) -> None:
    with pytest.raises(GrantError):
        parse_grant(value)


def test_the_owners_signature_holds_for_these_bytes_only() -> None:
    grant = parse_grant(document())
    message = grant_message(grant)
    signature = sign_grant(grant, OWNER)
    assert len(verify_signature(message, signature, OWNER_ADDRESS)) == 64
    other = base58_encode(SigningKey(bytes([9]) * 32).sign(message).signature)
    for given in (other, sign_revocation(grant_id(message), 5, OWNER), "", "0", "1" * 64, "z" * 88):
        with pytest.raises(GrantError) as refused:
            verify_signature(message, given, OWNER_ADDRESS)
        assert refused.value.code == "grant_signature_invalid"


def test_nobody_signs_for_another_owner() -> None:
    with pytest.raises(GrantError, match="not the owner's"):
        sign_grant(parse_grant(document()), SigningKey(bytes([9]) * 32))


def test_a_revocation_names_the_grant_and_the_time() -> None:
    at = b'session-grant-revocation:v1\n{"at":5,"grantId":"g"}'
    assert revocation_message("g", 5) == at


def test_a_grant_says_whom_it_may_pay() -> None:
    assert parse_grant(document()).allows_recipient(RECIPIENT)
    assert not parse_grant(document()).allows_recipient(SESSION)
    assert parse_grant(document(allowedRecipients=["*"])).allows_recipient(SESSION)
