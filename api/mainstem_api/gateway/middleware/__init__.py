"""The layers that every request passes before a route: pure ASGI, outermost first in `app`."""
