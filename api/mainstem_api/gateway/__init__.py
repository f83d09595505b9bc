"""The HTTP gateway: a mountable FastAPI app, and the server that runs it on its own."""

from mainstem_api.gateway.app import create_app
from mainstem_api.gateway.server import Server, serve

__all__ = ["Server", "create_app", "serve"]
