"""Lists the routers of all adapters, for `app`."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from mainstem_api.gateway.adapters.ag_ui import routes as ag_ui
from mainstem_api.gateway.adapters.ai_sdk import routes as ai_sdk
from mainstem_api.gateway.adapters.openai_responses import routes as responses

ALL: Final[tuple[APIRouter, ...]] = (ai_sdk.router, ag_ui.router, responses.router)
