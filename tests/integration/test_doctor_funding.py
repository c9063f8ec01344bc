"""What doctor says of buyers' proofs, session keys, revoked funding and promises without cover."""

import base64
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from settlement_rig import keypair

from service.cli.doctor import examine, visible_configuration
from service.config import Settings
from service.domain.health import Check, judge_cover, judge_open_proof
from tests.integration.watch_rig import WatchRig, rig_fixture

__all__ = ["rig_fixture"]

SECRET = base64.b64encode(bytes(range(32))).decode()


async def checks_of(**given: Any) -> dict[str, Check]:
    return {check.name: check for check in await examine(Settings(**given))}


@pytest.mark.parametrize(
    ("network", "chosen", "level"),
    [
        ("mainnet-beta", "onboarded", "warning"),
        ("mainnet-beta", "required", "ok"),
        ("mainnet-beta", None, "ok"),
        ("devnet", None, "ok"),
    ],
)
async def test_opens_without_a_proof_are_a_warning_on_mainnet_only(
    network: str, chosen: str | None, level: str
) -> None:
    given = {} if chosen is None else {"mpp_open_proof": chosen}
    check = (await checks_of(solana_network=network, **given))["open proof"]
    assert check.level == level
    assert bool(check.remedy) == (level == "warning")


def test_localnet_may_open_without_a_proof() -> None:
    assert judge_open_proof("onboarded", "localnet").level == "ok"


async def test_session_keys_want_a_secret_that_can_be_read(ledger_url: str) -> None:
    none = (await checks_of(database_url=ledger_url))["session keys"]
    good = (await checks_of(database_url=ledger_url, session_key_secrets=SECRET))["session keys"]
    found = await checks_of(database_url=ledger_url, session_key_secrets="hunter2:" + SECRET)
    bad = found["session keys"]
    assert (none.level, good.level, bad.level) == ("warning", "ok", "failed")
    assert "hunter2" not in bad.detail
    assert "projections" in found  # the other checks are made all the same


async def test_keys_under_a_secret_that_is_gone_are_a_fault(rig: WatchRig) -> None:
    await rig.log.store.fetch(
        sa.text(
            "INSERT INTO session_keys (stream_id, session_pubkey, key_id, sealed)"
            " VALUES ('s', 'p', '0badc0de', '') RETURNING stream_id"
        )
    )
    check = (await checks_of(database_url=rig.log.url, session_key_secrets=SECRET))["session keys"]
    assert check.level == "failed"
    assert "1 by 0badc0de" in check.detail


async def test_sessions_whose_funding_is_revoked_are_a_warning(rig: WatchRig) -> None:
    await rig.grant()
    await rig.open("c")
    await rig.watch().look()
    assert (await checks_of(database_url=rig.log.url))["funding"].level == "ok"
    await rig.revoke()
    await rig.due()
    await rig.watch().look()
    check = (await checks_of(database_url=rig.log.url))["funding"]
    assert (check.level, "1 open" in check.detail) == ("warning", True)


async def test_promises_without_cover_are_a_warning_with_the_sum(
    rig: WatchRig, tmp_path: Path
) -> None:
    key = tmp_path / "authority.json"
    key.write_text(str(list(bytes(keypair("authority")))))
    key.chmod(0o600)
    given = {
        "database_url": rig.log.url,
        "solana_rpc_url": rig.world.url,
        "settlement_authority": f"file:{key}",
    }
    await rig.grant(amount=40)
    stream = await rig.open("c")
    assert await rig.pay(stream, 40) == "accepted"
    covered = (await checks_of(**given))["headroom"]
    assert (covered.level, covered.detail) == ("ok", "the promises of 1 buyers are covered")
    assert await rig.pay(stream, 70) == "accepted"
    short = (await checks_of(**given))["headroom"]
    assert short.level == "warning"
    assert "1 of 1 buyers promised 30 atomic units more" in short.detail


def test_what_the_chain_did_not_say_is_named_and_no_shortage() -> None:
    check = judge_cover([None, 5, None])
    assert (check.level, "2 of them not read" in check.detail) == ("ok", True)


def test_the_configuration_is_shown_without_its_secrets() -> None:
    settings = Settings(
        session_key_secrets=f"hunter2:{SECRET}",  # type: ignore[arg-type]  parsed
        public_hosts="pay.example,www.example",  # type: ignore[arg-type]  parsed
        solana_rpc_url="https://rpc.example/key",  # type: ignore[arg-type]  parsed
    )
    shown = visible_configuration(settings)
    assert shown["SESSION_KEY_SECRETS"] == "***"
    assert shown["PUBLIC_HOSTS"] == ("pay.example", "www.example")
    assert shown["SOLANA_RPC_URL"] == ["https://rpc.example/***"]
