"""Starts a collector of OpenTelemetry (rotel, from its wheel) in front of a backend that writes spans down."""

from __future__ import annotations

import importlib.util
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from support.paths import TESTS
from support.processes.processes import Child
from support.processes.servers import free_port
from support.requiring import require
from support.waiting import wait_until

MARK = "the-test's"
"""What the collector adds to each span's resource: the spans below went through it."""


class Collector:
    """A collector that takes OTLP over HTTP at `endpoint`, and what it has handed to its backend."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        found = importlib.util.find_spec("rotel")
        require(found, "the collector that the package rotel brings (Linux)")
        assert found is not None
        assert found.origin is not None
        program = Path(found.origin).with_name("rotel-agent")
        self.file = directory / "spans.jsonl"
        http, grpc, backend = free_port(), free_port(), free_port()
        self.endpoint = f"http://127.0.0.1:{http}"
        recorder = str(TESTS / "support" / "fakes" / "trace_backend.py")
        stack.enter_context(
            Child("backend", recorder, str(backend), str(self.file), env={}, directory=directory)
        )
        options = {
            "otlp-http-endpoint": f"127.0.0.1:{http}",
            "otlp-grpc-endpoint": f"127.0.0.1:{grpc}",
            "exporter": "otlp",
            "otlp-exporter-protocol": "http",
            "otlp-exporter-endpoint": f"http://127.0.0.1:{backend}",
            "otlp-exporter-retry-initial-backoff": "100ms",  # its backend begins beside it
            "otel-resource-attributes": f"collected.by={MARK}",
            "batch-timeout": "50ms",
            "pid-file": str(directory / "collector.pid"),
            "log-file": str(directory / "collector.txt"),
        }
        arguments = [str(program), "start", *(f"--{name}={value}" for name, value in options.items())]
        replace = "import os,sys; os.execv(sys.argv[1], sys.argv[1:])"
        collector = stack.enter_context(
            Child("collector", "-c", replace, *arguments, env={}, directory=directory)
        )
        wait_until(
            lambda: self._answers() or not collector.running, description="the collector", timeout_s=40
        )
        assert collector.running, collector.log

    def _answers(self) -> bool:
        try:
            return httpx.post(f"{self.endpoint}/v1/traces", timeout=5).status_code < 500
        except httpx.TransportError:
            return False

    def spans(self, trace: str) -> list[dict[str, Any]]:
        """Return the spans of a trace that its backend has by now."""
        text = self.file.read_text() if self.file.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may be written just now
        return [one for one in map(json.loads, lines) if one["trace"] == trace]
