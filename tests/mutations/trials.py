"""A trial applies a mutation to a copy, runs the tests that its row cites, and judges what they say."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from lupa.lua51 import LuaError, LuaRuntime

from mutations.checkouts import Checkout
from mutations.mutation import Mutation

TEST_TIMEOUT_S: Final = 90
"""Per test; one that hangs under a mutation has noticed it."""
TRIAL_TIMEOUT_S: Final = 300


class TrialResult(StrEnum):
    """What the tests made of a mutation."""

    KILLED = "killed"
    SURVIVED = "survived"
    BROKEN = "broken"
    """It says nothing: the mutated module is none, or the tests could not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One row's mutation, and how it went."""

    row: int
    mutation: Mutation
    result: TrialResult
    why: str
    seconds: float


def run(checkout: Checkout, mutation: Mutation, *, row: int) -> Trial:
    """Try one row's mutation; afterwards the copy is as it was."""
    began = time.monotonic()
    path = checkout.root / mutation.file
    before = path.read_text()  # not the checkout's: somebody may be at work there
    is_script = mutation.file.endswith(".lua")
    module = "mainstem_shared" if is_script else _module(mutation.file)
    try:
        mutation.apply(checkout.root)
        if is_script and (wrong := _cannot_load(checkout, Path(mutation.file))):
            result, why = TrialResult.BROKEN, wrong
        else:
            result, why = _judge(*_tests(checkout, mutation.tests(row), module=module))
    finally:
        path.write_text(before)
    seconds = time.monotonic() - began
    return Trial(row=row, mutation=mutation, result=result, why=why, seconds=seconds)


def passes_unbroken(checkout: Checkout, tests: list[str]) -> str:
    """Run tests on the copy as it is; returns what is wrong, or ''."""
    code, output = _tests(checkout, tests, module="mainstem_shared")
    return "" if code == 0 else _line(output, "FAILED ", "ERROR ")


def _cannot_load(checkout: Checkout, path: Path) -> str:
    """Say why a mutated script is none any more; '' if it is one."""
    try:
        LuaRuntime(unpack_returned_tuples=False).compile(
            (checkout.root / path).read_text().partition("\n")[2]
        )
    except LuaError as error:
        return str(error)
    return ""


_RUN: Final = """
import importlib, sys
import pytest

class Loaded:
    def pytest_sessionstart(self):
        try:
            print(importlib.import_module(sys.argv[1]).__file__)
        except BaseException as error:
            pytest.exit(f"ERROR {error!r}", returncode=70)

sys.exit(pytest.main(sys.argv[2:], plugins=[Loaded()]))
"""
"""Tests run with the mutated module loaded: what does not even import has broken more than its promise.

It is imported by pytest, which wants to load the plugins' own modules before anybody else does.
"""


def _module(file: str) -> str:
    path = Path(file)
    return ".".join(path.relative_to(path.parts[0]).with_suffix("").parts).removesuffix(".__init__")


def _tests(checkout: Checkout, tests: list[str], *, module: str) -> tuple[int, str]:
    options = ("-x", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_TIMEOUT_S}", "--tb=short")
    process = subprocess.Popen(
        [str(checkout.python), "-c", _RUN, module, *options, *tests],
        env=checkout.env,
        cwd=checkout.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TRIAL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # fixtures stop what they started
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return -1, output
    return process.returncode, output


def _judge(code: int, output: str) -> tuple[TrialResult, str]:
    if code == 0:
        return TrialResult.SURVIVED, "the tests stay green"
    failed = _line(output, "FAILED ")
    if code == 1 and failed:  # not an error of collecting tests, or of a fixture
        return TrialResult.KILLED, failed
    return TrialResult.BROKEN, _line(output, "ERROR ") or output.strip().splitlines()[-1]


def _line(output: str, *starts: str) -> str:
    return next((line.partition(" ")[2] for line in output.splitlines() if line.startswith(starts)), "")
