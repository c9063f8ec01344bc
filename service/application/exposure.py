"""What is promised and not settled, by buyer or by seller, against what the chain would pay now."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.application.settlement_terms import SettlementTerms
from service.domain.errors import ChainUnavailable, FundingSourceUnknown
from service.domain.funding import FundingReading, SourceRef
from service.domain.limits import EXPOSURE_SOURCES_MAX
from service.domain.terms import FundingKind
from service.domain.units import Slot
from service.ports import (
    ExposureBy,
    ExposureRow,
    ExposureStore,
    FundingSource,
    SourceName,
    Unsettled,
)

READ_SECONDS: Final = 5.0
"""How long a page waits for the chain before it goes without."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One row, with what its sources can pay now and the oldest slot at which they were read."""

    row: ExposureRow
    available: int | None
    slot: Slot | None

    @property
    def headroom(self) -> int | None:
        """What is left beyond what is owed, in atomic units; negative when it is not covered."""
        return None if self.available is None else self.available - self.row.held.unsettled


@dataclass(frozen=True, slots=True)
class ExposurePage:
    """A page by name. `total` is of all pages and comes with the first."""

    rows: tuple[Exposure, ...]
    total: Unsettled | None
    next_name: str | None


async def exposure_page(
    store: ExposureStore,
    funding: Mapping[FundingKind, FundingSource],
    how: SettlementTerms,
    *,
    by: ExposureBy,
    seller_id: str | None,
    limit: int,
    after: str | None,
) -> ExposurePage:
    """What is not settled, of all sellers or of one.

    Raises:
        DatabaseUnavailable: the database does not answer; a chain that does not is no error.
    """
    rows = await store.exposures(
        by, seller_id=seller_id, limit=limit, after=after, sources=EXPOSURE_SOURCES_MAX
    )
    total = await store.total(seller_id=seller_id) if after is None else None
    known = _affordable(rows, how)
    readings = await _read(funding, {source for sources in known.values() for source in sources})
    return ExposurePage(
        rows=tuple(_exposure(row, known.get(row.name, frozenset()), readings) for row in rows),
        total=total,
        next_name=rows[-1].name if len(rows) == limit else None,
    )


def _affordable(
    rows: Sequence[ExposureRow], how: SettlementTerms
) -> dict[str, frozenset[SourceRef]]:
    """The sources of each row, as far as a page may read."""
    left = EXPOSURE_SOURCES_MAX
    found: dict[str, frozenset[SourceRef]] = {}
    for row in rows:
        sources = frozenset(s for name in row.sources if (s := _source(name, how)) is not None)
        if not row.more_sources and len(sources) <= left:
            found[row.name] = sources
            left -= len(sources)
    return found


def _source(name: SourceName, how: SettlementTerms) -> SourceRef | None:
    try:
        return how.source(
            payer=name.payer,
            mint=name.mint,
            swig_address=name.swig_address,
            swig_role_id=name.swig_role_id,
            token_account=name.token_account,
        )
    except FundingSourceUnknown:
        return None


async def _read(
    funding: Mapping[FundingKind, FundingSource], sources: set[SourceRef]
) -> dict[SourceRef, FundingReading]:
    """What the chain says of the sources; of those of a kind nothing, when it does not answer."""
    found: dict[SourceRef, FundingReading] = {}
    for kind, port in funding.items():
        refs = [source for source in sources if source.kind == kind]
        if not refs:
            continue
        try:
            async with asyncio.timeout(READ_SECONDS):
                found |= zip(refs, await port.readings(refs), strict=True)
        except (ChainUnavailable, TimeoutError):
            continue
    return found


def _exposure(
    row: ExposureRow,
    sources: frozenset[SourceRef],
    readings: Mapping[SourceRef, FundingReading],
) -> Exposure:
    """An account that two roles can reach is counted once, by the role that may take more."""
    if not sources or not sources <= readings.keys():
        return Exposure(row, None, None)
    accounts: dict[str, int] = {}
    for source in sources:
        available = readings[source].available
        accounts[source.token_account] = max(available, accounts.get(source.token_account, 0))
    slot = min(readings[source].slot for source in sources)
    return Exposure(row, sum(accounts.values()), slot)
