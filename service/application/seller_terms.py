"""A seller as the hot path needs it: parsed prices and what every voucher must name."""

from dataclasses import dataclass

from service.domain.pricing import PriceBook, parse_price_book
from service.domain.seller import Seller
from service.domain.terms import Terms
from service.domain.voucher import Expected
from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS

USDC_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class SellerTerms:
    """One seller with its current price book.

    `proven_payers_only`: it may not register channels whose payer did not sign for the session key.
    """

    seller: Seller
    book: PriceBook
    expected: Expected
    mint: str
    proven_payers_only: bool = False

    @property
    def seller_id(self) -> str:
        """The seller's id."""
        return self.seller.seller_id

    @classmethod
    def of(cls, seller: Seller, *, proven_payers_only: bool = False) -> "SellerTerms":
        """The terms of a seller, from its latest price book."""
        network = NETWORKS[seller.network]
        return cls(
            seller=seller,
            book=parse_price_book(seller.price_books[-1], version=len(seller.price_books)),
            expected=Expected(
                recipient=seller.recipient,
                chain_id=network.chain_id,
                channel_program=CHANNEL_PROGRAM,
            ),
            mint=network.usdc_mint,
            proven_payers_only=proven_payers_only,
        )

    def session_terms(self, channel_id: str, payer: str) -> Terms:
        """What a channel of this seller is registered with, unless the seller chooses otherwise."""
        return Terms(
            channel_id=channel_id,
            seller_id=self.seller.seller_id,
            payer=payer,
            recipient=self.seller.recipient,
            network=self.seller.network,
            mint=self.mint,
            decimals=USDC_DECIMALS,
            limits=self.seller.limits,
        )
