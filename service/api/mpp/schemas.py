"""Requests of the buyers' wire, as OpenAPI describes them. Nothing here runs on a request.

Spec: the reference SDK @dexterai/mpp 0.5.0 and its documentation; docs/buyers.md.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.api.mpp.answers import TEXT_CHARS_MAX
from service.api.schemas import AMOUNT_PATTERN
from service.domain.limits import (
    CHANNEL_ID_CHARS_MAX,
    IDLE_TIMEOUT_SECONDS_MAX,
    METER_CHARS_MAX,
)

WALLET = "9vMJfxuKxXBoEa7rM12mYLMwTacLMLDJqHozw96WQL8i"
_SELLER = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
_CHANNEL = "5f0c5a0e-5a57-4a39-9b6c-1f1f4a1f0001"
_BASE58 = r"^[1-9A-HJ-NP-Za-km-z]{32,44}$"


def absent_not_null(schema: dict[str, Any]) -> None:
    """A member without a value is left out; only a required one may be null."""
    members = schema.get("properties", {})
    for name in set(members) - set(schema.get("required", ())):
        member = members[name]
        member.pop("default", None)
        kept = [choice for choice in member.get("anyOf", ()) if choice != {"type": "null"}]
        if len(kept) == 1:
            del member["anyOf"]
            members[name] = {**kept[0], **member}


class WireRequest(BaseModel):
    """A request's body. Members that are not named here are ignored, null counts as absent."""

    model_config = ConfigDict(json_schema_extra=absent_not_null)


def _wallet(description: str, example: str = WALLET) -> Any:
    return Field(pattern=_BASE58, description=description, examples=[example])


def _amount(example: str = "1000000", description: str | None = None) -> Any:
    return Field(pattern=AMOUNT_PATTERN, description=description, examples=[example])


def _some_amount(description: str, example: str = "1000000") -> Any:
    return Field(None, pattern=AMOUNT_PATTERN, description=description, examples=[example])


def _network() -> Any:
    return Field(
        None,
        max_length=TEXT_CHARS_MAX,
        description="This service's network; another one is refused.",
        examples=["localnet"],
    )


class OpenSession(WireRequest):
    """Terms of a session. The documentation's `wallet`, `swig_address`, `seller` and `deposit` are
    read as well."""

    buyer_wallet: str = _wallet("Who pays.")
    seller_wallet: str = _wallet("Who is paid.", _SELLER)
    deposit_atomic: str = _amount(description="The most that its vouchers may come to, above 0.")
    buyer_swig_address: str | None = Field(
        None,
        pattern=_BASE58,
        description="What pays: a Swig wallet, or the buyer's wallet or token account. What the "
        "wallet onboarded with where it is left out.",
    )
    network: str | None = _network()
    idle_timeout_seconds: int | None = Field(
        None,
        ge=1,
        le=IDLE_TIMEOUT_SECONDS_MAX,
        description="The session closes by itself this long after its last voucher.",
    )
    metadata: dict[str, Any] | None = Field(None, description="At most 2 KiB of JSON; not kept.")


class SignVoucher(WireRequest):
    """The next total of a session. `channelId`, `cumulative_amount` and `server_nonce` are read as
    well."""

    channel_id: str = Field(min_length=1, max_length=CHANNEL_ID_CHARS_MAX, examples=[_CHANNEL])
    amount: str = _amount("10000", "Everything owed so far, this request included.")
    serverNonce: str = Field(max_length=128, examples=["n-1"])  # noqa: N815  the wire's spelling
    meter: str | None = Field(None, max_length=METER_CHARS_MAX, description="`request` otherwise.")
    units: str | None = Field(None, pattern=r"^([1-9][0-9]*)?$", description="`1` otherwise.")


class CloseSession(WireRequest):
    """The session to close. `channelId` is read as well."""

    channel_id: str = Field(min_length=1, max_length=CHANNEL_ID_CHARS_MAX, examples=[_CHANNEL])


class PreparePayment(WireRequest):
    """Nothing needs to be said."""

    network: str | None = _network()


class SettlePayment(WireRequest):
    """A transfer that the buyer signed, and what it is said to pay."""

    transaction: str = Field(min_length=1, description="Wire bytes as base64.", examples=["AQ=="])
    recipient: str = _wallet("Who is paid.", _SELLER)
    amount: str = _amount("10000")
    asset: str = _wallet("The mint.")
    network: str = Field(min_length=1, max_length=TEXT_CHARS_MAX, examples=["localnet"])


class OnboardWallet(WireRequest):
    """What the wallet allows. `wallet` and `spend_limit` are read as well."""

    buyer_wallet: str = _wallet("The wallet that SIGN-IN-WITH-X proves.")
    spend_limit_atomic: str | None = _some_amount("Above 0; the wallet's balance otherwise.")
    grant_id: str | None = Field(
        None,
        max_length=TEXT_CHARS_MAX,
        description="Instead of a limit: a session grant of the wallet's. The limit is what its "
        "grants still allow and what it owes, exactly; one that allows more is lowered.",
    )
    ttl_seconds: int | None = Field(
        None, ge=1, description="The permission ends after this; this service sees to it."
    )
    recipients: list[str] | None = Field(
        None,
        max_length=32,
        description="Wallets that may be paid; anybody where it is empty, the earlier choice where "
        "it is left out.",
    )
    network: str | None = _network()


class ConfirmOnboarding(WireRequest):
    """What the wallet signed. `wallet` and `transactions` are read as well."""

    buyer_wallet: str = _wallet("The wallet that SIGN-IN-WITH-X proves.")
    signed_transactions: list[str] = Field(
        max_length=8, description="The issued transactions, signed, as base64, in their order."
    )
