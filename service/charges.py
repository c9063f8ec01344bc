"""Wires the one-shot payments, as `bootstrap` does the rest."""

from dataclasses import dataclass, replace

from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.payments import PostgresPaymentStore, PostgresTallies
from service.adapters.solana.parsing import parse_transaction
from service.adapters.system import SystemClock
from service.application.commit import Ledger
from service.application.facilitate import Facilitate
from service.application.settle_session import SettleSession
from service.application.settlement_terms import SettlementTerms
from service.application.sponsor_payment import Lookups, SponsorPayment, SponsorTerms
from service.config import Settings
from service.domain.health import USDC_DECIMALS
from service.domain.sponsorship import SponsorPolicy, exact_policy
from service.ports import Chain, PaymentStore, Queries, Signer, Tallies
from session_ledger.challenge import NETWORKS


@dataclass(frozen=True, slots=True)
class Charges:
    """What the charge routes and the facilitator need."""

    sponsor: SponsorPayment
    facilitate: Facilitate
    payments: PaymentStore
    tallies: Tallies


def wired_charges(
    settings: Settings,
    how: SettlementTerms,
    *,
    ledger: Ledger,
    store: PostgresEventStore,
    queries: Queries,
    tallies: PostgresTallies,
    chain: Chain,
    fee_payer: Signer,
    settle: SettleSession,
) -> Charges:
    """Whose one-shot payments this deployment pays the fees of, and how they are settled."""
    network = NETWORKS[settings.solana_network]
    payments = PostgresPaymentStore(store)
    policy = SponsorPolicy(
        fee_payer=fee_payer.pubkey,
        mint=network.usdc_mint,
        decimals=USDC_DECIMALS,
        token_program=how.token_program,
        token_address=how.token_address,
    )
    terms = SponsorTerms(
        policy=policy,
        network=network.name,
        chain_id=network.chain_id,
        sellers_only=settings.mpp_unregistered_sellers == "refuse",
        per_day=settings.settle_cap_per_day,
        per_seller_per_day=settings.settle_cap_per_seller_per_day,
    )

    def sponsoring(terms: SponsorTerms) -> SponsorPayment:
        return SponsorPayment(
            ledger=ledger,
            chain=chain,
            fee_payer=fee_payer,
            clock=SystemClock(),
            terms=terms,
            lookups=Lookups(
                payments=payments,
                seller_of=queries.seller_of_recipient,
                cluster=queries.cluster,
                parse=parse_transaction,
                advance=settle.advance,
            ),
        )

    exact = replace(terms, policy=exact_policy(policy), dialect="x402")
    facilitate = Facilitate(sponsor=sponsoring(exact), store=store)
    return Charges(sponsoring(terms), facilitate, payments, tallies)
