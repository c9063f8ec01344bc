"""One RPC provider that fails and lies in every way of the fault matrix, and pairs of ways.

Each run has a seed, which a failing run prints. The provider misbehaves at random for a while and
is honest afterwards. Always: at most one transfer, `settled` only with it, no expired attempt that
landed, nothing sent that the log did not hold before, and an end within 600 blocks after the
provider is honest again.

With one provider two consistent lies are enough to deceive any bookkeeping (the last test shows
it); a quorum and the on-chain guard are what stands against that.
"""

import itertools
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from fakes import WINDOW, FakeClock, MemoryLedger
from settlement_rig import (
    AMOUNT,
    DESTINATION,
    STREAM,
    FakeWorld,
    Process,
    memory_ledger,
    prepare,
    settlement_of,
)

from service.adapters.solana.shared_reads import SharedReads
from service.domain import events as e
from service.domain import settlement_steps
from service.domain.errors import ChainUnavailable
from service.domain.onchain import (
    AccountsReading,
    ChainHeights,
    Commitment,
    FinalizedTransaction,
    LatestBlockhash,
    RawAccount,
    SignatureStatus,
    Simulation,
)
from service.domain.settlement_plan import SettlementPolicy
from service.domain.units import BlockHeight, Lamports, Slot

SEEDS = int(os.environ.get("FAULT_SEEDS", "1"))
"""Multiplies the runs of each fault; a campaign sets it."""

SINGLE_RUNS, PAIR_RUNS = 40, 4
HONEST_BLOCKS_MAX = 600
FAULTY_LOOKS = 150

FAULTS = (
    "timeout_before",
    "timeout_after",
    "already_processed",
    "send_dropped",
    "lands_late",
    "null_status",
    "other_fork",
    "finalized_lie",
    "fork_dropped",
    "stale_node",
    "last_valid_low",
    "last_valid_high",
    "wrong_genesis",
    "preflight_lie",
    "history_pruned",
    "crash",
)
SYSTEM_PROGRAM = "1" * 32
DECEIVING = {frozenset({"null_status", "history_pruned"})}
"""Pairs that are two consistent lies of the only provider about one transaction."""


class Crash(BaseException):
    """The worker died."""


