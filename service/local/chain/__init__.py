"""A Solana chain on this machine: JSON-RPC over LiteSVM, for demos, tests and development.

Read `bank.py` first (the chain), then `rpc.py` (requests), the `*_methods.py` files, `server.py`.
"""

from service.local.chain.genesis import (
    FIRST_SLOT,
    GENESIS_HASHES,
    LOCALNET_GENESIS_HASH,
    USDC_DECIMALS,
    USDC_DEVNET_MINT,
    USDC_MAINNET_MINT,
    usdc_authority,
)
from service.local.chain.server import LocalChain, run_forever
from service.local.chain.settings import (
    FAITHFUL_SLOT_SECONDS,
    LocalChainError,
    LocalChainSettings,
)

__all__ = [
    "FAITHFUL_SLOT_SECONDS",
    "FIRST_SLOT",
    "GENESIS_HASHES",
    "LOCALNET_GENESIS_HASH",
    "USDC_DECIMALS",
    "USDC_DEVNET_MINT",
    "USDC_MAINNET_MINT",
    "LocalChain",
    "LocalChainError",
    "LocalChainSettings",
    "run_forever",
    "usdc_authority",
]
