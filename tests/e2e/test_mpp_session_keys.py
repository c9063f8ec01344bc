"""The keys that sign for buyers: in no log and no database, and rotated across restarts."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from mpp_session_rig import (
    CLOSE,
    ENVELOPE,
    OPEN,
    VOUCHER,
    close,
    command,
    onboarded,
    open_body,
    opened,
    pay,
    payable,
    refusal,
)
from nacl.signing import SigningKey
from running import PRICE, Service, running, serving
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from service.application.session_keys import parse_secrets


async def test_neither_seed_nor_secret_is_in_database_or_log(service: Service) -> None:
    buyer, seller = onboarded(service), payable(service)
    channel = opened(buyer, seller.facts["recipient"])
    signed = pay(service, channel, PRICE)
    envelope = json.dumps({name: signed[name] for name in ENVELOPE}).encode()
    for body in (b"{", envelope, b"null"):
        for path in (OPEN, VOUCHER, CLOSE):
            service.http.post(path, content=body)
    text = (service.data_dir / "session-key-secrets").read_text()
    assert (service.data_dir / "session-key-secrets").stat().st_mode & 0o777 == 0o600
    (row,) = await service.rows(
        "SELECT sealed FROM session_keys WHERE session_pubkey = $1", signed["signer"]
    )
    (secret,) = parse_secrets(text)
    opened_seed = secret.open(row["sealed"])
    assert bytes(SigningKey(opened_seed).verify_key) == bytes(Pubkey.from_string(signed["signer"]))
    tables = await service.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    contents = [service.logged()]
    for (name,) in tables:
        contents += [r[0] for r in await service.rows(f'SELECT t::text FROM "{name}" t')]  # noqa: S608
    everything = "\n".join(contents)
    assert row["sealed"].hex() in everything
    for hidden in (opened_seed, base64.b64decode(text)):
        assert hidden.hex() not in everything
        assert base64.b64encode(hidden).decode() not in everything
    close(service, channel)
    assert not await service.rows(
        "SELECT 1 FROM session_keys WHERE session_pubkey = $1", signed["signer"]
    )


@pytest.mark.timeout(300)
@pytest.mark.campaign
def test_secrets_are_rotated_across_restarts(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        buyer = onboarded(service)
        channel = opened(buyer, str(Keypair().pubkey()))
        pay(service, channel, 1)
        (old,) = keys(service, "list")
        assert (old["configured"], old["newest"], old["sessionKeys"]) == (True, True, 1)
    file = tmp_path / "data" / "session-key-secrets"
    kept, newer = file.read_text(), base64.b64encode(os.urandom(32)).decode()

    file.write_text(newer)
    with serving(tmp_path) as service:  # the old one went too early
        body = {"channel_id": channel, "amount": "2", "serverNonce": "n"}
        answer = service.http.post(VOUCHER, json=body)
        told = refusal(answer, 503, "session_key_unavailable")
        assert old["keyId"] in told["detail"]
        assert answer.headers["retry-after"]
        failed = keys(service, "rotate", status=1)
        assert (failed["code"], old["keyId"] in failed["error"]) == (
            "session_key_unavailable", True,
        )  # fmt: skip
        assert [row["configured"] for row in keys(service, "list", status=1)] == [True, False]

    file.write_text(f"{newer},{kept}")
    with serving(tmp_path) as service:
        assert pay(service, channel, 2)["sequence"] == 2
        assert keys(service, "rotate")["resealed"] == 1
        assert keys(service, "rotate")["resealed"] == 0
        assert [row["sessionKeys"] for row in keys(service, "list")] == [1, 0]

    file.write_text(newer)
    with serving(tmp_path) as service:
        assert pay(service, channel, 3)["sequence"] == 3
        replayed = command(service, "replay", "--verify-signatures")
        assert (replayed["differences"], replayed["events"] >= 5) == (0, True)


@pytest.mark.campaign
def test_without_a_secret_the_service_runs_and_opens_nothing() -> None:
    with running(SESSION_KEY_SECRETS="") as service:
        body = open_body(onboarded(service), str(Keypair().pubkey()))
        told = refusal(service.http.post(OPEN, json=body), 503, "session_keys_not_configured")
        assert "SESSION_KEY_SECRETS" in told["detail"]


def keys(service: Service, word: str, *, status: int = 0) -> Any:
    """What `session-ledger keys` answers a script."""
    return command(service, "keys", word, status=status)
