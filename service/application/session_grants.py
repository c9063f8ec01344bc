"""Session grants: registering one that its owner signed, ending it, and what the chain enforces.

What a grant pays for is decided where vouchers are accepted; see `submit_voucher.py`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from service.application.commit import Ledger, Outcome
from service.application.streams import GRANT, funding_stream, grant_stream, wallet_stream
from service.domain import grants as rules
from service.domain.errors import (
    ChainUnavailable,
    FundingSourceRefused,
    InvalidAmount,
    InvalidWallet,
)
from service.domain.funding import SourceRef
from service.domain.grant_errors import (
    GrantDetails,
    GrantEntrypointNotAllowed,
    GrantExpired,
    GrantInvalid,
    GrantNotFound,
    GrantRefused,
    GrantSignatureInvalid,
)
from service.domain.grant_events import GrantEvent, GrantTerms
from service.domain.grants import MILLIS, SKEW_MILLIS, Grant
from service.domain.limits import U64_MAX
from service.domain.terms import FundingKind, Terms
from service.domain.units import AtomicUsdc, UnixMillis
from service.ports import FundingSource, GrantStore, Outstanding
from session_ledger import grant as wire
from session_ledger.challenge import Network
from session_ledger.json_text import JsonValue

CHAIN_SECONDS: Final = 3
"""Longest wait for the chain: whether it enforces a grant is worth no more."""
_REFUSALS: Final[Mapping[wire.GrantErrorCode, type[GrantRefused]]] = {
    "grant_invalid": GrantInvalid,
    "grant_entrypoint_not_allowed": GrantEntrypointNotAllowed,
    "grant_signature_invalid": GrantSignatureInvalid,
}


@dataclass(frozen=True, slots=True)
class GrantPolicy:
    """What grants this deployment takes: for its own network and mint, and for how long."""

    network: Network
    life_seconds_max: int


@dataclass(frozen=True, slots=True)
class GrantPage:
    """An owner's grants and the cursor behind the last, if there may be more."""

    grants: list[Grant]
    next_cursor: str | None


