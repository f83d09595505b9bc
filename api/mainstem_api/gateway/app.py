"""Builds the gateway as a FastAPI app, on its own or mounted into another one.

Mounted, it works without its lifespan, but sweeps nothing; pass `app.router.lifespan_context` on, or call
`app.state.holder.close()` when the host stops.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from mainstem_api.gateway import problems, web
from mainstem_api.gateway.adapters.routers import ALL as ADAPTERS
from mainstem_api.gateway.adapters.routers import ERROR_FORMATS
from mainstem_api.gateway.auth import authenticators
from mainstem_api.gateway.auth.authenticators import Authenticator, NoAuthentication
from mainstem_api.gateway.middleware.access import AccessControl, AccessMiddleware, is_protected
from mainstem_api.gateway.middleware.errors_and_headers import ErrorsAndHeaders
from mainstem_api.gateway.middleware.large_answers import LargeAnswers
from mainstem_api.gateway.middleware.origins import Origins
from mainstem_api.gateway.middleware.rate_limits import Limits
from mainstem_api.gateway.middleware.request_limits import RequestLimits
from mainstem_api.gateway.middleware.request_metrics import RequestCount
from mainstem_api.gateway.middleware.request_traces import RequestTraces, untraced
from mainstem_api.gateway.middleware.trusted_hosts import TrustedHosts
from mainstem_api.gateway.routes import (
    approvals,
    callbacks,
    details,
    endings,
    events,
    health,
    overview,
    runs,
    threads,
    usage,
)
from mainstem_api.gateway.state import Holder
from mainstem_shared.operations import callback_policy, provider_limits, spending
from mainstem_shared.settings import Settings

_ROUTERS = tuple(
    one.router
    for one in (runs, threads, endings, approvals, callbacks, events, overview, details, usage, health)
)
_TELEMETRY: Final[Any] = {"exclude": untraced, "logs": False, "operation_spans": False}
"""Of FastAPI releases that trace by themselves: no exceptions' texts, no addresses with tokens."""
_LOCKED_RESPONSES = runs.problem_documents(401, 403, 408, 413, 429, 431, 503)
"""What the layers around all locked routes may answer."""


def create_app(settings: Settings | None = None, *, authenticator: Authenticator | None = None) -> FastAPI:
    """Return the gateway's app; by default with the environment's settings.

    A host that knows its users already passes an `authenticator` of its own in place of MAINSTEM_AUTH.

    Raises:
        Misconfigured: the settings would let anybody in, or nobody.
    """
    settings = settings or Settings()
    spending.check(settings)
    provider_limits.check(settings)
    callback_policy.check(settings)
    authenticator = authenticator or authenticators.authenticator(settings)
    holder = Holder(settings)
    origins = Origins(settings)
    access = AccessControl(authenticator, lambda: holder.gateway.tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        del app
        await holder.check_servers()
        holder.gateway.start()
        try:
            yield
        finally:
            await holder.close()
            await authenticator.aclose()

    app = FastAPI(
        title="Mainstem",
        summary="LLM generations as durable runs: start them, follow them from anywhere, lose nothing.",
        version="1",
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        telemetry=_TELEMETRY,
        redirect_slashes=False,  # a redirect would answer for paths that do not exist
    )
    app.state.holder = holder
    app.state.access = access
    app.state.error_formats = ERROR_FORMATS
    app.state.local_only = isinstance(authenticator, NoAuthentication)
    routers = (*_ROUTERS, web.router, *ADAPTERS)
    app.state.routes = [route for router in routers for route in router.routes]
    problems.install(app)
    for router in routers:
        locked = any(is_protected(getattr(route, "path", "")) for route in router.routes)
        app.include_router(router, responses=_LOCKED_RESPONSES if locked else {})
    # From the inside to the outside.
    app.add_middleware(LargeAnswers, outgoing=lambda: holder.gateway.outgoing)
    app.add_middleware(RequestLimits, body_limit=settings.max_body_mb * 1024 * 1024)
    app.add_middleware(AccessMiddleware, access=access, limits=Limits(settings), origins=origins)
    if origins.configured:
        app.add_middleware(CORSMiddleware, **origins.cors())
    app.add_middleware(TrustedHosts, local_only=app.state.local_only, own_host=settings.host)
    app.add_middleware(ErrorsAndHeaders)
    app.add_middleware(RequestTraces)
    app.add_middleware(RequestCount, metrics=lambda: holder.gateway.metrics)
    return app
