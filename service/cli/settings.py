"""The settings of a command.

Where DATABASE_URL is not set, a service that runs on this machine says in its data directory
where everything is.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.cli.output import fail
from service.config import Settings
from service.observability import configure_logging

DataDir = Annotated[
    Path | None,
    typer.Option(help="Data directory of a running `serve`, used where DATABASE_URL is not set."),
]
_KEYS = ("settlement_authority", "fee_payer")


def load_settings(**given: Any) -> Settings:
    """The settings of this process, with a readable message when one is wrong."""
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        fail(f"{name}: {first['msg']}")
    configure_logging(settings.log_level, settings.log_format)
    return settings


def operator_settings(
    data_dir: Path | None, *, as_json: bool, database_needed: bool = True
) -> Settings:
    """The settings, completed from a running one-machine service where they name no database."""
    given = {} if data_dir is None else {"data_dir": data_dir}
    settings = load_settings(**given)
    if settings.database_url is not None:
        return settings
    local = settings.data_dir / "local.json"
    try:
        facts: dict[str, str] = json.loads(local.read_text())
        found: dict[str, Any] = {"database_url": facts["databaseUrl"]}
        if not settings.solana_rpc_url:
            found["solana_rpc_url"] = facts["rpcUrl"]
        if "solana_network" not in settings.model_fields_set:
            found["solana_network"] = facts["network"]
        if settings.admin_token is None and facts["adminToken"]:
            found["admin_token"] = facts["adminToken"]
    except FileNotFoundError:
        if not database_needed:
            return settings
        fail(
            f"no database: set DATABASE_URL, or start `session-ledger serve` ({local} is missing; "
            "--data-dir names another directory)",
            as_json=as_json,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{local} cannot be read: {type(error).__name__}", as_json=as_json)
    return load_settings(**given, **found, **_kept_keys(settings))


def _kept_keys(settings: Settings) -> dict[str, str]:
    """What a one-machine service keeps in its data directory, where the settings name nothing."""
    found: dict[str, str] = {}
    for name in _KEYS:
        key = settings.data_dir / "keys" / f"{name.replace('_', '-')}.json"
        if getattr(settings, name) is None and key.exists():
            found[name] = f"file:{key}"
    secrets = settings.data_dir / "session-key-secrets"
    if settings.session_key_secrets is None and secrets.exists():
        found["session_key_secrets"] = secrets.read_text()
    return found
