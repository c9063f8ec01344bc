"""`session-ledger doctor`: the configuration, and whether all that it names is in order."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import typer
from pydantic import SecretStr
from rich.text import Text
from sqlalchemy.ext.asyncio import AsyncEngine

from service import migrations
from service.adapters.postgres.connections import APPLICATION_ROLE, reader_engine
from service.adapters.postgres.inspection import inspect, sample_streams, schema_revision
from service.adapters.solana.rpc import SolanaRpc
from service.adapters.solana.signers import KeySourceError, load_signer
from service.adapters.system import SystemClock
from service.application.exposure import exposure_page
from service.application.replay import Replay, Scope
from service.bootstrap import (
    TOKEN_PROGRAM,
    funding_sources,
    policy_of,
    session_secrets,
    settlement_terms,
)
from service.cli.connection import OpenLedger, open_ledger
from service.cli.output import FAILED, AsJson, console, show
from service.cli.settings import DataDir, operator_settings
from service.config import ConfigurationError, Settings
from service.domain.errors import LedgerError
from service.domain.health import (
    Check,
    Level,
    judge_binding,
    judge_cover,
    judge_database,
    judge_genesis,
    judge_mint,
    judge_open_proof,
    judge_revoked,
    judge_runway,
    judge_schema,
    judge_session_keys,
    judge_settlements,
)
from service.domain.limits import PAGE_MAX
from service.domain.settlement_plan import transaction_fee
from session_ledger.challenge import NETWORKS, Network

SAMPLE: Final = 20
"""Streams whose projection is compared with the log; `session-ledger replay` compares all."""
_COLOURS: Final[dict[Level, str]] = {"ok": "green", "warning": "yellow", "failed": "red"}

_KEY_SOURCES: Final = frozenset({"settlement_authority", "fee_payer"})

Checks = AsyncGenerator[Check]


def doctor(*, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check the configuration, the database, the chain and the keys. Changes nothing.

    Exit status 0 without a failed check (warnings are allowed), 1 otherwise.
    """
    settings = operator_settings(data_dir, as_json=as_json, database_needed=False)
    configuration = visible_configuration(settings)
    checks = asyncio.run(examine(settings))
    failed = any(check.level == "failed" for check in checks)
    if as_json:
        found = [
            {"name": c.name, "status": c.level, "detail": c.detail, "remedy": c.remedy}
            for c in checks
        ]
        status = "failed" if failed else "ok"
        show({"status": status, "configuration": configuration, "checks": found}, as_json=True)
    else:
        show(configuration, as_json=False)
        for check in checks:
            level = (f"{check.level:<8}", _COLOURS[check.level])
            remedy = f"\n        {check.remedy}" if check.remedy else ""
            line = Text.assemble(level, (check.name, "bold"), f"  {check.detail}{remedy}")
            console.print(line, soft_wrap=True)
    if failed:
        raise typer.Exit(FAILED)


async def examine(settings: Settings) -> list[Check]:
    """All checks, in the order in which they are shown."""
    network = NETWORKS[settings.solana_network]
    found = [
        judge_open_proof(settings.open_proof, network.name),
        judge_binding(settings.required_binding, network.name),
    ]
    for checks in (_database(settings), _keys_and_chain(settings, network)):
        async with aclosing(checks):
            found += [check async for check in checks]
    return found


async def _database(settings: Settings) -> Checks:
    if settings.database_url is None:
        remedy = "Set DATABASE_URL, or start `session-ledger serve`, which runs its own."
        yield Check("database", "failed", "none is configured", remedy)
        return
    engine = reader_engine(settings.database_url.get_secret_value(), pool_size=2)
    try:
        revision = await schema_revision(engine)
        yield Check("database", "ok", "answers")
        yield judge_schema(revision, migrations.newest_revision())
        if revision is not None:
            async for check in _contents(settings, engine):
                yield check
    except LedgerError as error:
        yield Check("database", "failed", error.detail, "Is DATABASE_URL right, and Postgres up?")
    finally:
        await engine.dispose()


async def _contents(settings: Settings, engine: AsyncEngine) -> Checks:
    facts = await inspect(engine)
    now = SystemClock().now()
    for check in judge_database(
        facts,
        synchronous_commit=settings.synchronous_commit,
        application_role=APPLICATION_ROLE,
        now=now,
    ):
        yield check
    readable, malformed = _readable_secrets(settings)
    if malformed is not None:
        yield malformed
    async with open_ledger(readable) as ledger:
        yield await _projections(ledger, engine)
        open_ones = await ledger.queries.settlements(status=None, limit=PAGE_MAX)
        yield judge_settlements([(one.status, one.intended_at) for one in open_ones], now)
        if malformed is None:
            keys = ledger.session_keys
            counts = await keys.counts()
            unknown = {key_id: n for key_id, n in counts.items() if not keys.knows(key_id)}
            yield judge_session_keys(len(counts) - len(unknown), unknown)
        yield judge_revoked(await ledger.exposure.revoked_sessions())


