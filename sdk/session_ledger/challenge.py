"""The 402 challenge: what a seller asks of a client that sent no voucher.

Spec: the reference SDK's `getChallenge`, with `chainId` (CAIP-2) and `serverNonce` beside it.
"""

import hashlib
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from session_ledger.ecmascript import UNDEFINED, member
from session_ledger.encoding import base58_encode
from session_ledger.json_text import JsonValue

CHALLENGE_TYPE: Final = "mpp-session"
CHANNEL_PROGRAM: Final = "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB"
"""Address of the Swig program, in whose wallets buyers hold their deposits."""

DEPOSIT_PRICES: Final = 100
"""A deposit of this many prices is suggested unless the seller says otherwise."""

_CHAIN_REFERENCE_CHARS: Final = 32  # CAIP-2 cuts the genesis hash to this
_AMOUNT: Final = re.compile(r"(?:0|[1-9][0-9]{0,39})\Z", re.ASCII)
_U64_MAX: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Network:
    """A Solana cluster: its genesis hash (base58) and the address of USDC on it (6 decimals)."""

    name: str
    genesis_hash: str
    usdc_mint: str

    @property
    def chain_id(self) -> str:
        """The CAIP-2 id, which holds the start of the genesis hash."""
        return f"solana:{self.genesis_hash[:_CHAIN_REFERENCE_CHARS]}"


_USDC_MAINNET: Final = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
_USDC_DEVNET: Final = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
_LOCALNET_GENESIS: Final = hashlib.sha256(b"session-ledger localnet genesis").digest()

NETWORKS: Final = MappingProxyType(
    {
        network.name: network
        for network in (
            Network("mainnet-beta", "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d", _USDC_MAINNET),
            Network("devnet", "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG", _USDC_DEVNET),
            Network("localnet", base58_encode(_LOCALNET_GENESIS), _USDC_DEVNET),
        )
    }
)
"""The known networks by name. The local chain holds the mint at both public addresses."""


class ChallengeError(ValueError):
    """The value is not a challenge that this client can pay."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What one seller charges, in atomic USDC, and where a voucher for it must point."""

    recipient: str
    network: str
    chain_id: str
    price_per_unit: int
    meter: str
    suggested_deposit: int
    channel_program: str = CHANNEL_PROGRAM
    server_nonce: str | None = None

    @classmethod
    def of(
        cls,
        *,
        recipient: str,
        network: str,
        price_per_unit: int,
        meter: str = "request",
        suggested_deposit: int | None = None,
        server_nonce: str | None = None,
    ) -> Self:
        """The challenge of a seller; the deposit defaults to `DEPOSIT_PRICES` prices.

        Raises:
            ChallengeError: the network is not one of `NETWORKS`.
        """
        if (known := NETWORKS.get(network)) is None:
            raise ChallengeError(f"network must be one of {', '.join(NETWORKS)}")
        if suggested_deposit is None:
            suggested_deposit = price_per_unit * DEPOSIT_PRICES
        return cls(
            recipient=recipient,
            network=network,
            chain_id=known.chain_id,
            price_per_unit=price_per_unit,
            meter=meter,
            suggested_deposit=suggested_deposit,
            server_nonce=server_nonce,
        )

    def to_json(self) -> dict[str, JsonValue]:
        """The object that goes into the body of a 402. Amounts are decimal strings."""
        body: dict[str, JsonValue] = {
            "type": CHALLENGE_TYPE,
            "recipient": self.recipient,
            "network": self.network,
            "pricePerUnit": str(self.price_per_unit),
            "meter": self.meter,
            "suggestedDeposit": str(self.suggested_deposit),
            "channelProgram": self.channel_program,
            "chainId": self.chain_id,
        }
        if self.server_nonce is not None:
            body["serverNonce"] = self.server_nonce
        return body


def parse_challenge(value: JsonValue) -> Challenge:
    """The challenge in an answer's body. A reference server sends no `chainId`: then it follows
    from the network's name.

    Raises:
        ChallengeError: a member is missing or malformed, or network and chain id disagree.
    """
    if member(value, "type") != CHALLENGE_TYPE:
        raise ChallengeError(f"type must be {CHALLENGE_TYPE}")
    network = _string(value, "network")
    known = NETWORKS.get(network)
    chain_id = _optional_string(value, "chainId") or (known and known.chain_id)
    if not chain_id or (known and chain_id != known.chain_id):
        raise ChallengeError("chainId must be the CAIP-2 id of the network")
    price = _amount(value, "pricePerUnit")
    if price > _U64_MAX:
        raise ChallengeError("pricePerUnit must be at most 2^64-1")
    return Challenge(
        recipient=_string(value, "recipient"),
        network=network,
        chain_id=chain_id,
        price_per_unit=price,
        meter=_string(value, "meter"),
        suggested_deposit=_amount(value, "suggestedDeposit"),
        channel_program=_string(value, "channelProgram"),
        server_nonce=_optional_string(value, "serverNonce"),
    )


def _string(value: JsonValue, name: str) -> str:
    text = member(value, name)
    if isinstance(text, str) and text.strip():
        return text
    raise ChallengeError(f"{name} must be a string that is not blank")


def _optional_string(value: JsonValue, name: str) -> str | None:
    given = member(value, name)
    return None if given is None or given is UNDEFINED else _string(value, name)


def _amount(value: JsonValue, name: str) -> int:
    text = member(value, name)
    if isinstance(text, str) and _AMOUNT.match(text):
        return int(text)
    raise ChallengeError(f"{name} must be a string of digits without a leading 0")
