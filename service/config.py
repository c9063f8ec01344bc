"""Configuration: the environment, parsed once into one typed object.

`session-ledger doctor` prints it with secrets hidden. docs/configuration.md is made from the
descriptions here.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from session_ledger.grant import LIFE_SECONDS_MAX

NetworkName = Literal["localnet", "devnet", "mainnet-beta"]


class ConfigurationError(Exception):
    """A setting is missing or wrong; the message says which and what to do."""


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
    funding_source: Literal["delegate", "swig"] | None = Field(
        default=None,
        description="What buyers are asked to sign at onboarding: an SPL delegation, or a Swig "
        "wallet with a role for our key. `delegate` by default with a local chain, `swig` "
        "elsewhere.",
    )
    onboard_sponsor_fees: bool = Field(
        default=False,
        description="Pay the fees of onboarding for buyers, who then need no SOL: up to 0.00001 "
        "SOL for each one, with no bound on their number. Rent is never paid. On with a local "
        "chain.",
    )
    public_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hostnames, without ports, by which buyers reach the service, "
        "comma-separated: what a SIGN-IN-WITH-X may name. Loopback names always may.",
    )
    settle_cap_per_day: int | None = Field(
        default=None,
        ge=0,
        description="Sponsored one-shot payments in a UTC day. No cap by default.",
    )
    settle_cap_per_seller_per_day: int | None = Field(
        default=None, ge=0, description="The same for each recipient."
    )
    session_key_secrets: SecretStr | None = Field(
        default=None,
        description="What seals the keys that sign buyers' vouchers: 32 random bytes as base64, "
        "several comma-separated, newest first. `session-ledger keys rotate` seals all under the "
        "newest. Without one, buyers cannot open sessions.",
    )
    mpp_open_proof: Literal["required", "onboarded"] | None = Field(
        default=None,
        description="What a buyer's open needs: SIGN-IN-WITH-X by the wallet, or a wallet that has "
        "onboarded, which is all that the unmodified SDK sends. `required` by default on "
        "mainnet-beta, `onboarded` elsewhere.",
    )
    payment_binding: Literal["required", "optional"] | None = Field(
        default=None,
        description="Whether a direct x402 payment must name what it is for, by a memo or a "
        "reference. `optional` also takes one without any memo from whoever names its payer, which "
        "is all that the unmodified test client sends. `required` by default on mainnet-beta, "
        "`optional` elsewhere.",
    )
    payment_commitment: Literal["confirmed", "finalized"] = Field(
        default="confirmed",
        description="The level at which a direct x402 payment counts. What is accepted at "
        "`confirmed` is watched until it is finalized.",
    )
    payment_age_seconds: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="How long ago a direct x402 payment may have landed; `maxTimeoutSeconds` of "
        "the requirements can only shorten it.",
    )
    unproven_payers: Literal["allow", "refuse"] = Field(
        default="allow",
        description="Channels that a seller registers, itself or by their first voucher: nothing "
        "shows that the payer's wallet agreed to the session key. `refuse` takes such a channel "
        "only where the wallet itself signs the vouchers; sessions that buyers open are not "
        "concerned.",
    )
    grant_life_seconds: int = Field(
        default=6 * 3_600,
        ge=60,
        le=LIFE_SECONDS_MAX,
        description="Longest life of a session grant, from `validFrom` to `validUntil`. Sellers' "
        "channels are bounded by grants only where UNPROVEN_PAYERS is `refuse`.",
    )
    mpp_unregistered_sellers: Literal["allow", "refuse"] = Field(
        default="allow",
        description="Whether buyers may pay wallets of sellers who are not registered here. The "
        "close of such a session pays what was signed.",
    )
    run_worker: bool = Field(
        default=True,
        description="Whether `serve` also settles and watches sessions; off where `worker` runs "
        "beside it.",
    )
    watch_seconds: float = Field(
        default=30.0,
        ge=0.1,
        le=86_400,
        description="Between looks at an open session's funding source: how long a revoked one may "
        "go unnoticed. One RPC request reads 100 delegated accounts, or 33 Swig wallets.",
    )
    auto_close_idle_seconds: int | None = Field(
        default=None,
        ge=1,
        description="Close a session this long after its last voucher, where it brings no idle "
        "timeout of its own. Off by default, as all AUTO_CLOSE settings.",
    )
    auto_close_age_seconds: int | None = Field(
        default=None, ge=1, description="Close a session this long after it was opened."
    )
    auto_close_amount: int | None = Field(
        default=None, ge=1, description="Close a session that is owed this much, in atomic units."
    )
    auto_close_headroom: int | None = Field(
        default=None,
        ge=0,
        description="Close a source's sessions when what it can pay, less what they are owed "
        "together, falls below this, in atomic units; 0 when it covers them no longer.",
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

    @field_validator("solana_rpc_url", "public_hosts", mode="before")
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

    @property
    def open_proof(self) -> Literal["required", "onboarded"]:
        """What a buyer's open needs."""
        if self.mpp_open_proof is not None:
            return self.mpp_open_proof
        return "required" if self.solana_network == "mainnet-beta" else "onboarded"

    @property
    def required_binding(self) -> Literal["required", "optional"]:
        """Whether a direct payment must name what it is for."""
        if self.payment_binding is not None:
            return self.payment_binding
        return "required" if self.solana_network == "mainnet-beta" else "optional"

    @property
    def offered_funding(self) -> Literal["delegate", "swig"]:
        """What onboarding offers. `serve` sets it where it runs the chain as well."""
        if self.funding_source is not None:
            return self.funding_source
        return "delegate" if self.solana_network == "localnet" else "swig"


def required_database(settings: Settings) -> str:
    """The database's address.

    Raises:
        ConfigurationError: there is none.
    """
    if settings.database_url is None:
        raise ConfigurationError(
            "set DATABASE_URL, or use `session-ledger serve`, which runs its own"
        )
    return settings.database_url.get_secret_value()
