"""What `session-ledger doctor` judges: facts of a deployment in, checks with a remedy out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from service.domain.onchain import Mint
from service.domain.settlement_plan import FEE_PAYER_RENT
from service.domain.units import Lamports, UnixMillis

Level = Literal["ok", "warning", "failed"]

POSTGRES_LEAST: Final = 150_000
"""Postgres 15, as `server_version_num` says it."""
CLOCK_WARNING_MILLIS: Final = 2_000
CLOCK_FAILED_MILLIS: Final = 60_000
LATE_MINUTES: Final[Mapping[str, int]] = {"intended": 2, "signed": 5, "in_flight": 5}
"""A settlement that is longer on its way wants attention. Spec: settlement safety, alerts."""
USDC_DECIMALS: Final = 6
WEAK_OPEN_PROOF: Final = (
    "MPP_OPEN_PROOF=onboarded: whoever knows a wallet that has onboarded can open a session out of "
    "it, and is kept from paying itself only by the recipients that the wallet named"
)
"""Said at the start and by `doctor` on mainnet-beta."""
WEAK_BINDING: Final = (
    "PAYMENT_BINDING=optional: a payment without a memo buys whatever its signature is shown for "
    "first, by anybody who has seen it on the chain"
)
"""The same for direct payments."""
_TRIGGERS: Final = ("events_append_only", "events_no_truncate")
_ALWAYS: Final = "A"
_RISKY_COMMITS: Final = frozenset({"off", "local"})
_MINUTE_MILLIS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `remedy` says what to do unless it is ok."""

    name: str
    level: Level
    detail: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What a database says of itself, asked as the service works with it.

    `may_change_log` lists what the role may do to the log beside reading and appending.
    `next_transaction` is the id that the next transaction takes, `newest_transaction` the highest
    in the log. `triggers` maps a name to Postgres' letter for when it fires.
    """

    version: int
    fsync: str
    full_page_writes: str
    role: str
    may_change_log: tuple[str, ...]
    triggers: Mapping[str, str]
    newest_transaction: int
    next_transaction: int
    now: UnixMillis


def judge_schema(revision: str | None, newest: str) -> Check:
    """Whether the migrations were applied."""
    if revision == newest:
        return Check("schema", "ok", f"revision {revision}")
    return Check(
        "schema",
        "failed",
        f"revision {revision or 'none'}, this version needs {newest}",
        "Run `session-ledger migrate`.",
    )


def judge_database(
    facts: DatabaseFacts, *, synchronous_commit: str, application_role: str, now: UnixMillis
) -> list[Check]:
    """Version, durability, who may change the log, the feed's order, the clock."""
    checks = [_version(facts), _durability(facts, synchronous_commit)]
    if facts.role == application_role and not facts.may_change_log:
        checks.append(Check("role", "ok", f"{facts.role} may only read and append the log"))
    else:
        may = ", ".join(facts.may_change_log) or "nothing more"
        checks.append(
            Check(
                "role",
                "failed",
                f"the service works as {facts.role}, who may also do this to the log: {may}",
                f"Create the role {application_role} and grant it to the service's login; "
                "see docs/runbook.md.",
            )
        )
    off = [name for name in _TRIGGERS if facts.triggers.get(name) != _ALWAYS]
    checks.append(
        Check(
            "triggers",
            "failed",
            f"not always enabled: {', '.join(off)}",
            "ALTER TABLE events ENABLE ALWAYS TRIGGER ...; then `session-ledger replay`.",
        )
        if off
        else Check("triggers", "ok", "UPDATE, DELETE and TRUNCATE of the log are refused")
    )
    return [*checks, _feed(facts), _clock(facts, now)]


def judge_genesis(provider: str, found: str, expected: str, network: str) -> Check:
    """Whether an RPC provider serves the network."""
    name = f"rpc {provider}"
    if found == expected:
        return Check(name, "ok", f"serves {network}")
    return Check(
        name,
        "failed",
        f"its genesis hash is {found}, {network} has {expected}",
        "Correct SOLANA_RPC_URL or SOLANA_NETWORK.",
    )


def judge_mint(mint: Mint | None, address: str, token_program: str) -> Check:
    """Whether the token is the one that amounts are counted in."""
    if mint is None:
        detail = f"there is no mint at {address}"
    elif mint.decimals != USDC_DECIMALS:
        detail = f"{address} has {mint.decimals} decimals, {USDC_DECIMALS} are expected"
    elif mint.program != token_program or mint.extensions:
        detail = f"{address} is not a plain SPL token"
    else:
        return Check("mint", "ok", f"{address}, {USDC_DECIMALS} decimals")
    return Check("mint", "failed", detail, "Correct SOLANA_RPC_URL or SOLANA_NETWORK.")


def judge_runway(address: str, lamports: Lamports, fee: Lamports, *, least: int) -> Check:
    """For how many settlements the fee payer's balance lasts; `fee` is of one."""
    left = max(0, lamports - FEE_PAYER_RENT) // fee
    detail = f"{lamports} lamports last for {left} settlements of {fee} lamports"
    if left >= least:
        return Check("fee payer balance", "ok", detail)
    level: Level = "warning" if left else "failed"
    return Check("fee payer balance", level, detail, f"Send SOL to {address}.")


