"""The application: routers, problems, middleware; nothing is decided here."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

import structlog
from fastapi import FastAPI

from service.api import (
    documentation,
    events,
    exposure,
    grants,
    health,
    leases,
    problems,
    sellers,
    sessions,
    vouchers,
)
from service.api.middleware import RequestEnvelope
from service.api.mpp import charge, onboarding
from service.api.mpp import sessions as buyers_sessions
from service.api.x402 import facilitator, payments
from service.bootstrap import Services, running_services
from service.config import Settings
from service.observability import configure_logging
from service.watcher import PaymentWatcher, SessionWatcher
from service.worker import SettlementWorker

log = structlog.get_logger()

Running = Callable[[Settings], AbstractAsyncContextManager[Services]]


def create_app(settings: Settings, *, running: Running = running_services) -> FastAPI:
    """The HTTP service. `running` starts its services; tests may pass others."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with running(settings) as services:
            app.state.services = services
            workers = (
                SettlementWorker(services),
                SessionWatcher(services),
                PaymentWatcher(services),
            )
            tasks = [
                asyncio.create_task(worker.run(), name=type(worker).__name__)
                for worker in (workers if settings.run_worker else ())
            ]
            for task in tasks:
                task.add_done_callback(_report_end)
            try:
                yield
            finally:
                services.stopping.set()
                await asyncio.gather(*tasks)

    app = FastAPI(
        title="Session Ledger",
        summary="The ledger that machine payments run on.",
        version=version("session-ledger"),
        lifespan=lifespan,
        docs_url="/docs" if settings.docs_routes else None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs_routes else None,
        redirect_slashes=False,
    )
    app.add_middleware(RequestEnvelope)
    routers = [
        module.router
        for module in (
            vouchers,
            sessions,
            leases,
            sellers,
            events,
            exposure,
            onboarding,
            buyers_sessions,
            charge,
            payments,
            facilitator,
            grants,
            health,
        )
    ]
    problems.install(app, routers)
    app.router.routes += [vouchers.hot_route, buyers_sessions.hot_route]
    for router in routers:
        # Not include_router: its wrapper routes every request a second time.
        app.router.routes.extend(router.routes)
    documentation.install(app)
    return app


def _report_end(task: asyncio.Task[None]) -> None:
    """A worker ends with the process only; one that ends by a fault of ours must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("worker_ended", name=task.get_name(), exc_info=error)


def app_from_environment() -> FastAPI:
    """The application of this process's environment; what each server process runs."""
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    return create_app(settings)
