"""The gateway as a FastAPI app, on its own or mounted into another one.

Mounted, it works without its lifespan, but sweeps nothing; pass `app.router.lifespan_context` on, or call
`app.state.holder.close()` when the host stops.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from mainstem_api.gateway import approvals, endings, health, problems, routes
from mainstem_api.gateway.middleware import BodyLimit, RequestCount
from mainstem_api.gateway.resources import Holder
from mainstem_shared.settings import Settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the gateway's app; by default with the environment's settings."""
    settings = settings or Settings()
    if settings.auth != "none":
        message = f"MAINSTEM_AUTH={settings.auth} is not supported yet; put an authenticating proxy in front."
        raise ValueError(message)
    holder = Holder(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        del app
        holder.gateway.start()
        try:
            yield
        finally:
            await holder.close()

    app = FastAPI(
        title="Mainstem",
        summary="LLM generations as durable runs: start them, follow them from anywhere, lose nothing.",
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would answer for paths that do not exist
    )
    app.state.holder = holder
    routers = (routes.router, endings.router, approvals.router, health.router)
    app.state.routes = [route for router in routers for route in router.routes]
    problems.install(app)
    for router in routers:
        app.include_router(router)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestCount, metrics=lambda: holder.gateway.metrics)
    return app
