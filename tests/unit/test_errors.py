"""The error tree: printed as it is, stable codes, and errors that survive a process boundary."""

from __future__ import annotations

import copy
import pickle
import re
from collections import Counter

import pytest

from mainstem_shared import errors
from mainstem_shared.errors import MainstemError


def tree(kind: type[MainstemError] = MainstemError) -> list[type[MainstemError]]:
    """All classes, in the order of definition, depth first."""
    ours = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [kind, *(found for sub in ours for found in tree(sub))]


ALL = tree()
FIELDS = {
    name: "x" for kind in ALL for name in re.findall(r"\{(\w+)", kind.message)
}  # every field that any message names


def test_the_docstring_prints_the_tree():
    """Names, nesting and codes in the module's docstring are those of the classes."""
    assert errors.__doc__ is not None
    lines = [line for line in errors.__doc__.splitlines() if re.search(r"[├└]── ", line)]
    documented = []
    for line in lines:
        depth = line.index("── ") // 4
        name, _, rest = line.split("── ", 1)[1].partition(" ")
        documented.append((depth, name, rest.split("(")[0].strip()))
    actual = [
        (
            len(kind.__mro__) - len(MainstemError.__mro__) - 1,
            kind.__name__,
            kind.code if "code" in kind.__dict__ and not any(kind is k for k in _parents()) else "",
        )
        for kind in ALL[1:]
    ]
    assert [(d, n) for d, n, _ in documented] == [(d, n) for d, n, _ in actual]
    for (_, name, code), kind in zip(documented, ALL[1:], strict=True):
        if code:
            assert kind.code == code, name
        else:
            assert kind.__subclasses__(), f"{name} is raised: the docstring must name its code"


def _parents() -> list[type[MainstemError]]:
    return [kind for kind in ALL if kind.__subclasses__() and kind is not errors.InvalidRequest]


def test_codes_are_stable_identifiers_and_name_one_class_each():
    """Every class that is raised has a code of its own."""
    raised = [kind for kind in ALL if not kind.__subclasses__()] + [errors.InvalidRequest]
    assert [code for code, count in Counter(kind.code for kind in raised).items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z_]+", kind.code) for kind in raised)
    assert "error" not in {kind.code for kind in raised}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_errors_survive_pickling_and_copying(kind: type[MainstemError]):
    """Celery and multiprocessing carry errors: class, text and fields are the same on the other side."""
    error = kind(**FIELDS)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert (str(twin), twin.fields, twin.code) == (str(error), error.fields, error.code)
    assert str(kind("said {otherwise}", run_id="x")) == "said {otherwise}"


def test_fields_are_attributes():
    """What the message names can be read; what is not there is an AttributeError as usual."""
    error = errors.ThreadBusy(run_id="r")
    assert error.run_id == "r"
    assert "r" in str(error)
    with pytest.raises(AttributeError):
        _ = error.nothing
