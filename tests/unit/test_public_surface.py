"""What users import: pinned names, documented, and old paths that still work and say where to go."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

from mainstem_shared import errors
from support.paths import ROOT
from support.sources import parse

SURFACE = {
    "mainstem_api": ["AbortResult", "AsyncRuns", "Page", "Run", "RunEvent", "Runs", "StartResult"],
    "mainstem_api.callbacks": ["on_run_end", "verified"],
    "mainstem_api.sse": ["astream", "stream"],
    "mainstem_api.gateway": ["Authenticator", "Principal", "Server", "create_app", "serve"],
    "mainstem_tasks": [
        "AsyncTask",
        "CancelCause",
        "MissingExtraError",
        "RunContext",
        "SyncRunContext",
        "cancel_cause",
        "engine",
        "tool",
    ],
    "mainstem_tasks.testing": [
        "HOLD",
        "RESET",
        "SENT",
        "EngineRun",
        "MemoryChannel",
        "ProviderServer",
        "Reply",
        "Request",
        "run_engine",
        "signature",
        "strict",
    ],
    "mainstem_tasks.testing.dialects": ["CHAT", "DIALECTS", "KINDS", "MESSAGES", "RESPONSES", "Dialect"],
    "mainstem_workers": ["broker_url", "install"],
    "mainstem_workers.pool": ["PoolOptions", "TaskPool"],
    "mainstem_workers.testing": ["MainstemContainer", "System", "ValkeyContainer"],
    "mainstem_shared.guards": ["SAID_LIMIT", "Guard", "Kind", "Said", "plain"],
}
ADAPTERS = {
    "langgraph": ["ThreadSaver", "serve_graph"],
    "openai_agents": ["as_tool", "serve_agent"],
    "pydantic_ai": ["delegate", "serve_agent"],
}
OLD = {
    "mainstem_shared.logs": "FieldFormatter",
    "mainstem_shared.models": "Run",
    "mainstem_shared.principals": "Principal",
    "mainstem_tasks.asynctask": "AsyncTask",
    "mainstem_tasks.blocking": "SyncRunContext",
    "mainstem_tasks.cancellation": "cancel_cause",
    "mainstem_tasks.context": "RunContext",
    "mainstem_tasks.registry": "MissingExtraError",
    "mainstem_tasks.tools": "tool",
}


@pytest.mark.parametrize("module", SURFACE)
def test_the_public_names_are_these(module: str):
    """Adding a name is deliberate; removing one breaks users."""
    found = importlib.import_module(module)
    assert found.__all__ == SURFACE[module]
    for name in found.__all__:
        value = getattr(found, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{module}.{name} says nothing"


@pytest.mark.parametrize("package", ADAPTERS)
def test_the_public_names_of_framework_adapters_are_these(package: str):
    """Read from the source: importing a framework takes seconds, and it may not be installed."""
    source = (ROOT / "tasks" / "mainstem_tasks" / "engines" / package / "__init__.py").read_text()
    (names,) = [
        ast.literal_eval(node.value)
        for node in parse(source).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    assert names == ADAPTERS[package]


def test_every_error_is_public():
    """Programs catch errors by class: each class of the tree is exported."""
    classes = {n for n, value in vars(errors).items() if isinstance(value, type)}
    assert set(errors.__all__) == classes


@pytest.mark.parametrize(("module", "name"), OLD.items())
def test_an_old_path_works_and_names_the_new_one(module: str, name: str):
    """For one minor release after a move, as CONTRIBUTING says."""
    old = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"{module}\.{name} is mainstem_.*\.{name} now"):
        found = getattr(old, name)
    assert found.__module__ not in OLD
    with pytest.raises(AttributeError):
        _ = old.nothing_of_this_name


def test_engines_are_imported_without_celery():
    """A module with engines is imported by web tiers and tests: it must not bring a Celery app's machinery."""
    program = "import sys, mainstem_tasks; sys.exit('celery' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


EXTRAS = ("sqlalchemy", "alembic", "openai", "anthropic", "langgraph", "pydantic_ai", "agents", "flower")
"""What only extras bring, by the names it is imported under."""
LATER = ("jsonschema",)
"""What most processes never need, and what takes a tenth of the time in which they start."""


@pytest.mark.parametrize(
    "entry", ["mainstem_api.cli", "mainstem_api.gateway.server", "mainstem_workers.app", "mainstem_tasks"]
)
def test_what_starts_imports_nothing_for_few(entry: str):
    """A role may be installed without extras; and each would cost every process that starts."""
    program = f"import sys, {entry}; print(*sorted({{*{EXTRAS + LATER}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