def _readable_secrets(settings: Settings) -> tuple[Settings, Check | None]:
    """The settings that a ledger can be opened with, and what is wrong with the secrets."""
    try:
        session_secrets(settings)
    except ConfigurationError as error:
        remedy = "Correct SESSION_KEY_SECRETS: 32 random bytes as base64, comma-separated."
        wrong = Check("session keys", "failed", str(error), remedy)
        return settings.model_copy(update={"session_key_secrets": None}), wrong
    return settings, None


async def _cover(settings: Settings, network: Network, authority: str, chain: SolanaRpc) -> Checks:
    """Whether what the buyers with open sessions promised could be paid now."""
    if settings.database_url is None:
        return
    try:
        async with open_ledger(_readable_secrets(settings)[0]) as ledger:
            page = await exposure_page(
                ledger.exposure,
                funding_sources(chain, authority),
                settlement_terms(authority, network),
                by="buyer",
                seller_id=None,
                limit=PAGE_MAX,
                after=None,
            )
    except (ConfigurationError, LedgerError):
        return  # said by the checks of the database
    yield judge_cover([row.headroom for row in page.rows])


async def _projections(ledger: OpenLedger, engine: AsyncEngine) -> Check:
    """A spot check: some streams are replayed."""
    replay = Replay(ledger.replay_store, ledger.store)
    names = await sample_streams(engine, SAMPLE)
    differing = [name for name in names if (await replay.run(Scope(stream_id=name))).count]
    if not differing:
        return Check("projections", "ok", f"{len(names)} streams agree with the log")
    detail = f"{len(differing)} of {len(names)} streams differ, such as {differing[0]}"
    return Check("projections", "failed", detail, "Run `session-ledger replay`.")


async def _keys_and_chain(settings: Settings, network: Network) -> Checks:
    addresses: dict[str, str] = {}
    sources = {
        "SETTLEMENT_AUTHORITY": settings.settlement_authority,
        "FEE_PAYER": settings.fee_payer or settings.settlement_authority,
    }
    for name, source in sources.items():
        check, address = await _key(name, source)
        yield check
        if address is not None:
            addresses[name] = address
    if not settings.solana_rpc_url:
        remedy = "Set SOLANA_RPC_URL, or start `session-ledger serve --local-chain`."
        yield Check("rpc", "failed", "none is configured", remedy)
    for number, url in enumerate(settings.solana_rpc_url):
        async for check in _provider(settings, network, url, addresses, first=number == 0):
            yield check


async def _key(name: str, source: SecretStr | None) -> tuple[Check, str | None]:
    if source is None:
        remedy = f"Set {name} to a key source, such as file:id.json."
        return Check(name, "failed", "no key source is configured", remedy), None
    try:
        address = (await load_signer(source.get_secret_value(), os.environ)).pubkey
    except KeySourceError as error:
        return Check(name, "failed", str(error), f"Correct {name}."), None
    return Check(name, "ok", address), address


async def _provider(
    settings: Settings, network: Network, url: str, addresses: dict[str, str], *, first: bool
) -> Checks:
    """One RPC provider. What is the same everywhere is asked of the first only."""
    try:
        chain = SolanaRpc(url, network.genesis_hash)
    except ValueError as error:
        yield Check("rpc", "failed", str(error), "Correct SOLANA_RPC_URL.")
        return
    try:
        genesis = judge_genesis(
            chain.name, await chain.genesis_hash(), network.genesis_hash, network.name
        )
        yield genesis
        if not first or genesis.level == "failed":
            return
        yield judge_mint(await chain.mint(network.usdc_mint), network.usdc_mint, TOKEN_PROGRAM)
        if payer := addresses.get("FEE_PAYER"):
            policy = policy_of(settings)
            signatures = len(set(addresses.values()))
            fee = transaction_fee(signatures, policy.compute_unit_limit, policy.compute_unit_price)
            lamports = await chain.lamports(payer)
            yield judge_runway(payer, lamports, fee, least=policy.fee_payer_runway)
        if authority := addresses.get("SETTLEMENT_AUTHORITY"):
            async for check in _cover(settings, network, authority, chain):
                yield check
    except LedgerError as error:
        remedy = "Is SOLANA_RPC_URL right? Vouchers are taken without it, settlements wait."
        yield Check(f"rpc {chain.name}", "failed", error.detail, remedy)
    finally:
        await chain.close()


def visible_configuration(settings: Settings) -> dict[str, Any]:
    """The settings by their names in the environment, secrets hidden."""
    shown: dict[str, Any] = {}
    for name, value in settings:
        match value:
            case SecretStr():
                shown[name.upper()] = _hidden(name, value.get_secret_value())
            case tuple() if name == "solana_rpc_url":
                shown[name.upper()] = [_host(url) for url in settings.solana_rpc_url]
            case Path():
                shown[name.upper()] = str(value)
            case _:
                shown[name.upper()] = value
    return shown


def _hidden(name: str, secret: str) -> str:
    """What of a secret may be seen: the host of an address, the kind of a key source."""
    if name == "database_url":
        return _host(secret)
    kind, colon, _ = secret.partition(":")
    return f"{kind}:***" if colon and name in _KEY_SOURCES else "***"


def _host(url: str) -> str:
    """The scheme and the host; user, password, path and query may be secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "***"
    return f"{parts.scheme}://{parts.hostname}{port}/***"