class SessionGrants:
    """What owners, and the sellers who were told an id, may ask. One for one process."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: GrantStore,
        funding: Mapping[FundingKind, FundingSource],
        policy: GrantPolicy,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._funding = funding
        self._policy = policy

    async def register(
        self, value: JsonValue, signature: str, previous: str | None, now: UnixMillis
    ) -> Outcome[Grant]:
        """Register a grant; the same bytes again are no event.

        Raises:
            GrantRefused: malformed, not signed by its owner, expired, or not for this service;
                or `previous` is no grant of this owner.
        """
        try:
            given = wire.parse_grant(value)
            message = wire.grant_message(given)
            raw = wire.verify_signature(message, signature, given.owner)
        except wire.GrantError as error:
            raise _REFUSALS[error.code](str(error)) from None
        terms = _terms(given, wire.grant_id(message))
        if previous is not None and (await self.show(previous)).terms.owner != terms.owner:
            raise GrantNotFound("the previous grant is another owner's", GrantDetails(previous))
        text = message.removeprefix(wire.GRANT_DOMAIN).decode()

        def decide(grant: Grant | None) -> list[GrantEvent]:
            if grant is None:
                self._check(terms, now)
            return rules.register(grant, terms, text, raw, previous=previous, now=now)

        return await self._ledger.commit(grant_stream(terms.grant_id), decide)

    async def show(self, grant_id: str) -> Grant:
        """The grant as the database has it now.

        Raises:
            GrantNotFound: there is none.
        """
        held = None
        if wire.is_grant_id(grant_id):
            held = await self._ledger.read(grant_stream(grant_id))
        if held is None or held.state is None:
            raise GrantNotFound("no grant has this id")
        return held.state

    async def listed(self, owner: str, *, limit: int, after: str | None) -> GrantPage:
        """A page of an owner's grants, the newest first."""
        rows = await self._store.grants(owner, limit=limit, after=after)
        more = rows[-1].cursor if len(rows) == limit else None
        return GrantPage([GRANT.load(row.projection) for row in rows], more)

    async def revoke(self, grant_id: str, signature: str, signed_at: int, now: UnixMillis) -> Grant:
        """End a grant: what it has paid for stays payable. Ending it again changes nothing.

        Raises:
            GrantNotFound: there is none.
            GrantSignatureInvalid: the owner did not sign this.
        """
        await self.show(grant_id)
        message = wire.revocation_message(grant_id, signed_at)

        def decide(grant: Grant | None) -> list[GrantEvent]:
            if grant is None:
                raise GrantNotFound("no grant has this id")
            try:
                raw = wire.verify_signature(message, signature, grant.terms.owner)
            except wire.GrantError as error:
                raise GrantSignatureInvalid(str(error), GrantDetails(grant_id)) from None
            return rules.revoke(grant, signed_at, raw, now)

        outcome = await self._ledger.commit(grant_stream(grant_id), decide)
        assert outcome.state is not None
        return outcome.state

    async def check_channel(self, session: Terms, now: UnixMillis) -> None:
        """Whether a channel may be registered under the grant that it names. Uses nothing up.

        Raises:
            GrantRefused: the class says why.
        """
        assert session.grant_id is not None
        grant = await self.show(session.grant_id)
        rules.check_channel(grant, session, session.session_pubkey, now)

    async def enforced_by_chain(self, grant: Grant, now: UnixMillis) -> FundingKind | None:
        """By what the chain lets us take no more of the owner's money than the grant still allows
        and owes, read now; `None` when it lets us take more.

        No answer is no: nothing is claimed that was not seen.
        """
        terms = grant.terms
        try:
            async with asyncio.timeout(CHAIN_SECONDS):
                source = await self._source(terms)
                reading = (await self._funding[source.kind].readings([source]))[0]
        except (ChainUnavailable, FundingSourceRefused, InvalidWallet, TimeoutError):
            return None
        if reading.finding is not None or reading.allowance > terms.max_total:
            return None
        outstanding = await self._outstanding(terms, source, now)
        return source.kind if reading.allowance <= outstanding.grant else None

    async def limit_for_chain(self, grant_id: str, owner: str, now: UnixMillis) -> AtomicUsdc:
        """What the chain has to let us take of the owner's money so that it enforces its grants,
        this one among them, and still pays for all that is owed and reserved. The owner asks.

        Raises:
            GrantRefused: there is none of this owner, or it is over.
            InvalidAmount: together it is more than a token program can allow.
        """
        grant = await self.show(grant_id)
        rules.check_mirrored(grant, owner, now)
        found = await self._outstanding(grant.terms, await self._source(grant.terms), now)
        if found.wallet > U64_MAX:
            raise InvalidAmount("the wallet's grants allow more together than the chain can limit")
        return AtomicUsdc(found.wallet)

    async def _outstanding(
        self, terms: GrantTerms, source: SourceRef, now: UnixMillis
    ) -> Outstanding:
        held = await self._ledger.read(funding_stream(source.token_account))
        reservations = None if held is None else held.state
        return await self._store.outstanding(
            terms.owner,
            terms.grant_id,
            account=source.token_account,
            reserved=[] if reservations is None else [one.stream_id for one in reservations.open],
            now=now,
        )

    async def _source(self, terms: GrantTerms) -> SourceRef:
        """Where the owner's money comes from: as it onboarded, or its own token account."""
        wallet = await self._ledger.read(wallet_stream(terms.owner))
        if wallet is None or wallet.state is None or (seen := wallet.state.onboarded) is None:
            return await self._funding["delegate"].locate(terms.owner, None, terms.mint)
        return SourceRef(
            kind=seen.kind,
            token_account=seen.source,
            owner=seen.owner,
            mint=terms.mint,
            swig_address=seen.swig_address,
            swig_role_id=seen.role_id,
        )

    def _check(self, terms: GrantTerms, now: UnixMillis) -> None:
        network, longest = self._policy.network, self._policy.life_seconds_max
        details = GrantDetails(terms.grant_id)
        if terms.network != network.name:
            raise GrantInvalid(f"cluster must be {network.name} here", details)
        if terms.mint != network.usdc_mint:
            raise GrantInvalid(f"mint must be {network.usdc_mint} here", details)
        if terms.valid_until - terms.valid_from > longest:
            raise GrantInvalid(f"a grant may be valid for at most {longest} seconds here", details)
        if now > terms.valid_until * MILLIS + SKEW_MILLIS:
            raise GrantExpired(f"the grant was valid until {terms.valid_until}", details)


def _terms(given: wire.Grant, grant_id: str) -> GrantTerms:
    window = given.window
    return GrantTerms(
        grant_id=grant_id,
        owner=given.owner,
        session_pubkey=given.session_public_key,
        network=given.cluster,
        mint=given.mint,
        recipients=given.allowed_recipients,
        max_payment=AtomicUsdc(given.max_payment_amount),
        max_calls=given.max_calls,
        max_total=AtomicUsdc(given.max_total_amount),
        window_seconds=None if window is None else window.seconds,
        window_max=None if window is None else AtomicUsdc(window.max_amount),
        valid_from=given.valid_from,
        valid_until=given.valid_until,
        owner_may_sign=given.fallback is not None,
        label=given.label,
    )
