"""docs/clients.md says what the tests and the code say: which client does what, what becomes of each parameter."""

from __future__ import annotations

import ast
import os
import re

import pytest

from mainstem_api.gateway.adapters.openai_chat.requests import ChatCompletionRequest
from mainstem_api.gateway.adapters.openai_responses import parameters
from mainstem_api.gateway.adapters.openai_responses.requests import CreateRequest
from support.clients import cells
from support.paths import ROOT, TESTS

PAGE = ROOT / "docs" / "clients.md"


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("clients", cells.table()),
        ("responses", parameters.table(parameters.RESPONSES)),
        ("chat-completions", parameters.table(parameters.CHAT_COMPLETIONS)),
    ],
)
def test_the_page_has_the_tables(name: str, made: str):
    """Byte by byte; MAINSTEM_GOLDEN=write writes them anew."""
    page = PAGE.read_text()
    place = re.compile(f"(<!-- {name} -->\n\n)(.*?)(\n<!-- end -->)", re.DOTALL)
    if os.environ.get("MAINSTEM_GOLDEN") == "write":
        page = place.sub(lambda found: found[1] + made + found[3], page)
        PAGE.write_text(page)
    found = place.search(page)
    assert found is not None
    assert found[2] == made


def test_every_cell_has_its_test():
    """What a cell says was shown by a test that there is, and that still says so."""
    for client, found in cells.load().items():
        for scenario, cell in found["cells"].items():
            path, _, test = cell["test"].partition("::")
            tree = ast.parse((TESTS / "acceptance" / "clients" / path).read_text())
            tests = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
            shown = tests[test.partition("[")[0]]
            assert "shows" in {arg.arg for arg in shown.args.args}, (client, scenario)


@pytest.mark.parametrize("client", [client for group in cells.GROUPS.values() for client in group])
def test_no_cell_is_empty(client: str):
    """Each scenario passes, is refused by name, or is nothing that the client has words for."""
    assert [name for name in cells.SCENARIOS if not cells.cell(client, name)] == []


def test_every_member_of_a_request_has_its_treatment():
    """A member that a request model reads is in its table; what is in no table is refused by name."""
    assert CreateRequest.model_fields.keys() == parameters.RESPONSES.keys()
    assert not ChatCompletionRequest.model_fields.keys() - parameters.CHAT_COMPLETIONS.keys()
