"""What the sponsor's rules say of a transaction's wire bytes, and strangers who would profit."""

import pytest
from charge_rig import CLAIM, POLICY, keypair

from service.adapters.solana.parsing import parse_transaction
from service.domain.errors import SponsorshipRefused
from service.domain.refusals import REFUSALS
from service.domain.sponsorship import (
    SponsoredTransfer,
    SponsorPolicy,
    TransferClaim,
    check_sponsored,
)

THIEF = str(keypair("thief").pubkey())
OTHER_MINT = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"


def judged(
    raw: bytes, claim: TransferClaim = CLAIM, policy: SponsorPolicy = POLICY
) -> SponsoredTransfer:
    return check_sponsored(parse_transaction(raw), claim, policy)


def refused(
    raw: bytes, claim: TransferClaim = CLAIM, policy: SponsorPolicy = POLICY
) -> tuple[str, str]:
    with pytest.raises(SponsorshipRefused) as refusal:
        judged(raw, claim, policy)
    assert refusal.value.reason in REFUSALS
    return refusal.value.reason, refusal.value.detail
