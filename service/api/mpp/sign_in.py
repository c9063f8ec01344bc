"""Who is calling on the buyers' routes: the owner of a wallet, by SIGN-IN-WITH-X."""

from typing import Final

from fastapi import Request

from service.application.wallet_proof import check_proof
from service.bootstrap import Services
from service.domain.errors import SignInRequired
from session_ledger.challenge import NETWORKS
from session_ledger.sign_in import SIGN_IN_HEADER, SignIn

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hostnames by which anybody may reach its own machine."""


def sign_in_header(request: Request) -> str:
    """The header's value.

    Raises:
        SignInRequired: there is none.
    """
    header = request.headers.get(SIGN_IN_HEADER)
    if not header:
        raise SignInRequired("send the header SIGN-IN-WITH-X, signed by the buyer's wallet")
    return header


async def signed_in(request: Request, services: Services, wallet: str) -> SignIn:
    """The proof that the caller owns the wallet.

    Raises:
        SignInRequired: no header was sent.
        SignInInvalid: it proves nothing for this wallet and this service.
    """
    return await check_proof(
        services.store,
        sign_in_header(request),
        wallet=wallet,
        domains=LOOPBACK.union(services.settings.public_hosts),
        chain_references=_chain_references(services),
        now=services.clock.now(),
    )


def _chain_references(services: Services) -> frozenset[str]:
    """The chains that a proof may name. The reference knows no local chain and says mainnet."""
    network = services.network
    named = NETWORKS.values() if network.name == "localnet" else (network,)
    return frozenset(each.chain_id.partition(":")[2] for each in named)
