"""What exists before the first transaction: cluster identities, the USDC mints, the faucet."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from solders.account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.token.state import Mint
from spl.token.constants import TOKEN_PROGRAM_ID

from service.local.chain.settings import LocalChainError
from session_ledger.encoding import base58_encode

LOCALNET_GENESIS_HASH: Final = base58_encode(sha256(b"session-ledger localnet genesis").digest())

GENESIS_HASHES: Final[Mapping[str, str]] = {
    "localnet": LOCALNET_GENESIS_HASH,
    "devnet": "EtWTRABZaYq6iMfeYKouRu166VU2xqa1wcaWoxPkrZBG",
    "mainnet-beta": "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d",
}

USDC_MAINNET_MINT: Final = Pubkey.from_string("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v")
USDC_DEVNET_MINT: Final = Pubkey.from_string("4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU")
USDC_DECIMALS: Final = 6

FIRST_SLOT: Final = 435_888_000
"""The genesis slot. The features and programs that LiteSVM carries are those of this slot."""

SKIPPED_SLOTS: Final = 21_888_000
"""Slots without a block before the genesis slot, so that a block height is never a slot."""

SLOTS_PER_EPOCH: Final = 432_000

_MINT_SUPPLY: Final = 10**16
"""Atomic units each USDC mint starts with (ten billion USDC), in nobody's account."""

_MINT_LAMPORTS: Final = 1_461_600
_FAUCET_LAMPORTS: Final = 500_000_000 * 10**9


def genesis_hash(network: str) -> str:
    """The base58 genesis hash of the cluster that `network` names.

    Raises:
        LocalChainError: the name is not one of `GENESIS_HASHES`.
    """
    try:
        return GENESIS_HASHES[network]
    except KeyError:
        raise LocalChainError(
            f"unknown network {network!r}; use one of {', '.join(GENESIS_HASHES)}"
        ) from None


def faucet() -> Keypair:
    """The key that pays airdrops."""
    return Keypair.from_seed(sha256(b"session-ledger local chain faucet").digest())


def usdc_authority() -> Keypair:
    """The mint and freeze authority of the preloaded USDC mints, so that tests can use both."""
    return Keypair.from_seed(sha256(b"session-ledger local chain usdc authority").digest())


def genesis_accounts() -> dict[Pubkey, Account]:
    """The accounts that a new chain starts with, beside LiteSVM's programs and sysvars."""
    authority = usdc_authority().pubkey()
    mint = bytes(Mint(authority, _MINT_SUPPLY, USDC_DECIMALS, True, authority))
    mint_account = Account(_MINT_LAMPORTS, mint, TOKEN_PROGRAM_ID)
    return {
        USDC_MAINNET_MINT: mint_account,
        USDC_DEVNET_MINT: mint_account,
        faucet().pubkey(): Account(_FAUCET_LAMPORTS, b"", SYSTEM_PROGRAM_ID),
    }
