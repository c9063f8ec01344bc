"""What a client has signed and what became of it. Saved before a payment leaves.

A channel's `signed` amount only ever rises: whoever has a signature can use it, whatever it said
when it was shown. The cap on the total counts that. `cumulative` is what sellers took.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from threading import Lock
from typing import Any, Final

from session_ledger.buyer.errors import StoreError, TotalExceeded
from session_ledger.buyer.offers import Requirement
from session_ledger.buyer.payment import Dialect
from session_ledger.buyer.store import Store

VERSION: Final = 1
Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Voucher:
    """A signed voucher that no seller has answered for yet. `header` is what is sent."""

    header: str
    cumulative: int
    delta: int
    sequence: int
    fingerprint: str
    url: str
    sent: bool = False


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel with one seller. Amounts are atomic units; `sequence` is the last signed one."""

    channel_id: str
    network: str
    recipient: str
    payer: str
    signer: str
    grant_id: str | None
    lane: int = 0
    cumulative: int = 0
    signed: int = 0
    sequence: int = 0
    under_way: Voucher | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    """A one-shot payment that was signed and that no seller has answered for yet.

    `raw` (base64) is what the buyer itself sends to the chain; without it the seller does.
    """

    key: str
    dialect: Dialect
    recipient: str
    amount: int
    header: str
    signature: str
    fingerprint: str
    url: str
    raw: str | None = None


@dataclass
class _Pages:
    channels: dict[str, Channel] = field(default_factory=dict[str, Channel])
    transactions: dict[str, Transaction] = field(default_factory=dict[str, Transaction])
    past: int = 0
    """Signed on channels and in transactions that are over."""
    count: int = 0
    spent: int = 0
    grant: dict[str, Any] | None = None


