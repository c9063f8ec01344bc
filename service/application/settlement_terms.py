"""How this deployment settles, and whose money a session may be settled with."""

from collections.abc import Callable
from dataclasses import dataclass

from service.domain.errors import FundingSourceUnknown, InvalidRequest
from service.domain.funding import SourceRef
from service.domain.session import Session
from service.domain.units import parse_pubkey

TokenAddress = Callable[[str, str], str]
"""(owner, mint) to the owner's associated token account."""


@dataclass(frozen=True, slots=True)
class SettlementTerms:
    """How this deployment settles: with which key, over which program, on which chain.

    `swig_wallet` gives, from a Swig account, the address of its wallet, which owns its tokens.
    """

    authority: str
    token_program: str
    chain_id: str
    token_address: TokenAddress
    swig_wallet: Callable[[str], str]

    def source_of(self, session: Session, named: str | None = None) -> SourceRef:
        """The account that pays for the session: the one named, the registered one, or the payer's
        own. Whichever it is, it must belong to the payer: nobody pays another's vouchers.

        Raises:
            FundingSourceUnknown: the payer is not a Solana address, so it owns no account.
        """
        terms = session.terms
        return self.source(
            payer=terms.payer,
            mint=terms.mint,
            swig_address=terms.swig_address,
            swig_role_id=terms.swig_role_id,
            token_account=named or session.source_token_account,
        )

    def source(
        self,
        *,
        payer: str,
        mint: str,
        swig_address: str | None,
        swig_role_id: int | None,
        token_account: str | None,
    ) -> SourceRef:
        """The source of a payer, by the parts that a session has of it.

        Raises:
            FundingSourceUnknown: the payer is not a Solana address, so it owns no account.
        """
        owner = _address(payer) if swig_address is None else self.swig_wallet(swig_address)
        return SourceRef(
            kind="delegate" if swig_address is None else "swig",
            token_account=token_account or self.token_address(owner, mint),
            owner=owner,
            mint=mint,
            swig_address=swig_address,
            swig_role_id=swig_role_id,
        )


def _address(payer: str) -> str:
    try:
        return parse_pubkey(payer, "payer")
    except InvalidRequest:
        raise FundingSourceUnknown(
            "the payer is not a Solana address, so no account of its own can pay"
        ) from None