class FaultyChain:
    """The fake chain behind a provider that strikes with each fault by chance."""

    name = "faulty"

    def __init__(
        self, world: FakeWorld, ledger: MemoryLedger, rng: random.Random, kinds: Sequence[str]
    ) -> None:
        self.fake, self.ledger, self.rng, self.kinds = world.fake, ledger, rng, kinds
        self.unlogged = 0
        self.honest = False
        # Now and then, often, or nearly always: the last is what lets an attempt expire.
        self.chances = {kind: rng.choice((0.1, 0.5, 0.97)) for kind in kinds}
        self.held: list[tuple[int, bytes]] = []

    def strikes(self, kind: str, scale: float = 1.0) -> bool:
        chance = self.chances.get(kind, 0.0) * scale
        return not self.honest and self.rng.random() < chance

    def pass_block(self) -> None:
        """One block; what was held back arrives, a fork may lose."""
        due = [raw for height, raw in self.held if height <= self.fake.tip]
        self.held = [(height, raw) for height, raw in self.held if height > self.fake.tip]
        self.fake.waiting.extend(due)
        self.fake.advance(1)
        if self.strikes("fork_dropped", 0.1):
            self.fake.drop_fork(self.rng.randint(1, 31))

    async def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        if self.strikes("crash", 0.2):
            raise Crash
        if self.strikes("timeout_before"):
            raise ChainUnavailable("no answer")
        result = await method(*args)
        if self.strikes("timeout_after"):
            raise ChainUnavailable("no answer")
        return result

    async def genesis_hash(self) -> str:
        found = await self._call(self.fake.genesis_hash)
        return "another" * 6 if self.strikes("wrong_genesis") else found

    async def latest_blockhash(self) -> LatestBlockhash:
        found: LatestBlockhash = await self._call(self.fake.latest_blockhash)
        for kind, shift in (("last_valid_low", -140), ("last_valid_high", 300)):
            if self.strikes(kind):
                height = BlockHeight(found.last_valid_block_height + shift)
                found = replace(found, last_valid_block_height=height)
        return found

    async def token_account(self, *args: Any) -> Any:
        return await self._call(self.fake.token_account, *args)

    async def accounts(
        self, addresses: Sequence[str], commitment: Commitment, **_: Any
    ) -> AccountsReading:
        reading: AccountsReading = await self._call(self.fake.accounts, addresses, commitment)
        found = zip(addresses, reading.accounts, strict=True)
        return replace(reading, accounts=tuple(raw or self._wallet(a) for a, raw in found))

    def _wallet(self, address: str) -> RawAccount:
        return RawAccount(address, SYSTEM_PROGRAM, Lamports(self.fake.sol.get(address, 0)), b"")

    async def signature_statuses(self, signatures: Sequence[str]) -> list[SignatureStatus]:
        return [await self.signature_status(signature) for signature in signatures]

    async def mint(self, address: str) -> Any:
        return await self._call(self.fake.mint, address)

    async def lamports(self, address: str) -> Any:
        return await self._call(self.fake.lamports, address)

    async def simulate(self, transaction: bytes, **_: Any) -> Simulation:
        found: Simulation = await self._call(self.fake.simulate, transaction)
        if self.strikes("preflight_lie"):
            lies = (
                None,
                "BlockhashNotFound",
                "AlreadyProcessed",
                {"InstructionError": [2, {"Custom": 1}]},
            )
            return replace(found, error=self.rng.choice(lies))
        return found

    async def send(self, transaction: bytes) -> str:
        logged = [x for x in self.ledger.events(STREAM) if isinstance(x, e.AttemptSigned)]
        self.unlogged += transaction not in [event.transaction for event in logged]
        if self.strikes("send_dropped"):
            return "accepted"
        if self.strikes("lands_late"):
            # Arrives so that its block is the last valid one, or the one after that.
            height = self.fake.height_of(transaction) + WINDOW - 1 + self.rng.randint(0, 1)
            self.held.append((height, transaction))
            return "accepted"
        answer: str = await self._call(self.fake.send, transaction)
        return "refused -32002" if self.strikes("already_processed") else answer

    async def signature_status(self, signature: str) -> SignatureStatus:
        found: SignatureStatus = await self._call(self.fake.signature_status, signature)
        if self.strikes("null_status") or self.strikes("history_pruned"):
            return SignatureStatus(None, None, None, found.context_slot)
        if self.strikes("other_fork"):
            level = self.rng.choice(("processed", "confirmed"))
            return SignatureStatus(level, found.context_slot, None, found.context_slot)
        if self.strikes("finalized_lie"):
            error = self.rng.choice((None, {"InstructionError": [2, {"Custom": 1}]}))
            return SignatureStatus("finalized", found.context_slot, error, found.context_slot)
        return found

    async def heights(self) -> ChainHeights:
        found: ChainHeights = await self._call(self.fake.heights)
        if self.strikes("stale_node"):
            shift = self.rng.randint(-150, 20)
            found = ChainHeights(
                BlockHeight(found.tip + shift),
                BlockHeight(found.finalized + shift),
                Slot(found.finalized_slot + shift),
                found.first_available_slot,
            )
        if "history_pruned" in self.kinds and not self.honest:
            return replace(found, first_available_slot=found.finalized_slot)
        return found

    async def finalized_transaction(self, signature: str) -> FinalizedTransaction | None:
        found = await self._call(self.fake.finalized_transaction, signature)
        return None if self.strikes("history_pruned") else found


async def play(kinds: Sequence[str], seed: int) -> tuple[FaultyChain, MemoryLedger, int]:
    """One settlement under the faults; gives how many blocks it took after they stopped."""
    rng = random.Random(f"{seed}:{','.join(kinds)}")
    world = FakeWorld()
    await prepare(world)
    ledger, clock = memory_ledger(), FakeClock()
    chain = FaultyChain(world, ledger, rng, kinds)
    policy = SettlementPolicy(backoff_min_millis=5_000, backoff_max_millis=30_000)
    # Every other run reads as the service is wired.
    reads: Any = SharedReads(cast("Any", chain)) if seed % 2 else chain
    worker = Process(ledger, reads, clock, policy)
    settler = worker.start()
    looks = honest_blocks = 0
    while True:
        looks += 1
        chain.honest = looks > FAULTY_LOOKS
        try:
            at = await settler.advance(STREAM)
        except Crash:
            at, settler = clock.now(), worker.start()
        settlement = await settlement_of(ledger)
        if settlement.status in ("settled", "failed", "abandoned"):
            return chain, ledger, honest_blocks
        if at is None:
            if chain.honest:
                return chain, ledger, honest_blocks
            at = clock.now() + 1_000
            event = e.SettlementResumed(clock.now(), settlement.settlement_id, "operator")
            await ledger.record(STREAM, lambda _, event=event: [event])
        if at > clock.time:
            for _ in range(rng.randint(1, 8)):
                chain.pass_block()
                honest_blocks += chain.honest
            clock.forward_to(at)
        if honest_blocks > HONEST_BLOCKS_MAX:
            return chain, ledger, honest_blocks


