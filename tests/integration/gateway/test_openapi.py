"""What the OpenAPI document says is what the gateway does, whatever is sent: examples made by schemathesis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mainstem_api.gateway import create_app
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import check_times
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread

EXAMPLES = 12
"""For each operation."""
SLOWEST_S = 60.0
"""Nothing may hang; a run may wait for all others of the thread that operations share, and the machine be busy."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


class Served:
    """A gateway with one finished run, whose id stands in for every other invented one."""

    def __init__(self, gateway: GatewayThread, run_id: str) -> None:
        self.gateway = gateway
        self.run_id = run_id
        self.count = 0

    def real(self, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        self.count += 1
        if parameters is None or self.count % 2:
            return parameters
        known = {"run_id": self.run_id, "response_id": f"resp_{self.run_id}", "thread_id": "t", "id": "t"}
        return {name: known.get(name, value) for name, value in parameters.items()}


@pytest.fixture(scope="module")
def served(valkey_server) -> Iterator[Served]:
    with valkey_server.client() as client:
        client.flushall()

    async def finished() -> str:
        store = Store(valkey_server.url(0))
        log = await RunLog.start(store, thread_id="t")
        await log.claim()
        await log.say(3)
        await log.finish()
        await store.close()
        return log.run_id

    # No worker is here: sweeps end what is started at once, so that everything that waits for an end gets it.
    settings = {"default_engine": "demo", "max_queue_s": 0.05, "sweep_s": 0.1, "heartbeat_s": 3600}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check_times, "FIRST_MS", 60)
        with GatewayThread(valkey_server.url(0), valkey_server.url(1), **settings) as gateway:
            yield Served(gateway, asyncio.run(finished()))


DOCUMENT = schemathesis.openapi.from_dict(
    create_app(Settings(redis_url="redis://h", broker_url="redis://h")).openapi()  # type: ignore[arg-type]
)
OPERATIONS = [found.ok() for found in DOCUMENT.get_all_operations()]


# schemathesis' own strategies draw from `random`, which hypothesis seeds all the same.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module:DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning"
)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_answers_are_those_of_the_document(operation: Any, served: Served) -> None:
    """No failure of ours, no status, type or shape that is not documented, nothing that hangs."""

    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    def check(case: Any) -> None:
        case.path_parameters = served.real(case.path_parameters)
        response = case.call(base_url=served.gateway.url, timeout=SLOWEST_S)
        case.validate_response(response, checks=CHECKS)

    check()
