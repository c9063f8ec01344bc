"""What one process remembers of vouchers whose buyers have not been served yet.

Nothing here is needed for the money: it is in the ledger. Where the memory is lost, such a voucher
is a replay when it comes again, and buys nothing.
"""

from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar
from uuid import uuid4

from session_ledger.seller.errors import InvalidVoucher, LedgerRefused
from session_ledger.seller.verdict import Verdict

T = TypeVar("T")

ENTRIES_MAX: Final = 10_000


class Recent(Generic[T]):
    """The newest entries by key; each is taken once."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries: OrderedDict[bytes, T] = OrderedDict()
        self._max = entries_max

    def put(self, key: bytes, value: T) -> None:
        """Remember, and forget the oldest beyond the bound."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        while len(self._entries) > self._max:
            self._entries.popitem(last=False)

    def take(self, key: bytes) -> T | None:
        """The entry, which is then forgotten."""
        return self._entries.pop(key, None)


class Unserved:
    """Questions without an answer, and vouchers that were accepted but not delivered for."""

    def __init__(self) -> None:
        self._keys: Recent[str] = Recent()
        self._owed: Recent[Verdict] = Recent()

    @contextmanager
    def asking(self, digest: bytes) -> Generator[str]:
        """The Idempotency-Key to ask under.

        A question that got no answer keeps its key, so that asking again gives the ledger's first
        answer and not `replayed`. Only one caller is given a kept key: a second one must not be
        told `accepted` too.
        """
        key = self._keys.take(digest) or str(uuid4())
        try:
            yield key
        except (InvalidVoucher, LedgerRefused):
            raise
        except BaseException:  # a cancelled caller too does not know what the ledger did
            self._keys.put(digest, key)
            raise

    def owe(self, verdict: Verdict) -> None:
        """What an accepted voucher paid for was not delivered; it is served when it comes again."""
        if verdict.valid:
            self._owed.put(verdict.digest, verdict)

    def owed(self, digest: bytes) -> Verdict | None:
        """The verdict that is owed to this voucher, once."""
        return self._owed.take(digest)