async def violations(kinds: Sequence[str], seed: int) -> list[str]:
    """What the checker finds wrong with one run."""
    chain, ledger, blocks = await play(kinds, seed)
    chain.honest = True
    for _ in range(2 * WINDOW):  # whatever is still on its way arrives or expires
        chain.pass_block()
    settlement = await settlement_of(ledger)
    transfers = [item for item in chain.fake.landed if item.changes]
    moved = sum(item.changes[DESTINATION] for item in transfers)
    problems = []
    if len(transfers) > 1 or moved not in (0, AMOUNT):
        problems.append(f"{len(transfers)} transfers moved {moved}")
    if (settlement.status == "settled") != (moved == AMOUNT):
        problems.append(f"{settlement.status}, but {moved} moved")
    signatures = {item.signature for item in transfers}
    if any(a.signature in signatures for a in settlement.attempts if a.state == "expired"):
        problems.append("an attempt that was proven dead has landed")
    if chain.unlogged:
        problems.append(f"{chain.unlogged} sends of bytes that the log does not hold")
    if settlement.status not in ("settled", "parked"):
        problems.append(f"still {settlement.status} after {blocks} honest blocks")
    return [f"seed {seed}, {'+'.join(kinds)}: {problem}" for problem in problems]


async def campaign(faults: Sequence[Sequence[str]], runs: int) -> list[str]:
    found: list[str] = []
    for kinds in faults:
        for seed in range(runs * SEEDS):
            found += await violations(kinds, seed)
    return found


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_single_fault_never_pays_twice_and_ends(kind: str) -> None:
    print(f"{kind}: seeds 0 to {SINGLE_RUNS * SEEDS - 1}")
    assert await campaign([(kind,)], SINGLE_RUNS) == []


@pytest.mark.campaign
@pytest.mark.parametrize("first", FAULTS[:-1])
async def test_pairs_of_faults_never_pay_twice_and_end(first: str) -> None:
    later = FAULTS[FAULTS.index(first) + 1 :]
    pairs = [pair for pair in itertools.product([first], later) if frozenset(pair) not in DECEIVING]
    print(f"{first} with {len(pairs)} others: seeds 0 to {PAIR_RUNS * SEEDS - 1}")
    assert await campaign(pairs, PAIR_RUNS) == []


async def test_the_matrix_reaches_expiry_and_second_attempts() -> None:
    """Otherwise it would say nothing about the proof of death."""
    attempts = [
        len((await settlement_of((await play(["lands_late", "send_dropped"], seed))[1])).attempts)
        for seed in range(40)
    ]
    assert sum(count > 1 for count in attempts) >= 5, attempts


# --- negative controls: a checker that cannot fail is no evidence ---------------------------


async def first_violation(kinds: Sequence[str], seeds: int = 60) -> str:
    for seed in range(seeds):
        if found := await violations(kinds, seed):
            return found[0]
    return ""


async def test_rebuilding_on_a_timeout_pays_twice_and_the_checker_sees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rebuild(case: Any, attempt: Any, _status: Any) -> settlement_steps.Step:
        settlement_id = case.settlement.settlement_id
        return settlement_steps.Record(
            e.AttemptExpired(case.now, settlement_id, attempt.number, {})
        )

    monkeypatch.setattr(settlement_steps, "_unseen", rebuild)
    found = await first_violation(["lands_late"])
    assert "2 transfers" in found or "has landed" in found, found


async def test_believing_a_lone_null_pays_twice_and_the_checker_sees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without asking for the transaction itself, one lie at the right moment is enough."""
    honest = settlement_steps._unseen

    def believing(case: Any, attempt: Any, status: Any) -> settlement_steps.Step:
        seen = replace(case.seen, fetched="nothing")
        return honest(replace(case, seen=seen), attempt, status)

    monkeypatch.setattr(settlement_steps, "_unseen", believing)
    found = await first_violation(["null_status"])
    assert "transfers" in found or "has landed" in found, found


async def test_two_consistent_lies_of_the_only_provider_do_deceive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lying = FaultyChain.heights

    async def without_admitting(self: FaultyChain) -> ChainHeights:
        return replace(await lying(self), first_available_slot=Slot(0))

    monkeypatch.setattr(FaultyChain, "heights", without_admitting)
    found = await first_violation(["null_status", "history_pruned"])
    assert "transfers" in found or "has landed" in found, found
