"""The HTTP gateway: a mountable FastAPI app, and the server that runs it on its own."""

from mainstem_api.gateway.app import create_app
from mainstem_api.gateway.auth.authenticators import Authenticator
from mainstem_api.gateway.server import Server, serve
from mainstem_shared.model.principals import Principal

__all__ = ["Authenticator", "Principal", "Server", "create_app", "serve"]
