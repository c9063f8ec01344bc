"""The application: routers, problems, middleware; nothing is decided here."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service.api import documentation, events, health, problems, sellers, sessions, vouchers
from service.api.middleware import RequestEnvelope
from service.bootstrap import Services, running_services
from service.config import Settings
from service.observability import configure_logging
from service.worker import SettlementWorker

Running = Callable[[Settings], AbstractAsyncContextManager[Services]]


def create_app(settings: Settings, *, running: Running = running_services) -> FastAPI:
    """The HTTP service. `running` starts its services; tests may pass others."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with running(settings) as services:
            app.state.services = services
            worker = SettlementWorker(services)
            task = asyncio.create_task(worker.run()) if settings.run_worker else None
            try:
                yield
            finally:
                services.stopping.set()
                if task is not None:
                    await task

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
    routers = [module.router for module in (vouchers, sessions, sellers, events, health)]
    problems.install(app, routers)
    app.router.routes.append(vouchers.hot_route)
    for router in routers:
        # Not include_router: its wrapper routes every request a second time.
        app.router.routes.extend(router.routes)
    documentation.install(app)
    return app


def app_from_environment() -> FastAPI:
    """The application of this process's environment; what each server process runs."""
    settings = Settings()
    configure_logging(settings.log_level, settings.log_format)
    return create_app(settings)
