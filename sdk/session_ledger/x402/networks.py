"""The many names of Solana's clusters. Spec: CAIP-2, and x402 v1's own names."""

from types import MappingProxyType
from typing import Final

from session_ledger.challenge import NETWORKS, Network

_V1_NAMES: Final = MappingProxyType(
    {"mainnet-beta": "solana", "devnet": "solana-devnet", "localnet": "solana-localnet"}
)
_ALIASES: Final = MappingProxyType(
    {
        "mainnet-beta": ("mainnet", "solana-mainnet", "solana-mainnet-beta"),
        "devnet": (),
        "localnet": (),
    }
)


def v1_name(network: Network) -> str:
    """The name in x402 v1: `solana`, `solana-devnet`, and by the same rule `solana-localnet`."""
    return _V1_NAMES[network.name]


def caip2(network: Network) -> str:
    """The CAIP-2 id, as x402 v2 has it."""
    return network.chain_id


def network_of(name: str) -> Network | None:
    """The network that goes by the name, in any dialect. Case counts."""
    return _BY_NAME.get(name)


_BY_NAME: Final = MappingProxyType(
    {
        name: network
        for network in NETWORKS.values()
        for name in (network.name, v1_name(network), caip2(network), *_ALIASES[network.name])
    }
)
