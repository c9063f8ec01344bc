"""Who owns a wallet: the SIGN-IN-WITH-X header, checked, and its nonce bound to the wallet.

One header serves a whole onboarding, so its nonce may come again with the same wallet; another
wallet that shows the same nonce is refused.
"""

import hashlib
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from service.domain.errors import ClaimTaken, SignInInvalid, SignInRequired
from service.domain.units import UnixMillis
from service.ports import Append, Claim, EventStore
from session_ledger.sign_in import SignIn, SignInError, parse_header, verify

SIGN_IN_SCOPE: Final = "sign-in"
_MILLIS: Final = 1_000


async def check_proof(
    store: EventStore,
    header: str | None,
    *,
    wallet: str,
    domains: Collection[str],
    chain_references: Collection[str],
    now: UnixMillis,
) -> SignIn:
    """The sign-in by which the owner of `wallet` proved itself; see `sign_in.verify`.

    Raises:
        SignInRequired: there is no header.
        SignInInvalid: it proves nothing for this wallet, or its nonce is another wallet's.
    """
    if not header:
        raise SignInRequired("send the header SIGN-IN-WITH-X, signed by the wallet")
    try:
        sign_in = parse_header(header)
        verify(
            sign_in,
            wallet=wallet,
            domains=domains,
            chain_references=chain_references,
            now_seconds=now // _MILLIS,
        )
    except SignInError as error:
        raise SignInInvalid(f"SIGN-IN-WITH-X: {error.reason}") from None
    await _bind(store, sign_in.nonce, wallet)
    return sign_in


def proof_json(sign_in: SignIn) -> dict[str, str]:
    """What the log keeps of a proof."""
    return {
        "address": sign_in.address,
        "domain": sign_in.domain,
        "nonce": sign_in.nonce,
        "issuedAt": sign_in.issued_at,
    }


async def _bind(store: EventStore, nonce: str, wallet: str) -> None:
    ours = Claim(SIGN_IN_SCOPE, nonce, hashlib.sha256(wallet.encode()).digest())
    found = await store.claim(SIGN_IN_SCOPE, nonce)
    if found is None:
        with suppress(ClaimTaken):
            await store.append(Append((), (ours,)))
            found = ours
    found = found or await store.claim(SIGN_IN_SCOPE, nonce)
    if found is None or found.request_hash != ours.request_hash:
        raise SignInInvalid("SIGN-IN-WITH-X: the nonce was used by another wallet")
