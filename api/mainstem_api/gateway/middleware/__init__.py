"""Middleware wraps every route: pure ASGI layers, the outermost first in `app`."""
