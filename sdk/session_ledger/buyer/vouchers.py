"""Paying with vouchers of a session: one at a time on a channel, each saved before it leaves.

A voucher that nobody has answered for is shown again, with the next request to this seller, before
another one is signed. The seller's answer then says what became of it: it is taken now, or it was
taken before (`replayed`), or it is refused for good.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import httpx

from session_ledger.buyer.book import Book, Channel, Voucher
from session_ledger.buyer.effects import Blocking, Flow, Lane, Notify, Steps, Turn
from session_ledger.buyer.errors import (
    OwnerSignatureRequired,
    PaidWithoutAnswer,
    PaymentRefused,
    PaymentUncertain,
    Refusal,
)
from session_ledger.buyer.issuing import headers_of, info_of, issued
from session_ledger.buyer.offers import Caps, Requirement, refusal_of, requirements_of
from session_ledger.buyer.payment import PaymentInfo
from session_ledger.buyer.presenting import (
    answered,
    fingerprint_of,
    is_refusal,
    present,
    with_headers,
)
from session_ledger.buyer.session import ENDED_BY, Session, Signer
from session_ledger.voucher import RECEIPT_HEADER

_TURNS_MAX: Final = 6
"""Vouchers that one request shows at most; each further one follows a clear answer."""
_CHANNEL_OVER: Final = frozenset(
    {
        "amount_not_monotonic",
        "deposit_exceeded",
        "limit_exceeded",
        "payer_changed",
        "sequence_not_monotonic",
        "session_closed",
        "session_removed",
        "signer_changed_mid_session",
    }
)
"""Refusals after which only another channel can pay."""
_INCONCLUSIVE: Final = frozenset({"funding_revoked", "session_removed", "voucher_expired"})
"""Refusals that come before the amount is looked at: they say nothing of an earlier time."""
_ASKED_ANEW: Final = frozenset({"nonce_unknown", "underpaid"})
"""Refusals that come with a challenge to be met instead."""
_FALLS_BACK: Final = frozenset(
    {"grant_expired", "grant_max_calls_exceeded", "grant_budget_exceeded"}
)

Fallback = Literal["renew", "once"]


@dataclass
class _Purchase:
    """One request, and how far its payment came."""

    request: httpx.Request
    asked: Requirement
    lane: int
    fingerprint: str
    by_owner: bool = False
    fell_back: bool = False
    opened: int = 0
    turns: int = 0


@dataclass(frozen=True, slots=True)
class _Lanes:
    lanes: dict[tuple[str, str, int], Lane] = field(
        default_factory=dict[tuple[str, str, int], Lane]
    )

    def of(self, asked: Requirement, number: int) -> Lane:
        key = (asked.network, asked.recipient, number)
        return self.lanes.setdefault(key, Lane())


class VoucherPayer:
    """Pays `session` requirements out of one book."""

    def __init__(
        self,
        book: Book,
        session: Session,
        caps: Caps,
        *,
        fallback: Fallback,
        channels_per_seller: int,
        on_complete: Callable[[PaymentInfo], Any],
        on_uncertain: Callable[[PaymentInfo], Any] | None,
    ) -> None:
        self._book = book
        self._session = session
        self._caps = caps
        self._fallback: Fallback = fallback
        self._lanes_max = channels_per_seller
        self._on_complete = on_complete
        self._on_uncertain = on_uncertain
        self._lanes = _Lanes()
        self._renewing = Lane()

    def pay(self, request: httpx.Request, asked: Requirement) -> Flow:
        """Pay for the request and give its answer.

        Raises:
            AutoPayError: it was not paid, or not answered.
        """
        fingerprint = fingerprint_of(request)
        number = self._lane_number(asked, fingerprint)
        lane = self._lanes.of(asked, number)
        yield Turn(lane)
        try:
            purchase = _Purchase(request, asked, number, fingerprint)
            while True:
                response = yield from self._turn(purchase)
                if response is not None:
                    return response
        finally:
            lane.leave()

    def pending(self) -> list[PaymentInfo]:
        """The vouchers that no seller has answered for yet."""
        return [
            info_of(channel, channel.under_way)
            for channel in self._book.under_way()[0]
            if channel.under_way is not None
        ]

    def _lane_number(self, asked: Requirement, fingerprint: str) -> int:
        """Where this very request is under way, else where the least is waiting."""
        for channel in self._channels(asked):
            if channel.under_way is not None and channel.under_way.fingerprint == fingerprint:
                return channel.lane
        numbers = range(self._lanes_max)
        return min(numbers, key=lambda number: self._lanes.of(asked, number).load)

    def _turn(self, purchase: _Purchase) -> Steps[httpx.Response | None]:
        """Show one voucher; gives the final answer, or `None` to go on with another voucher."""
        purchase.turns += 1
        channel = self._unanswered(purchase)
        if channel is None:
            used_up = self._session.grant_id  # read first: it may be renewed at any moment
            ended = self._ended(purchase)
            if ended is not None:
                yield from self._fall_back(purchase, ended, used_up)
            channel, voucher = self._signed(purchase)
            yield Blocking(partial(self._book.sign, channel.channel_id, voucher, purchase.asked))
        else:
            assert channel.under_way is not None
            voucher = channel.under_way
        shown_before = voucher.sent
        self._book.sent(channel.channel_id)
        info = info_of(channel, voucher)
        request = with_headers(purchase.request, headers_of(voucher, purchase.fingerprint))
        response, shown_twice = yield from present(request, info, self._on_uncertain)
        if is_refusal(response):
            shown = shown_before or shown_twice
            yield from self._judged(purchase, channel, voucher, response, shown=shown)
            return None
        if answered(response) or RECEIPT_HEADER in response.headers:
            self._book.accepted(channel.channel_id, voucher)
            receipt = response.headers.get(RECEIPT_HEADER)
            yield Notify(self._on_complete, info_of(channel, voucher, receipt))
        else:
            yield Notify(self._on_uncertain, info)
        return response

    def _judged(
        self,
        purchase: _Purchase,
        channel: Channel,
        voucher: Voucher,
        response: httpx.Response,
        *,
        shown: bool,
    ) -> Steps[None]:
        """What a refusal means: returns to go on with another voucher, or raises."""
        refusal = refusal_of(response)
        own = voucher.fingerprint == purchase.fingerprint
        if refusal.replayed or (shown and refusal.code == "amount_not_monotonic"):
            self._book.accepted(channel.channel_id, voucher)
            info = info_of(channel, voucher, _receipt_id(refusal))
            yield Notify(self._on_complete, info)
            if own:
                raise PaidWithoutAnswer(
                    f"{voucher.url} was paid before, and its answer is gone", info
                )
            return
        if shown and refusal.code in _INCONCLUSIVE:
            self._book.retire(channel.channel_id)
            yield Notify(self._on_uncertain, info_of(channel, voucher))
            if own:
                raise PaymentUncertain(
                    f"{refusal.code}: the seller does not say whether it took the payment before",
                    info_of(channel, voucher),
                )
            return
        if refusal.code is None:  # the seller did not look at it, so it stays under way
            raise _refused(purchase.asked, refusal)
        self._book.refused(channel.channel_id)
        if refusal.code in _CHANNEL_OVER:
            self._book.retire(channel.channel_id)
        if purchase.turns >= _TURNS_MAX:
            raise _refused(purchase.asked, refusal)
        if own:
            yield from self._go_on(purchase, channel, refusal, response)

    def _go_on(
        self, purchase: _Purchase, channel: Channel, refusal: Refusal, response: httpx.Response
    ) -> Steps[None]:
        """Prepare for another voucher after this request's own one was refused, or raise."""
        code = refusal.code
        assert code is not None
        if code in ENDED_BY and channel.grant_id == self._session.grant_id:  # not renewed since
            self._session.ended(code)
        if code in _CHANNEL_OVER and not purchase.opened:
            purchase.opened += 1
        elif code in _ASKED_ANEW:
            self._ask_anew(purchase, refusal, response)
        elif code in _FALLS_BACK:
            yield from self._fall_back(purchase, refusal, channel.grant_id)
        else:
            raise _refused(purchase.asked, refusal)

    def _ask_anew(self, purchase: _Purchase, refusal: Refusal, response: httpx.Response) -> None:
        """Meet the challenge that came with the refusal, if it is another one."""
        offers = requirements_of(response, purchase.asked.url, ("session",))
        if not offers or offers[0].recipient != purchase.asked.recipient:
            raise _refused(purchase.asked, refusal)
        fresh = offers[0]
        if refusal.code == "underpaid" and fresh.amount <= purchase.asked.amount:
            raise _refused(purchase.asked, refusal)
        self._caps.check(fresh)
        purchase.asked = fresh

    def _ended(self, purchase: _Purchase) -> Refusal | None:
        """What the ledger would say, when the session is known to be over."""
        if purchase.by_owner:
            return None
        match self._session.state:
            case "expired":
                return Refusal("grant_expired", "the grant's time is over")
            case "exhausted":
                return Refusal(self._session.ended_by, "the grant is used up")
            case "revoked":
                raise _refused(purchase.asked, Refusal("grant_revoked", "the owner revoked it"))
            case _:
                return None

    def _fall_back(self, purchase: _Purchase, refusal: Refusal, used_up: str | None) -> Steps[None]:
        """The owner's signature, once for a request: a fresh grant, or this one voucher."""
        code, session = refusal.code or "", self._session
        if session.owner is None:
            raise OwnerSignatureRequired(
                f"{code}: pass owner_signer=, or register a new grant", purchase.asked, code
            )
        if purchase.fell_back:
            raise _refused(purchase.asked, refusal)
        purchase.fell_back = True
        if self._fallback == "renew":
            yield Turn(self._renewing)
            try:
                if session.grant_id == used_up:  # else another request has renewed it meanwhile
                    yield Blocking(session.renew)
            finally:
                self._renewing.leave()
        elif session.owner_may_sign:
            purchase.by_owner = True
        else:
            raise _refused(purchase.asked, refusal)

    def _unanswered(self, purchase: _Purchase) -> Channel | None:
        """The channel of this lane whose voucher nobody has answered for."""
        for channel in self._channels(purchase.asked):
            if channel.lane == purchase.lane and channel.under_way is not None:
                return channel
        return None

    def _signed(self, purchase: _Purchase) -> tuple[Channel, Voucher]:
        """A new voucher on the lane's channel, which is opened when there is none.

        Raises:
            SessionMissing: there is no session key, or nobody who pays.
        """
        session, owner = self._session, self._session.owner
        if purchase.by_owner and owner is not None:
            signer: Signer = owner
            payer, grant = owner.address, None
        else:
            signer, payer, grant = session.signer, session.payer, session.grant_id
        channel = self._channel(purchase, payer, signer.address, grant)
        return channel, issued(channel, purchase.asked, purchase.fingerprint, signer)

    def _channel(self, purchase: _Purchase, payer: str, signer: str, grant: str | None) -> Channel:
        wanted = (purchase.lane, payer, signer, grant)
        for channel in self._channels(purchase.asked):
            if (channel.lane, channel.payer, channel.signer, channel.grant_id) == wanted:
                return channel
            if (channel.lane, channel.signer) == (purchase.lane, signer):  # of an earlier grant
                self._book.retire(channel.channel_id)
        fresh = Channel(
            channel_id=f"ch_{secrets.token_hex(16)}",
            network=purchase.asked.network,
            recipient=purchase.asked.recipient,
            payer=payer,
            signer=signer,
            grant_id=grant,
            lane=purchase.lane,
        )
        self._book.add(fresh)
        return fresh

    def _channels(self, asked: Requirement) -> list[Channel]:
        return self._book.channels_with(asked.network, asked.recipient)


def _receipt_id(refusal: Refusal) -> str | None:
    match refusal.body:
        case {"receipt": {"eventHash": str(found)}}:
            return found
        case _:
            return None


def _refused(asked: Requirement, refusal: Refusal) -> PaymentRefused:
    said = refusal.code or "nothing about the voucher"
    detail = "" if refusal.detail is None else f" ({refusal.detail})"
    return PaymentRefused(f"the seller says {said}{detail}", asked, refusal)
