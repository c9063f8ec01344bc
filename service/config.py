"""Configuration: the environment, parsed once into one typed object.

`session-ledger doctor` prints it with secrets hidden. docs/configuration.md is made from the
descriptions here.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

NetworkName = Literal["localnet", "devnet", "mainnet-beta"]


class Settings(BaseSettings):
    """Every setting of the service. Names in the environment are the names here in capitals."""

    model_config = SettingsConfigDict(env_file=None, extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(
        default=None, description="Postgres 15 or newer. Without it the service runs its own."
    )
    database_pool_size: int = Field(default=8, ge=1, le=100, description="Connections for reads.")
    synchronous_commit: Literal["on", "remote_apply", "remote_write", "local", "off"] = Field(
        default="on",
        description="What COMMIT waits for. `off` and `local` lose acknowledged vouchers in a "
        "crash; they exist for the negative control of the crash tests, on localnet only.",
    )
    data_dir: Path = Field(
        default=Path(".session-ledger"), description="Where a one-machine run keeps everything."
    )
    solana_network: NetworkName = Field(
        default="localnet", description="The cluster this ledger is for."
    )
    solana_rpc_url: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="RPC addresses, comma-separated. Without one: the local chain (localnet).",
    )
    admin_token: SecretStr | None = Field(
        default=None, min_length=16, description="Bearer token of the operators' routes."
    )
    fee_payer: SecretStr | None = Field(
        default=None,
        description="Who pays transaction fees: file:PATH, env:NAME, vault:..., aws-kms:..., "
        "gcp-kms:... Defaults to SETTLEMENT_AUTHORITY.",
    )
    settlement_authority: SecretStr | None = Field(
        default=None, description="The delegate that buyers approve; same forms as FEE_PAYER."
    )
    settlement_guard: Literal["off"] = Field(
        default="off", description="The on-chain once-only guard; not available yet."
    )
    create_recipient_ata: bool = Field(
        default=False,
        description="Create a recipient's missing token account, at the fee payer's cost.",
    )
    compute_unit_limit: int = Field(
        default=60_000, ge=1_000, le=1_400_000, description="Per settlement."
    )
    compute_unit_price: int = Field(
        default=1_000,
        ge=0,
        le=10_000_000,
        description="Priority fee, micro-lamports per compute unit.",
    )
    settlement_poll_seconds: float = Field(
        default=1.0, gt=0, le=60, description="Between looks at a settlement in flight."
    )
    settlement_resend_seconds: float = Field(
        default=2.0, gt=0, le=60, description="Between sends of the same bytes."
    )
    run_worker: bool = Field(
        default=True, description="Whether `serve` also settles; off where `worker` runs beside it."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe line that is written."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="A JSON object per line, or text for people."
    )
    docs_routes: bool = Field(
        default=True, description="Whether /docs and /openapi.json are served."
    )
    local_chain_slot_seconds: float = Field(
        default=0.05, ge=0.01, le=10, description="Slot time of the local chain; 0.4 is faithful."
    )

    @field_validator("solana_rpc_url", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("synchronous_commit")
    @classmethod
    def _durable(cls, value: str, info: object) -> str:
        data: dict[str, object] = getattr(info, "data", {})
        if value in ("off", "local") and data.get("solana_network", "localnet") != "localnet":
            raise ValueError("only localnet may run without durable commits")
        return value
