"""Every fix that a simulation can take out is where `reverts` says."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from simulation import reverts


@pytest.mark.parametrize("name", reverts.REVERTS)
def test_a_fix_is_taken_out_where_it_is(name: str) -> None:
    """Each snippet stands exactly once in its module, and what is left compiles."""
    changes = reverts.REVERTS[name].changes
    for module in {module for module, _, _ in changes}:
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text()
        own = [(old, new) for other, old, new in changes if other == module]
        compile(reverts.applied(source, own, name=module), spec.origin, "exec")