def judge_settlements(open_ones: Sequence[tuple[str, UnixMillis]], now: UnixMillis) -> Check:
    """Settlements that are not terminal, as (status, intended at)."""
    if not open_ones:
        return Check("settlements", "ok", "none is open")
    counts = Counter(status for status, _ in open_ones)
    oldest = (now - min(at for _, at in open_ones)) // _MINUTE_MILLIS
    listed = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    detail = f"{listed}; the oldest is {oldest} min old"
    late = any(
        now - at > LATE_MINUTES[status] * _MINUTE_MILLIS
        for status, at in open_ones
        if status in LATE_MINUTES
    )
    if late or counts["parked"]:
        remedy = "Look at `session-ledger settlement list`; is a worker running?"
        return Check("settlements", "warning", detail, remedy)
    return Check("settlements", "ok", detail)


def judge_open_proof(proof: str, network: str) -> Check:
    """What a buyer has to show to open a session."""
    if proof == "onboarded" and network == "mainnet-beta":
        remedy = "Set MPP_OPEN_PROOF=required, unless buyers come with the unmodified SDK."
        return Check("open proof", "warning", WEAK_OPEN_PROOF, remedy)
    return Check("open proof", "ok", f"{proof}, on {network}")


def judge_binding(binding: str, network: str) -> Check:
    """What a direct payment has to show of its purpose."""
    if binding == "optional" and network == "mainnet-beta":
        remedy = "Set PAYMENT_BINDING=required; buyers then put `extra.memo` into the transaction."
        return Check("payment binding", "warning", WEAK_BINDING, remedy)
    return Check("payment binding", "ok", f"{binding}, on {network}")


def judge_session_keys(configured: int, unknown: Mapping[str, int]) -> Check:
    """Whether buyers' sessions can be opened and signed for.

    `configured` is how many secrets there are; `unknown` are ids of others, with the number of
    session keys that each seals.
    """
    if unknown:
        listed = ", ".join(f"{count} by {key_id}" for key_id, count in sorted(unknown.items()))
        return Check(
            "session keys",
            "failed",
            f"session keys are sealed by secrets that are not configured: {listed}",
            "Put the missing secrets back into SESSION_KEY_SECRETS, behind the newest.",
        )
    if configured == 0:
        remedy = "Set SESSION_KEY_SECRETS to 32 random bytes as base64, if buyers open sessions."
        return Check("session keys", "warning", "no secret seals them", remedy)
    return Check("session keys", "ok", f"{configured} secrets are configured")


def judge_revoked(sessions: int) -> Check:
    """Open sessions whose payers took back what they had granted."""
    if sessions == 0:
        return Check("funding", "ok", "no open session's funding is revoked")
    remedy = "Their sellers should close them: vouchers are refused, what is owed may not be paid."
    return Check("funding", "warning", f"revoked for {sessions} open sessions", remedy)


def judge_cover(headrooms: Sequence[int | None]) -> Check:
    """What is promised against what could be paid now, as the headroom of each buyer."""
    short = [headroom for headroom in headrooms if headroom is not None and headroom < 0]
    unread = sum(headroom is None for headroom in headrooms)
    read = f"of {len(headrooms)} buyers" + (f", {unread} of them not read" if unread else "")
    if not short:
        return Check("headroom", "ok", f"the promises {read} are covered")
    return Check(
        "headroom",
        "warning",
        f"{len(short)} {read} promised {-sum(short)} atomic units more than they can pay now",
        "See GET /v1/exposure; closing early settles what can still be paid.",
    )


def _version(facts: DatabaseFacts) -> Check:
    major = facts.version // 10_000
    if facts.version >= POSTGRES_LEAST:
        return Check("version", "ok", f"Postgres {major}")
    return Check("version", "failed", f"Postgres {major}", "Use Postgres 15 or newer.")


def _durability(facts: DatabaseFacts, synchronous_commit: str) -> Check:
    found = {
        "fsync": facts.fsync,
        "full_page_writes": facts.full_page_writes,
        "synchronous_commit": synchronous_commit,
    }
    detail = ", ".join(f"{name} {value}" for name, value in found.items())
    if facts.fsync == facts.full_page_writes == "on" and synchronous_commit not in _RISKY_COMMITS:
        return Check("durability", "ok", detail)
    remedy = "Turn all of them on: a crash would lose vouchers that were acknowledged."
    return Check("durability", "failed", detail, remedy)


def _feed(facts: DatabaseFacts) -> Check:
    if facts.newest_transaction < facts.next_transaction:
        return Check("feed", "ok", "every event of the log is within reach of the feed")
    return Check(
        "feed",
        "failed",
        f"the log holds transaction {facts.newest_transaction}, this cluster is at "
        f"{facts.next_transaction}: the feed withholds events",
        "The log was restored into another cluster; see docs/runbook.md, restore.",
    )


def _clock(facts: DatabaseFacts, now: UnixMillis) -> Check:
    apart = abs(facts.now - now)
    detail = f"{apart} ms apart from the database's"
    if apart < CLOCK_WARNING_MILLIS:
        return Check("clock", "ok", detail)
    level: Level = "failed" if apart >= CLOCK_FAILED_MILLIS else "warning"
    return Check("clock", level, detail, "Synchronise the clocks of both machines (NTP).")
