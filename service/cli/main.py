"""The index of commands, and those that run things: serve, migrate, worker, devchain."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from solders.pubkey import Pubkey

from service import migrations
from service.bootstrap import ConfigurationError, required_database, running_services
from service.cli import keys, sellers, settlements
from service.cli.connection import load_settings
from service.cli.doctor import doctor
from service.cli.output import AsJson, fail, show
from service.cli.replay import replay
from service.domain.errors import LedgerError
from service.local.chain import LocalChain, LocalChainError, LocalChainSettings, run_forever
from service.local.lifeline import end_with_parent
from service.local.postgres import EmbeddedPostgresError
from service.observability import configure_logging
from service.supervisor import ServeOptions, Supervisor
from service.watcher import SessionWatcher
from service.worker import SettlementWorker

app = typer.Typer(
    name="session-ledger",
    help="The ledger that machine payments run on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PORT_DEFAULT = 8402
PUBLIC_FACTS = ("baseUrl", "rpcUrl", "network", "mint", "settlementAuthority", "feePayer")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.")
    ] = PORT_DEFAULT,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Server processes.")] = 1,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where a one-machine run keeps everything.")
    ] = None,
    local_chain: Annotated[
        bool, typer.Option("--local-chain", help="Run the local chain, for any SOLANA_NETWORK.")
    ] = False,
    chain_port: Annotated[int, typer.Option(help="Port of the local chain.")] = 0,
    program: Annotated[
        list[str] | None, typer.Option(help="ADDRESS=FILE.so: a program for the local chain.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the service. Without DATABASE_URL and SOLANA_RPC_URL everything it needs runs with it."""
    settings = load_settings(**({} if data_dir is None else {"data_dir": data_dir}))
    options = ServeOptions(host, port, workers, local_chain, chain_port, tuple(program or ()))

    def ready(facts: Any) -> None:
        public = {name: facts[name] for name in PUBLIC_FACTS}
        show({"status": "ready", **public, "dataDir": str(settings.data_dir)}, as_json=as_json)

    try:
        Supervisor(settings, options).run(ready)
    except (ConfigurationError, EmbeddedPostgresError, LocalChainError) as error:
        fail(str(error), as_json=as_json)


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Bring the database of DATABASE_URL to the newest schema."""
    try:
        migrations.upgrade(required_database(load_settings()))
    except (ConfigurationError, OSError) as error:
        fail(str(error), as_json=as_json)
    show({"status": "migrated", "revision": migrations.newest_revision()}, as_json=as_json)


@app.command()
def worker(as_json: AsJson = False) -> None:
    """Settle closed sessions and watch open ones, until SIGINT or SIGTERM. Several may run."""
    settings = load_settings()
    end_with_parent()

    async def run() -> None:
        async with running_services(settings) as services:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, services.stopping.set)
            show({"status": "working", "network": settings.solana_network}, as_json=as_json)
            await asyncio.gather(SettlementWorker(services).run(), SessionWatcher(services).run())

    try:
        asyncio.run(run())
    except (ConfigurationError, LedgerError) as error:
        fail(str(error), as_json=as_json)


@app.command()
def devchain(
    port: Annotated[
        int, typer.Option(help="HTTP port; WebSocket listens here and on the next.")
    ] = 8899,
    network: Annotated[str, typer.Option(help="The cluster to stand in for.")] = "localnet",
    data_dir: Annotated[Path | None, typer.Option(help="Keep the chain here.")] = None,
    slot_seconds: Annotated[float, typer.Option(help="Slot time; 0.4 is faithful.")] = 0.05,
    program: Annotated[
        list[str] | None, typer.Option(help="ADDRESS=FILE.so: a further program.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the local Solana chain alone: JSON-RPC with the real token programs."""
    end_with_parent()
    configure_logging()

    def ready(chain: LocalChain) -> None:
        facts = {"rpcUrl": chain.url, "websocketUrl": chain.websocket_url, "network": network}
        show(facts, as_json=as_json)

    try:
        settings = LocalChainSettings(
            network=network,
            slot_seconds=slot_seconds,
            data_dir=data_dir,
            programs=_programs(program or ()),
            port=port,
        )
        run_forever(settings, on_ready=ready)
    except LocalChainError as error:
        fail(str(error), as_json=as_json)


def _programs(options: Sequence[str]) -> dict[Pubkey, Path]:
    """The programs that `--program ADDRESS=FILE.so` names."""
    programs: dict[Pubkey, Path] = {}
    for option in options:
        address, _, file = option.partition("=")
        try:
            programs[Pubkey.from_string(address)] = Path(file)
        except ValueError:
            fail(f"--program must be ADDRESS=FILE.so, got {option!r}")
    return programs


app.command()(replay)
app.command()(doctor)
app.add_typer(sellers.app)
app.add_typer(settlements.app)
app.add_typer(keys.app)


def main() -> None:
    """The entry point."""
    app()
