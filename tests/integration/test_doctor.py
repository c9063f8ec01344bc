"""What doctor says of deployments that are not in order: each fault by its name, with a remedy."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from solders.keypair import Keypair
from typer.testing import CliRunner

from service.adapters.postgres.connections import driver_address
from service.application.streams import session_stream
from service.cli.doctor import examine, visible_configuration
from service.cli.main import app
from service.config import Settings
from service.domain.health import Check, judge_mint, judge_runway, judge_settlements
from service.domain.onchain import Mint
from service.domain.settlement_plan import FEE_PAYER_RENT
from service.domain.units import Lamports, UnixMillis
from service.local.chain import LocalChain
from tests.integration.chain_fixtures import chain_fixture
from tests.integration.log_fixtures import opened, opening, voucher_event

__all__ = ["chain_fixture"]

NOWHERE = "http://127.0.0.1:9"
MINUTE = 60_000


@pytest.fixture
async def root(ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(driver_address(ledger_url))
    yield connection
    await connection.close()


async def checks_of(**given: Any) -> dict[str, Check]:
    return {check.name: check for check in await examine(Settings(**given))}


def database_checks(found: dict[str, Check]) -> dict[str, str]:
    names = ("schema", "version", "role", "triggers", "feed", "clock", "projections", "settlements")
    return {name: found[name].level for name in names if name in found}


async def test_a_database_in_order_passes_and_what_is_missing_is_named(ledger_url: str) -> None:
    found = await checks_of(database_url=ledger_url)

    assert set(database_checks(found).values()) == {"ok"}
    missing = {name for name, check in found.items() if check.level == "failed"}
    # The test's own server does not sync to the disk, which is what `durability` is about.
    assert missing == {"durability", "SETTLEMENT_AUTHORITY", "FEE_PAYER", "rpc"}
    assert all(found[name].remedy for name in missing)


async def test_commits_that_wait_for_nothing_fail_durability(ledger_url: str) -> None:
    found = await checks_of(database_url=ledger_url, synchronous_commit="off")
    assert "synchronous_commit off" in found["durability"].detail


async def test_no_database_and_an_unreachable_one_are_told_apart(ledger_url: str) -> None:
    none = await checks_of()
    gone = await checks_of(database_url="postgresql://a:b@127.0.0.1:9/none")
    wrong = await checks_of(database_url=ledger_url.replace("/test_", "/no_"))

    assert none["database"].detail == "none is configured"
    assert gone["database"].level == wrong["database"].level == "failed"
    assert "schema" not in gone


async def test_an_empty_database_wants_its_schema(empty_database_url: str) -> None:
    found = await checks_of(database_url=empty_database_url)

    assert found["database"].level == "ok"
    assert found["schema"].level == "failed"
    assert "migrate" in (found["schema"].remedy or "")


async def test_an_older_schema_wants_the_newer(ledger_url: str, root: asyncpg.Connection) -> None:
    await root.execute("UPDATE alembic_version SET version_num = '0000'")
    found = await checks_of(database_url=ledger_url)
    assert (found["schema"].level, "0000" in found["schema"].detail) == ("failed", True)


@pytest.mark.parametrize(
    "off",
    [
        "DISABLE TRIGGER events_append_only",
        "DISABLE TRIGGER events_no_truncate",
        "ENABLE TRIGGER events_append_only",  # not always: a replica's session would pass it
    ],
)
async def test_a_trigger_that_does_not_always_fire_is_a_fault(
    ledger_url: str, root: asyncpg.Connection, off: str
) -> None:
    await root.execute(f"ALTER TABLE events {off}")
    found = await checks_of(database_url=ledger_url)
    assert found["triggers"].level == "failed"
    assert off.rsplit(maxsplit=1)[-1] in found["triggers"].detail


async def test_a_role_that_may_change_the_log_is_a_fault(
    ledger_url: str, root: asyncpg.Connection
) -> None:
    await root.execute("GRANT UPDATE ON events TO session_ledger_app")
    found = await checks_of(database_url=ledger_url)
    assert found["role"].level == "failed"
    assert "UPDATE" in found["role"].detail


async def test_a_log_from_another_cluster_is_out_of_the_feeds_reach(
    ledger_url: str, root: asyncpg.Connection
) -> None:
    async with opened(ledger_url) as log:
        await log.ledger.commit(session_stream("slr_1", "ch_1"), lambda _: opening())
    assert (await checks_of(database_url=ledger_url))["feed"].level == "ok"

    await root.execute("ALTER TABLE events DISABLE TRIGGER ALL")
    await root.execute("UPDATE events SET tx_id = '9000000000'")

    found = await checks_of(database_url=ledger_url)
    assert found["feed"].level == "failed"
    assert "9000000000" in found["feed"].detail


async def test_a_projection_that_differs_is_found_by_the_spot_check(
    ledger_url: str, root: asyncpg.Connection
) -> None:
    async with opened(ledger_url) as log:
        stream = session_stream("slr_1", "ch_1")
        await log.ledger.commit(stream, lambda _: [*opening(), voucher_event(10)])
    await root.execute("UPDATE streams SET projection = '{}'")

    found = await checks_of(database_url=ledger_url)

    assert found["projections"].level == "failed"
    assert "session/slr_1/ch_1" in found["projections"].detail


async def test_the_chain_and_the_keys_are_checked(chain: LocalChain, tmp_path: Path) -> None:
    key = key_file(tmp_path, "payer")
    poor = await checks_of(settlement_authority=f"file:{key}", solana_rpc_url=chain.url)

    name = next(name for name in poor if name.startswith("rpc "))
    assert (poor[name].level, poor["mint"].level) == ("ok", "ok")
    assert poor["fee payer balance"].level == "failed"
    assert str(payer("payer").pubkey()) in (poor["fee payer balance"].remedy or "")
    assert poor["FEE_PAYER"].detail == str(payer("payer").pubkey())


async def test_a_provider_of_another_cluster_is_a_fault(chain: LocalChain) -> None:
    found = await checks_of(solana_network="devnet", solana_rpc_url=chain.url)
    wrong = next(check for name, check in found.items() if name.startswith("rpc "))
    assert wrong.level == "failed"
    assert "genesis" in wrong.detail
    assert "mint" not in found


async def test_every_provider_is_asked(chain: LocalChain) -> None:
    found = await checks_of(solana_rpc_url=f"{chain.url},{NOWHERE},ftp://nonsense")
    levels = {name: check.level for name, check in found.items() if name.startswith("rpc")}
    assert sorted(levels.values()) == ["failed", "failed", "ok"]


async def test_a_key_that_does_not_load_is_a_fault_without_its_content(tmp_path: Path) -> None:
    broken = tmp_path / "id.json"
    broken.write_text("[1, 2, 3]")
    found = await checks_of(settlement_authority=f"file:{broken}", fee_payer="env:NOT_THERE")
    assert found["SETTLEMENT_AUTHORITY"].level == found["FEE_PAYER"].level == "failed"
    assert "1, 2, 3" not in found["SETTLEMENT_AUTHORITY"].detail


def test_a_failed_check_ends_with_status_1(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["doctor", "--data-dir", str(tmp_path)])
    assert answer.exit_code == 1
    assert "failed" in answer.output


def test_the_configuration_is_shown_without_its_secrets() -> None:
    shown = visible_configuration(
        Settings(
            database_url="postgresql://user:hunter2@db.example:5432/ledger?sslkey=hunter2",  # type: ignore[arg-type]  parsed
            solana_rpc_url="https://rpc.example/v1/hunter2,https://hunter2@two.example",  # type: ignore[arg-type]  parsed
            admin_token="hunter2-hunter2-hunter2",  # type: ignore[arg-type]  parsed
            fee_payer="vault:https://hunter2",  # type: ignore[arg-type]  parsed
        )
    )
    assert "hunter2" not in str(shown)
    assert shown["DATABASE_URL"] == "postgresql://db.example:5432/***"
    assert shown["SOLANA_RPC_URL"] == ["https://rpc.example/***", "https://two.example/***"]
    assert shown["FEE_PAYER"] == "vault:***"
    assert set(shown) == {name.upper() for name in Settings.model_fields}


def test_a_mint_of_other_decimals_or_with_extensions_is_a_fault() -> None:
    good = Mint("mint", "program", 6, ())
    assert judge_mint(good, "mint", "program").level == "ok"
    for bad in (
        None,
        Mint("mint", "program", 9, ()),
        Mint("mint", "other", 6, ()),
        Mint("mint", "program", 6, ("transfer_fee",)),
    ):
        assert judge_mint(bad, "mint", "program").level == "failed"


@pytest.mark.parametrize(("settlements", "level"), [(200, "ok"), (199, "warning"), (0, "failed")])
def test_the_fee_payers_runway_is_counted_in_settlements(settlements: int, level: str) -> None:
    fee = Lamports(5_060)
    held = Lamports(FEE_PAYER_RENT + settlements * fee + fee - 1)
    assert judge_runway("payer", held, fee, least=200).level == level


@pytest.mark.parametrize(
    ("status", "minutes", "level"),
    [
        ("intended", 1, "ok"),
        ("intended", 3, "warning"),
        ("in_flight", 4, "ok"),
        ("in_flight", 6, "warning"),
        ("parked", 0, "warning"),
    ],
)
def test_settlements_that_wait_too_long_are_a_warning(
    status: str, minutes: int, level: str
) -> None:
    now = UnixMillis(100 * MINUTE)
    check = judge_settlements([(status, UnixMillis(now - minutes * MINUTE))], now)
    assert check.level == level
    assert f"1 {status}" in check.detail


def payer(name: str) -> Keypair:
    return Keypair.from_seed(sha256(b"doctor " + name.encode()).digest())


def key_file(directory: Path, name: str) -> Path:
    path = directory / f"{name}.json"
    path.write_text(str(list(bytes(payer(name)))))
    path.chmod(0o600)
    return path


def test_examining_leaves_nothing_open() -> None:
    """Warnings are errors here: an engine or a client that is not closed would be one."""
    asyncio.run(examine(Settings(solana_rpc_url=NOWHERE)))  # type: ignore[arg-type]  parsed
