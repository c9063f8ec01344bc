"""`worker`: settles and watches, beside servers that do not."""

import asyncio
import signal

from service.bootstrap import running_services
from service.cli.output import AsJson, fail, show
from service.cli.settings import load_settings
from service.config import ConfigurationError
from service.domain.errors import LedgerError
from service.local.lifeline import end_with_parent
from service.watcher import PaymentWatcher, SessionWatcher
from service.worker import SettlementWorker


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
            workers = (
                SettlementWorker(services),
                SessionWatcher(services),
                PaymentWatcher(services),
            )
            await asyncio.gather(*(worker.run() for worker in workers))

    try:
        asyncio.run(run())
    except (ConfigurationError, LedgerError) as error:
        fail(str(error), as_json=as_json)
