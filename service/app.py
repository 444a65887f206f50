"""The application: routes, problems and one station from start to stop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service import openapi, problems
from service.front import Front, StartError
from service.routes import batch, direct, events, inspections, models, open_inference, operation, recipes, records
from service.runtimes.protocol import Runtime
from service.security.gate import Gate, make_gate
from service.security.gated_app import GatedApp
from service.security.headers import SecurityHeaders
from service.security.policy import check
from service.settings import Settings, load_settings
from service.station import Station

_DESCRIPTION = "Send an image of a part, get a verdict for the line. Every verdict is recorded before it is answered."


def create_app(
    settings: Settings | None = None,
    runtime: Runtime | None = None,
    station: Front | None = None,
    gate: Gate | None = None,
) -> FastAPI:
    """Make an application; also what `uvicorn --factory service.app:create_app` calls.

    It answers `/livez` at once and starts its station behind it; `/readyz` says when inspections are accepted. The
    station is `app.state.station`, and `app.state.started` is a future that ends when it is ready or raises
    `StartError`.

    Args:
        settings: How to set it up; from environment and defaults if not given.
        runtime: What runs the network; as the settings say if not given.
        station: What the routes ask; one in this process, set up as the settings say, if not given.
        gate: Whom the routes answer; as the settings say if not given. Whoever listens elsewhere than they say, without
            keys, is reached by the names of this machine alone.

    Raises:
        SettingsError: The settings open the service to other machines without saying so, or keys or certificates
            cannot be used.
    """
    resolved = settings or load_settings()
    guard = gate or make_gate(resolved, check(resolved, resolved.host))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        front = app.state.station = station or Station(resolved, runtime)
        started = app.state.started = asyncio.create_task(front.start())
        try:
            yield
        finally:
            front.begin_drain()
            with suppress(StartError):
                await started
            await front.stop()

    # The pages at /docs come with their scripts: a factory's network seldom reaches the content networks of the web.
    app = FastAPIOffline(
        redoc_url=None,
        title="ATS-Net inspection service",
        version=version("atsnet"),
        description=_DESCRIPTION,
        lifespan=lifespan,
    )
    openapi.install(app)
    problems.install(app)
    app.include_router(inspections.router)
    app.include_router(records.router)
    app.include_router(batch.router)
    app.include_router(events.router)
    app.include_router(open_inference.router)
    app.include_router(operation.router)
    app.include_router(recipes.router)
    app.include_router(models.router)
    app.add_middleware(GatedApp, gate=guard, max_body_bytes=resolved.max_body_bytes)
    app.add_middleware(SecurityHeaders)
    direct.install(app, guard, resolved.max_body_bytes)
    return app
