"""Vouchers signed for buyers: one durable append each, no read of the database once warm.

The same request again gives the same bytes; whoever asks for a total that does not rise is refused
with the last one, so that a client can go on.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import orjson

from service.application.commit import Ledger, Outcome
from service.application.session_keys import OpenedKey, SessionKeys
from service.application.streams import Stream, session_stream_of
from service.domain.errors import (
    ChannelClosed,
    ChannelNotFound,
    SessionKeyUnavailable,
    WrongPosition,
)
from service.domain.events import SessionEvent, VoucherSigned
from service.domain.session import Session, SignedVoucher
from service.domain.signing import sign_next
from service.domain.units import AtomicUsdc, UnixMillis
from service.ports import EventStore
from session_ledger.challenge import CHANNEL_PROGRAM
from session_ledger.json_text import JsonValue
from session_ledger.voucher import message_bytes

REMEMBERED_MAX: Final = 50_000
SIGN_ROUNDS: Final = 5
"""Each is several lost races; somebody's voucher went through with every one of them."""


@dataclass(frozen=True, slots=True)
class VoucherRequest:
    """What a buyer wants signed; `amount` is the total of the session so far."""

    channel_id: str
    amount: AtomicUsdc
    meter: str
    units: str
    server_nonce: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A session and the voucher that was signed for it."""

    session: Session
    voucher: SignedVoucher
    signer: str


class BuyersChannels:
    """Where a buyer's session is, by its channel id. The answer never changes, so it is kept."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._known: OrderedDict[str, Stream[Session]] = OrderedDict()

    async def stream(self, channel_id: str) -> Stream[Session]:
        """The session's stream.

        Raises:
            ChannelNotFound: no buyer opened a session under this id.
        """
        known = self._known.get(channel_id)
        if known is not None:
            return known
        stream_id = (await self._store.buyers_sessions([channel_id])).get(channel_id)
        if stream_id is None:
            raise ChannelNotFound(f"no session was opened here as channel {channel_id!r}")
        stream = self._known[channel_id] = session_stream_of(stream_id)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return stream


class SignVoucher:
    """One for one process."""

    def __init__(
        self, *, ledger: Ledger, channels: BuyersChannels, keys: SessionKeys, chain_id: str
    ) -> None:
        self._ledger = ledger
        self._channels = channels
        self._keys = keys
        self._chain_id = chain_id

    async def sign(self, request: VoucherRequest, now: UnixMillis) -> Signed:
        """Sign the next voucher. Durable on return.

        Raises:
            ChannelNotFound, ChannelClosed, ChannelExpired, FundingRevoked: nothing is signed there.
            AmountNotRising, DepositExceeded: not over this total.
            SessionKeyUnavailable: the key cannot be opened.
        """
        stream = await self._channels.stream(request.channel_id)
        key = await self._key(stream)

        def decide(session: Session | None) -> list[SessionEvent]:
            assert session is not None
            if session.session_pubkey != key.pubkey:
                raise SessionKeyUnavailable(
                    "the session's key is not the one that it was opened with"
                )
            return sign_next(
                session,
                request.amount,
                lambda sequence: self._signed(session, request, sequence, key, now),
                now,
            )

        try:
            outcome = await self._committed(stream, decide)
        except ChannelClosed:
            self._keys.drop(stream.stream_id)
            raise
        assert outcome.state is not None
        assert outcome.state.signed is not None
        return Signed(outcome.state, outcome.state.signed, key.pubkey)

    async def _committed(
        self, stream: Stream[Session], decide: Callable[[Session | None], list[SessionEvent]]
    ) -> Outcome[Session]:
        """Buyers race themselves, in several processes, and the reference does not try again."""
        for _ in range(SIGN_ROUNDS - 1):
            with suppress(WrongPosition):
                return await self._ledger.commit(stream, decide)
        return await self._ledger.commit(stream, decide)

    async def _key(self, stream: Stream[Session]) -> OpenedKey:
        try:
            return await self._keys.opened(stream.stream_id)
        except SessionKeyUnavailable:
            held = await self._ledger.read(stream)
            if held is not None and held.state is not None and held.state.state != "open":
                raise ChannelClosed(
                    f"the session is {held.state.state} and signs no further voucher"
                ) from None
            raise

    def _signed(
        self,
        session: Session,
        request: VoucherRequest,
        sequence: int,
        key: OpenedKey,
        now: UnixMillis,
    ) -> VoucherSigned:
        """The voucher of a sequence number. Spec: the reference SDK, `SessionVoucher`."""
        terms = session.terms
        voucher: dict[str, JsonValue] = {
            "channelId": terms.channel_id,
            "payer": terms.payer,
            "recipient": terms.recipient,
            "cumulativeAmount": str(request.amount),
            "meter": request.meter,
            "units": request.units,
            "serverNonce": request.server_nonce,
            "chainId": self._chain_id,
            "channelProgram": CHANNEL_PROGRAM,
            "sequence": sequence,
        }
        message = message_bytes(voucher)
        return VoucherSigned(
            at=now,
            cumulative_amount=request.amount,
            sequence=sequence,
            voucher=orjson.dumps(voucher).decode(),
            signature=key.key.sign(message).signature,
            message_hash=hashlib.sha256(message).digest(),
        )
