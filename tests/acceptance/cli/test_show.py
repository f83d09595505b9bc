"""`mainstem show`, `mainstem top` and the searching `mainstem runs`."""

from __future__ import annotations

import json

from support.clients.commands import System


def test_show_tells_what_happened(system: System):
    """The timeline from creation to end, the failure, and what went in; --json has everything."""
    system.run_demo("--thread", "shown", tokens=3, fail_at=1)
    run_id = json.loads(system.call("runs", "--thread", "shown", "--json").stdout)["run_id"]
    shown = system.call("show", run_id)
    assert shown.exit_code == 0, shown.stderr
    for words in ("failed (engine_error)", "created", "begun by a worker", "over", '"fail_at": 1', "error"):
        assert words in shown.stdout, shown.stdout
    details = json.loads(system.call("show", run_id, "--json").stdout)
    assert [one["what"] for one in details["timeline"]] == ["run.created", "run.started", "run.finished"]
    assert details["timeline_complete"]
    assert details["segments"] == 1
    assert details["tasks"]
    found = system.call("runs", "--failed", "--words", "asked to fail", "--json").stdout
    assert run_id in found
    assert run_id not in system.call("runs", "--failed", "--words", "nothing-like-it", "--json").stdout
    assert "Nothing runs right now." in system.call("top", "--once").stdout
