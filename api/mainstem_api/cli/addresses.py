"""`mainstem addresses` prints the addresses of store and broker, with passwords, for other programs."""

from __future__ import annotations

import json

from mainstem_api.cli._options import Json
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints


def addresses(as_json: Json = False) -> None:
    """Print the addresses of store and broker, WITH their passwords, for programs of your own."""
    settings = Settings()
    found = {"store": endpoints.store_url(settings), "broker": endpoints.broker_url(settings)}
    if as_json:
        print(json.dumps(found))
    else:
        for name, url in found.items():
            print(f"{name} {url}")
