"""`mainstem resume` and `mainstem input`: by options, and asked at a terminal."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import subprocess
from typing import Any

import httpx
import pytest

from support.clients.commands import System
from support.engines.demowords import demo_text
from support.waiting import wait_until

_threads = itertools.count()


def start(system: System, **given: Any) -> str:
    body = {"engine": "demo", "input": {"tokens": 4, "interval_ms": 0, **given}}
    reply = httpx.post(f"{system.gateway.url}/v1/threads/resume-{next(_threads)}/runs", json=body)
    return reply.json()["run_id"]


def run_of(system: System, run_id: str) -> dict[str, Any]:
    return httpx.get(f"{system.gateway.url}/v1/runs/{run_id}").json()


def pause(system: System, **given: Any) -> dict[str, Any]:
    """Start a run that pauses, and wait until it has."""
    run_id = start(system, **given)

    def waits() -> dict[str, Any] | None:
        run = run_of(system, run_id)
        return run if run["status"] == "requires_action" else None

    return wait_until(waits, description="the run to pause", timeout_s=30)


def ended(system: System, run_id: str) -> str:
    wait_until(lambda: run_of(system, run_id)["finished_at"], description="the run to end", timeout_s=30)
    return run_of(system, run_id)["text"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--approve", "demo_tool_2"], demo_text(4)),
        (["--all", "approve"], demo_text(4)),
        (["--reject", "demo_tool_2", "--reason", "no"], "w0 w1 [rejected:2] w3"),
        (["--edit", 'demo_tool_2={"at": 9}'], "w0 w1 w9 w3"),
        (["--respond", "demo_tool_2=my = own"], "w0 w1 my = own w3"),
    ],
)
def test_options_decide(system: System, options: list[str], text: str):
    """Each kind of decision, without a question; the same again is accepted again."""
    run = pause(system, approve_at=[2])
    done = system.call("resume", run["run_id"], *options)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Accepted. The run is ")
    assert ended(system, run["run_id"]) == text
    again = ["--action", run["action"]["action_id"]]
    if options[0] != "--all":
        assert system.call("resume", run["run_id"], *options, *again).exit_code == 0


def test_answers_and_the_rest_of_a_run(system: System):
    """`--answer` answers; `--follow` prints what comes then, and exits as the run does."""
    run = pause(system, ask_at=[2])
    done = system.call("resume", run["run_id"], "--answer", "ask_2=yes", "--follow")
    assert (done.exit_code, done.stdout) == (0, " yes w2 w3\n"), done.output


def test_what_does_not_fit_is_named_and_changes_nothing(system: System):
    """Bad ids, both kinds, an edit that is no object, nobody to ask: an error each, and the run waits on."""
    run = pause(system, approve_at=[2])
    run_id = run["run_id"]
    refused = [
        (["nosuch", "--all", "approve"], "not_found"),
        ([run_id, "--approve", "demo_tool_3"], "'demo_tool_2'"),
        ([run_id, "--answer", "q=x"], "no question 'q'"),
        ([run_id, "--approve", "demo_tool_2", "--reject", "demo_tool_2"], "decided twice"),
        ([run_id, "--edit", "demo_tool_2=[1]"], "JSON object"),
        ([run_id, "--edit", "demo_tool_2"], "ID=VALUE"),
        ([run_id, "--edit", 'demo_tool_2={"at": -1}'], "invalid_decision"),
        ([run_id, "--respond", "demo_tool_2= "], "invalid_decision"),
        ([run_id, "--all", "approve", "--action", "act_other"], "undecided_call|stale_action"),
        ([run_id, "--action", "act_other"], run["action"]["action_id"]),
        ([run_id], "Nobody is there to ask about demo_tool_2"),
        ([run_id, "--all", "perhaps"], "perhaps"),
    ]
    for options, words in refused:
        result = system.call("resume", *options)
        assert result.exit_code == 2, (options, result.output)
        plain = re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", result.output)
        assert re.search(words, " ".join(plain.split())), (options, result.output)
    assert run_of(system, run_id) == run
    assert system.call("abort", run_id).exit_code == 0
    over = system.call("resume", run_id, "--all", "approve")
    assert (over.exit_code, "it waits for no decision" in over.output) == (2, True)


def test_who_watches_is_told_what_to_do(system: System):
    """A run that pauses says so on stderr, with the command that decides."""
    run = pause(system, approve_at=[2])
    watching = system.popen("watch", run["run_id"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert watching.stderr is not None
        lines = iter(watching.stderr.readline, b"")
        assert any(f"decide with: mainstem resume {run['run_id']}".encode() in line for line in lines)
        assert system.call("resume", run["run_id"], "--all", "reject").exit_code == 0
        out, _ = watching.communicate(timeout=30)
        assert (out.decode(), watching.returncode) == ("w0 w1 [rejected:2] w3\n", 0)
    finally:
        watching.kill()
        watching.wait()


def test_a_person_at_a_terminal_is_asked(system: System):
    """The call is shown with its arguments; what means nothing is asked again; the decision is carried out."""
    run = pause(system, approve_at=[2], ask_at=[2])
    shown = at_terminal(system, run["run_id"], {"Your answer: ": "yes"})
    assert "Question 1 of 1: What shall stand before word 2?" in shown
    run = wait_until(
        lambda: (found := run_of(system, run["run_id"]))["status"] == "requires_action" and found,
        description="the second pause",
        timeout_s=30,
    )
    typed = {"res[p]ond? ": ["perhaps", "edit"], "JSON object: ": ["[1]", "{", '{"at": 7}']}
    shown = at_terminal(system, run["run_id"], typed)
    assert "Tool call 1 of 1: demo_tool  (demo_tool_2)" in shown
    assert '"at": 2' in shown
    assert "Please type one of: a, r, e, p" in shown
    assert "no object" in shown
    assert "no JSON" in shown
    assert ended(system, run["run_id"]) == "w0 w1 yes w7 w3"


def at_terminal(system: System, run_id: str, typed: dict[str, str | list[str]]) -> str:
    """Run the command at a terminal; type a line whenever a prompt comes. Returns all that was shown."""
    ours, theirs = pty.openpty()
    process = system.popen("resume", run_id, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    lines = {prompt: [said] if isinstance(said, str) else list(said) for prompt, said in typed.items()}
    shown, seen = b"", 0
    try:
        while chunk := _read(ours):
            shown += chunk
            prompt = next((p for p in lines if shown[seen:].decode(errors="replace").endswith(p)), None)
            if prompt is not None:
                seen = len(shown)
                os.write(ours, f"{lines[prompt].pop(0)}\n".encode())
        assert process.wait(10) == 0, shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that nobody has the other end any more
        return b""


def test_something_can_be_said_to_a_run(system: System):
    """`mainstem input` prints the receipt; a run that is over refuses."""
    run_id = start(system, tokens=100_000, interval_ms=10, echo_input=True)
    said = system.call("input", run_id, "hello", "--id", "mine", "--json")
    assert (said.exit_code, json.loads(said.stdout)["input_id"]) == (0, "mine"), said.output
    wait_until(lambda: "hello" in run_of(system, run_id)["text"], description="the echo", timeout_s=30)
    assert system.call("abort", run_id).exit_code == 0
    late = system.call("input", run_id, "hello")
    assert (late.exit_code, "not_active" in late.output) == (2, True)