class Book:
    """The client's own accounts, shared by threads. What is written before a payment is durable."""

    def __init__(self, store: Store, max_total: int) -> None:
        self._store = store
        self._max_total = max_total
        self._mutex = Lock()
        """Held for moments: an event loop's thread takes it as well."""
        self._saving = Lock()
        """Held while the disk is written, by threads that may wait. Taken before the other."""
        self._pages = _read(store.load())

    @property
    def count(self) -> int:
        """Payments that sellers took."""
        return self._pages.count

    @property
    def spent(self) -> int:
        """What they took, in atomic units."""
        return self._pages.spent

    @property
    def signed(self) -> int:
        """All that was ever signed: what could be taken at most."""
        pages = self._pages
        return (
            pages.past
            + sum(channel.signed for channel in pages.channels.values())
            + sum(each.amount for each in pages.transactions.values())
        )

    @property
    def grant(self) -> dict[str, Any] | None:
        """The session's grant and its signature, if one was registered."""
        return self._pages.grant

    def keep_grant(self, grant: dict[str, Any] | None) -> None:
        """Remember the grant durably."""

        def change() -> Undo:
            before, self._pages.grant = self._pages.grant, grant

            def undo() -> None:
                self._pages.grant = before

            return undo

        self._save(change)

    def channels_with(self, network: str, recipient: str) -> list[Channel]:
        """The channels with one seller, oldest first."""
        with self._mutex:
            every = self._pages.channels.values()
            return [c for c in every if (c.network, c.recipient) == (network, recipient)]

    def channel(self, channel_id: str) -> Channel:
        """One of them as it is now."""
        return self._pages.channels[channel_id]

    def add(self, channel: Channel) -> None:
        """A fresh channel. It is saved with its first voucher."""
        with self._mutex:
            self._pages.channels[channel.channel_id] = channel

    def sign(self, channel_id: str, voucher: Voucher, requirement: Requirement) -> None:
        """Put a voucher under way, durably.

        Raises:
            TotalExceeded: it would pass the cap on all that was ever signed.
            StoreError: it could not be saved; it must not leave.
        """

        def change() -> Undo:
            channels, before = self._pages.channels, self.channel(channel_id)
            rise = max(0, voucher.cumulative - before.signed)
            self._check_total(rise, requirement)
            channels[channel_id] = replace(
                before,
                signed=before.signed + rise,
                sequence=voucher.sequence,
                under_way=voucher,
            )
            return partial(channels.__setitem__, channel_id, before)

        self._save(change)

    def sent(self, channel_id: str) -> None:
        """The voucher under way has left, or may have."""
        with self._mutex:
            channel = self.channel(channel_id)
            if channel.under_way is not None and not channel.under_way.sent:
                under_way = replace(channel.under_way, sent=True)
                self._pages.channels[channel_id] = replace(channel, under_way=under_way)

    def accepted(self, channel_id: str, voucher: Voucher) -> None:
        """A seller took the voucher under way. Saved with the next one: showing this one again
        after a crash costs an answer and no money."""
        with self._mutex:
            channel = self.channel(channel_id)
            self._pages.channels[channel_id] = replace(
                channel, cumulative=voucher.cumulative, under_way=None
            )
            self._count(voucher.delta)

    def refused(self, channel_id: str) -> None:
        """A seller did not take the voucher under way; its signature is out all the same."""
        with self._mutex:
            channel = self.channel(channel_id)
            self._pages.channels[channel_id] = replace(channel, under_way=None)

    def retire(self, channel_id: str) -> None:
        """Use the channel no more."""
        with self._mutex:
            channel = self._pages.channels.pop(channel_id, None)
            if channel is not None:
                self._pages.past += channel.signed

    def transaction(self, key: str) -> Transaction | None:
        """The one-shot payment under way for a resource."""
        return self._pages.transactions.get(key)

    def under_way(self) -> tuple[list[Channel], list[Transaction]]:
        """What no seller has answered for yet."""
        with self._mutex:
            open_channels = [c for c in self._pages.channels.values() if c.under_way is not None]
            return open_channels, list(self._pages.transactions.values())

    def begin(self, transaction: Transaction, requirement: Requirement) -> None:
        """Put a one-shot payment under way, durably.

        Raises:
            TotalExceeded, StoreError: as for `sign`.
        """

        def change() -> Undo:
            self._check_total(transaction.amount, requirement)
            self._pages.transactions[transaction.key] = transaction
            return partial(self._pages.transactions.__delitem__, transaction.key)

        self._save(change)

    def end(self, key: str, *, paid: bool, signed: bool = True) -> None:
        """A one-shot payment bought something, or never will. `signed` says that it still might
        be used by whoever has it, so that the total counts it."""
        with self._mutex:
            transaction = self._pages.transactions.pop(key, None)
            if transaction is None:
                return
            if paid:
                self._count(transaction.amount)
            if paid or signed:
                self._pages.past += transaction.amount

    def save(self) -> None:
        """Write everything now."""
        self._save(lambda: _nothing)

    def close(self) -> None:
        """Write everything and let go of the store."""
        try:
            self.save()
        finally:
            self._store.close()

    def _count(self, amount: int) -> None:
        self._pages.count += 1
        self._pages.spent += amount

    def _check_total(self, rise: int, requirement: Requirement) -> None:
        if self.signed + rise > self._max_total:
            raise TotalExceeded(
                f"{rise} more would pass max_total: {self.signed} of {self._max_total} are signed",
                requirement,
            )

    def _save(self, change: Callable[[], Undo]) -> None:
        """Make a change and write it down; take it back when that fails."""
        with self._saving:
            with self._mutex:
                undo = change()
                text = json.dumps({"v": VERSION, **asdict(self._pages)})
            try:
                self._store.save(text)
            except StoreError:
                with self._mutex:
                    undo()
                raise


def _nothing() -> None:
    """Nothing is to be taken back."""


def _read(text: str | None) -> _Pages:
    if text is None:
        return _Pages()
    try:
        found: dict[str, Any] = json.loads(text)
        if found.pop("v") != VERSION:
            raise StoreError("the client's file is of another version")
        channels = [_channel(each) for each in found.pop("channels").values()]
        transactions = [Transaction(**each) for each in found.pop("transactions").values()]
        return _Pages(
            channels=_by(channels, "channel_id"), transactions=_by(transactions, "key"), **found
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"the client's file is damaged: {error}") from error


def _channel(members: dict[str, Any]) -> Channel:
    under_way: dict[str, Any] | None = members.pop("under_way")
    # What was under way may have left: nobody can say, so it counts as sent.
    voucher = None if under_way is None else replace(Voucher(**under_way), sent=True)
    return Channel(**members, under_way=voucher)


def _by(items: Iterable[Any], name: str) -> dict[str, Any]:
    return {getattr(item, name): item for item in items}
