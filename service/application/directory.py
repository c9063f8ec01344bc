"""Which seller a key belongs to, remembered for a moment.

Every process refuses a revoked key and uses new prices within `REMEMBERED_SECONDS`.
"""

import asyncio
import time
from collections import OrderedDict
from typing import Final

from service.application.commit import Ledger
from service.application.seller_terms import SellerTerms
from service.application.sellers import key_id_of, key_matches
from service.application.streams import seller_stream
from service.domain.errors import SellerNotFound, Unauthorized
from service.ports import Queries

REMEMBERED_SECONDS: Final = 2.0
REMEMBERED_MAX: Final = 10_000


class SellerDirectory:
    """One for one process."""

    def __init__(
        self, ledger: Ledger, queries: Queries, *, proven_payers_only: bool = False
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._proven_payers_only = proven_payers_only
        self._known: OrderedDict[str, tuple[float, SellerTerms]] = OrderedDict()
        self._looking: dict[str, asyncio.Future[SellerTerms]] = {}

    async def authenticate(self, api_key: str) -> SellerTerms:
        """The seller of an API key.

        Raises:
            Unauthorized: the key opens nothing.
        """
        known = self._known.get(api_key)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        # One look-up for all requests that find the same key forgotten at the same moment.
        looking = self._looking.get(api_key)
        if looking is None:
            looking = asyncio.ensure_future(self._look_up(api_key))
            self._looking[api_key] = looking
            looking.add_done_callback(lambda done: self._looked(api_key, done))
        terms = await asyncio.shield(looking)
        self._known[api_key] = (time.monotonic() + REMEMBERED_SECONDS, terms)
        if len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return terms

    def _looked(self, api_key: str, done: asyncio.Future[SellerTerms]) -> None:
        self._looking.pop(api_key, None)
        if not done.cancelled():
            done.exception()  # whoever asked may be gone, and then nobody else retrieves it

    async def seller(self, seller_id: str) -> SellerTerms:
        """A seller by its id, from the database.

        Raises:
            SellerNotFound: no such seller.
        """
        held = await self._ledger.read(seller_stream(seller_id))
        if held is None or held.state is None:
            raise SellerNotFound(f"no seller {seller_id!r}")
        return SellerTerms.of(held.state, proven_payers_only=self._proven_payers_only)

    async def _look_up(self, api_key: str) -> SellerTerms:
        key_id = key_id_of(api_key)
        seller_id = await self._queries.seller_of_key(key_id) if key_id else None
        if key_id and seller_id:
            terms = await self.seller(seller_id)
            if key_matches(terms.seller, key_id, api_key):
                return terms
        raise Unauthorized("the key opens nothing; it may have been revoked")
