"""Who enforces a grant beside us: the chain, only where it was seen to allow no more."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from service.application import session_grants
from service.application.session_grants import GrantPolicy, SessionGrants
from service.domain.errors import ChainUnavailable, FundingSourceRefused, InvalidWallet
from service.domain.failures import Finding
from service.domain.funding import FundingReading, SourceRef
from service.domain.onboarding import Wallet
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc, Slot, UnixMillis
from service.domain.wallet_events import WalletOnboarded
from service.ports import Outstanding
from session_ledger.challenge import NETWORKS
from tests.unit.test_grant_rules import TERMS, granted

TOTAL = TERMS.max_total
SWIG = WalletOnboarded(
    at=UnixMillis(1),
    kind="swig",
    source="swig's account",
    owner="swig's own address",
    swig_address="swig",
    role_id=4,
    spend_limit=AtomicUsdc(TOTAL),
    expires_at=None,
    recipients=(),
    signatures=(),
    slot=Slot(1),
    proof={},
)


def reading(allowance: int, finding: str | None = None) -> FundingReading:
    found = None if finding is None else Finding(finding, "seen")
    return FundingReading(AtomicUsdc(1_000), AtomicUsdc(allowance), Slot(9), found)


@dataclass
class Funding:
    """A kind of funding source as the chain shows it; an error is raised, `None` never answers."""

    shows: FundingReading | Exception | None
    asked: list[SourceRef] = field(default_factory=list[SourceRef])

    async def locate(self, payer: str, swig_address: str | None, mint: str) -> SourceRef:
        if isinstance(self.shows, FundingSourceRefused | InvalidWallet):
            raise self.shows
        return SourceRef("delegate", f"{payer}'s account", payer, mint, swig_address)

    async def readings(self, refs: Sequence[SourceRef]) -> list[FundingReading]:
        self.asked += refs
        if self.shows is None:
            await asyncio.Event().wait()
        if isinstance(self.shows, Exception):
            raise self.shows
        assert self.shows is not None
        return [self.shows]


@dataclass
class Wallets:
    """The streams of wallets, of nobody or of one that has onboarded; nothing is reserved."""

    onboarded: WalletOnboarded | None = None

    async def read(self, stream: Any) -> Any:
        if self.onboarded is None or not stream.stream_id.startswith("wallet/"):
            return None
        return SimpleNamespace(state=Wallet(onboarded=self.onboarded))


@dataclass
class Owed:
    """What the database says may still be taken under the grant."""

    grant: int

    async def outstanding(self, owner: str, grant_id: str, **_: Any) -> Outstanding:
        assert (owner, grant_id) == (TERMS.owner, TERMS.grant_id)
        return Outstanding(wallet=10 * TOTAL, grant=self.grant)


async def enforced(
    delegate: Funding, swig: Funding, wallets: Wallets | None = None, left: int = TOTAL
) -> FundingKind | None:
    grants = SessionGrants(
        ledger=wallets or Wallets(),  # type: ignore[arg-type]
        store=Owed(left),  # type: ignore[arg-type]
        funding={"delegate": delegate, "swig": swig},  # type: ignore[dict-item]
        policy=GrantPolicy(NETWORKS["localnet"], 3_600),
    )
    return await grants.enforced_by_chain(granted(), UnixMillis(1))


UNASKED = Funding(AssertionError("not asked for"))


@pytest.mark.parametrize(
    ("shows", "left", "kind"),
    [
        (reading(TOTAL), TOTAL, "delegate"),
        (reading(TOTAL - 1), TOTAL, "delegate"),
        (reading(TOTAL - 1), TOTAL - 1, "delegate"),
        (reading(TOTAL - 1), TOTAL - 2, None),
        (reading(TOTAL + 1), TOTAL, None),
        (reading(TOTAL + 1), TOTAL + 1, None),
        (reading(TOTAL, "delegation_missing"), TOTAL, None),
        (reading(0, "delegation_missing"), TOTAL, None),
        (ChainUnavailable("away"), TOTAL, None),
        (FundingSourceRefused("not theirs"), TOTAL, None),
        (InvalidWallet("no address"), TOTAL, None),
    ],
)
async def test_the_chain_enforces_what_it_was_seen_to_allow_and_nothing_else(
    shows: Any, left: int, kind: FundingKind | None
) -> None:
    assert await enforced(Funding(shows), UNASKED, left=left) == kind


async def test_a_chain_that_never_answers_enforces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_grants, "CHAIN_SECONDS", 0)
    async with asyncio.timeout(5):
        assert await enforced(Funding(None), UNASKED) is None


@pytest.mark.parametrize(("allowance", "kind"), [(TOTAL, "swig"), (TOTAL + 1, None)])
async def test_an_onboarded_swig_wallet_is_asked_for_its_own_role(
    allowance: int, kind: FundingKind | None
) -> None:
    swig = Funding(reading(allowance))
    assert await enforced(UNASKED, swig, Wallets(SWIG)) == kind
    wanted = SourceRef("swig", "swig's account", "swig's own address", TERMS.mint, "swig", 4)
    assert swig.asked == [wanted]
