"""`session-ledger settlement`: look at settlements, and decide about those that wait."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from service.api.rendering import channel_of, moment, settling_json
from service.cli.connection import OpenLedger, run_on_ledger
from service.cli.output import AsJson, show, show_rows
from service.cli.settings import DataDir
from service.domain.errors import SettlementNotFound
from service.domain.events import Event
from service.domain.limits import PAGE_DEFAULT, PAGE_MAX
from service.domain.operations import abandon_settlement, resume_settlement
from service.domain.settlement import Settling
from service.domain.units import UnixMillis
from service.ports import OpenSettlement

app = typer.Typer(
    name="settlement",
    help="Settlements: list, show, retry, abandon; trust a restored database.",
    no_args_is_help=True,
)

SettlementId = Annotated[str, typer.Argument(help="The settlement, such as stl_... .")]
Decide = Callable[[Settling, UnixMillis], list[Event]]
_MILLIS = 1_000


@app.command("list")
def list_settlements(
    status: Annotated[
        Literal["intended", "signed", "in_flight", "settled", "failed", "parked", "abandoned"]
        | None,
        typer.Option(help="Only these; without it all that are not terminal."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_MAX, help="Rows.")] = PAGE_DEFAULT,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Settlements, oldest first."""

    async def run(ledger: OpenLedger) -> list[dict[str, Any]]:
        now = ledger.clock.now()
        return [
            {
                "settlementId": found.settlement_id,
                "status": found.status,
                "amount": str(found.amount),
                "sellerId": found.seller_id,
                "channelId": channel_of(found.stream_id),
                "intendedAt": moment(found.intended_at),
                "ageSeconds": (now - found.intended_at) // _MILLIS,
            }
            for found in await ledger.queries.settlements(status=status, limit=limit)
        ]

    rows = run_on_ledger(run, data_dir, as_json=as_json)
    columns = ("settlementId", "status", "amount", "sellerId", "channelId", "ageSeconds")
    show_rows(rows, columns, as_json=as_json)


@app.command("show")
def show_settlement(
    settlement_id: SettlementId, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """One settlement: its attempts, why it waits, and what to do about it."""

    async def run(ledger: OpenLedger) -> dict[str, Any]:
        row = await _row_of(ledger, settlement_id)
        found = await ledger.ledger.settling(row.stream_id)
        if found is None:
            raise SettlementNotFound(f"the log has no stream {row.stream_id!r}")
        return _facts(row, found)

    show(run_on_ledger(run, data_dir, as_json=as_json), as_json=as_json)


@app.command()
def retry(settlement_id: SettlementId, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Try a parked settlement again, now that its cause is gone. A worker picks it up at once."""

    def decide(found: Settling, now: UnixMillis) -> list[Event]:
        return resume_settlement(found, now=now)

    show(_decide(settlement_id, decide, data_dir, as_json=as_json), as_json=as_json)


@app.command()
def abandon(
    settlement_id: SettlementId,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the log.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """End a settlement for ever without a payment. Only where no attempt may still land."""
    if not reason.strip():
        raise typer.BadParameter("--reason must say why")
    if as_json and not yes:
        raise typer.BadParameter("--json asks nothing: add --yes")
    if not yes:
        question = f"Abandon {settlement_id}? The seller will never be paid for this channel."
        typer.confirm(question, abort=True, err=True)

    def decide(found: Settling, now: UnixMillis) -> list[Event]:
        return abandon_settlement(found, reason=reason, now=now)

    show(_decide(settlement_id, decide, data_dir, as_json=as_json), as_json=as_json)


@app.command("trust-database")
def trust_database(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """After a failover or a restore: let this database sign settlements again.

    Only when the log was compared with the chain; docs/runbook.md, "Restore", says how.
    """
    if as_json and not yes:
        raise typer.BadParameter("--json asks nothing: add --yes")
    if not yes:
        question = "Was every payment on the chain compared with this log?"
        typer.confirm(question, abort=True, err=True)

    async def run(ledger: OpenLedger) -> dict[str, Any]:
        before = await ledger.queries.cluster()
        after = await ledger.queries.trust_cluster()
        return {"cluster": after.current, "trustedBefore": before.trusted}

    show(run_on_ledger(run, data_dir, as_json=as_json), as_json=as_json)


def _decide(
    settlement_id: str, decide: Decide, data_dir: DataDir, *, as_json: bool
) -> dict[str, Any]:
    async def run(ledger: OpenLedger) -> dict[str, Any]:
        row = await _row_of(ledger, settlement_id)
        now = ledger.clock.now()
        after = await ledger.ledger.record(row.stream_id, lambda found: decide(found, now))
        return _facts(row, after)

    return run_on_ledger(run, data_dir, as_json=as_json)


async def _row_of(ledger: OpenLedger, settlement_id: str) -> OpenSettlement:
    found = await ledger.queries.settlement(settlement_id)
    if found is None:
        raise SettlementNotFound(f"no settlement {settlement_id!r}")
    return found


def _facts(row: OpenSettlement, found: Settling) -> dict[str, Any]:
    if found.settlement is None:
        raise SettlementNotFound("the session was not closed, so it has no settlement")
    return {"sellerId": row.seller_id, **settling_json(found)}
