"""`devchain`: the local chain alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from solders.pubkey import Pubkey

from service.cli.output import AsJson, fail, show
from service.local.chain import LocalChain, LocalChainError, LocalChainSettings, run_forever
from service.local.lifeline import end_with_parent
from service.observability import configure_logging


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
