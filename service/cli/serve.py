"""`serve`: everything on one machine, or the HTTP service alone."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.output import AsJson, fail, show
from service.cli.settings import load_settings
from service.config import ConfigurationError
from service.local.chain.settings import LocalChainError
from service.local.postgres import EmbeddedPostgresError
from service.supervisor import ServeOptions, Supervisor

PORT_DEFAULT = 8402
PUBLIC_FACTS = ("baseUrl", "rpcUrl", "network", "mint", "settlementAuthority", "feePayer")


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
