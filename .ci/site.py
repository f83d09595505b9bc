"""Generates pages of the documentation from the code they describe; MkDocs calls it (`hooks` in mkdocs.yml).

Settings, event types, errors, metrics and the public Python names cannot be out of date: no page lists them
by hand. Files of the repository's root and the examples become pages, too, so that links to them work.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import posixpath
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from mainstem_api.cli import build_app
from mainstem_api.cli._options import Exit
from mainstem_api.gateway.problems import status_of
from mainstem_shared import errors
from mainstem_shared import settings as settings_module
from mainstem_shared.metrics.catalogue import METRICS
from mainstem_shared.model.events import STATES, Type

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = (
    "mainstem_api",
    "mainstem_api.gateway",
    "mainstem_tasks",
    "mainstem_workers",
    "mainstem_workers.pool",
    "mainstem_workers.testing",
    "mainstem_shared.guards",
)
"""Packages whose `__all__` is the public interface; `tests/unit/test_public_surface.py` pins them."""
ROOT_PAGES = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
    "SECURITY.md": "project/security.md",
    "api/typescript/README.md": "typescript.md",
}
OR = "\\|"
"""A bar within a table's cell."""
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
HTML_LINK = re.compile(r'\b(?P<name>src|srcset|href)="(?P<target>[^"#:]+)"')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    for name, path in ROOT_PAGES.items():
        files.append(File.generated(config, path, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that lead out of docs/ lead to the page made of their target, or nowhere."""
    del config
    path = page.file.src_uri
    origin = next((name for name, made in ROOT_PAGES.items() if made == path), posixpath.join("docs", path))
    home = posixpath.dirname(origin)

    def place(target: str) -> str | None:
        return _place(posixpath.normpath(posixpath.join(home, target)), path, files)

    def link(found: re.Match[str]) -> str:
        to = place(found["target"])
        return f"[{found['text']}]({to}{found['anchor'] or ''})" if to else found["text"]

    def attribute(found: re.Match[str]) -> str:
        return f'{found["name"]}="{place(found["target"]) or found["target"]}"'

    return HTML_LINK.sub(attribute, LINK.sub(link, markdown))


def _place(target: str, page: str, files: Files) -> str | None:
    """Return where a file of the repository is on the site, as seen from a page; None: nowhere."""
    folder, _, example = target.partition("/")
    if folder == "examples" and example:
        return f"{posixpath.relpath(EXAMPLES, posixpath.dirname(page) or '.')}#{example.partition('/')[0]}"
    path = ROOT_PAGES.get(target) or target.removeprefix("docs/")
    if files.get_file_from_path(path) is None and target.startswith("docs/"):
        return posixpath.relpath(path, posixpath.dirname(page) or ".")  # MkDocs says that it is not there
    if files.get_file_from_path(path) is None:
        return None
    return posixpath.relpath(path, posixpath.dirname(page) or ".")


# -- pages


def settings() -> str:
    """Return a table for each group of settings, in the order of their class."""
    lines = [
        "# Settings",
        "",
        "Environment variables, read when a process starts. An empty variable is an unset one.",
        "",
    ]
    documented = _attribute_docstrings(settings_module.Settings)
    for group, names in _groups(settings_module.Settings):
        lines += [f"## {group}", "", "| variable | type | default | |", "|---|---|---|---|"]
        for name in names:
            field = settings_module.Settings.model_fields[name]
            default = (
                "none" if field.default in (None, "", PydanticUndefined) else f"`{_plain(field.default)}`"
            )
            kind = _kind(settings_module.Settings.__annotations__[name])
            lines.append(f"| `MAINSTEM_{name.upper()}` | {kind} | {default} | {documented.get(name, '')} |")
        lines.append("")
    return "\n".join(lines)


def _groups(cls: type) -> Iterator[tuple[str, list[str]]]:
    """Yield the comments that head a class's fields, each with the names of those fields."""
    heading, names = "", list[str]()
    for line in inspect.getsource(cls).splitlines():
        if re.fullmatch(r"    # [A-Z][a-z ]+", line):
            if names:
                yield heading, names
            heading, names = line.removeprefix("    # "), []
        elif (found := re.match(r"    (\w+): ", line)) and found[1] in getattr(cls, "model_fields", ()):
            names.append(found[1])
    yield heading, names


def _attribute_docstrings(cls: type) -> dict[str, str]:
    """Return what stands in the strings below a class's fields."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in itertools.pairwise(body.body):
        text = after.value if isinstance(after, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value).split())
    return found


def _kind(annotation: str) -> str:
    plain = re.sub(r"Annotated\[(\w+), .*\]", r"\1", str(annotation)).replace(" | None", "")
    words = {"str": "text", "int": "number", "float": "seconds", "Seconds": "seconds", "SecretStr": "secret"}
    choices = re.findall(r'"(\w+)"', plain)
    return " ".join(f"`{choice}`" for choice in choices) or words.get(plain, plain.split("[", 1)[0].lower())


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else f"{value}"


def events() -> str:
    """Return the table of event types, each with a link to its description."""
    lines = ["# Event types", "", "What each carries is told in [events in detail](../events.md).", ""]
    lines += ["| type | name in Python | carries a whole state |", "|---|---|---|"]
    lines += [f"| `{kind}` | `Type.{kind.name}` | {'yes' if kind in STATES else ''} |" for kind in Type]
    return "\n".join([*lines, ""])


def error_codes() -> str:
    """Return the table of errors: class, code, HTTP status, meaning."""
    lines = [
        "# Errors",
        "",
        "The HTTP interface answers them as problem documents (RFC 9457) with `code`;",
        "",
    ]
    lines[-2] += (
        " Python programs catch the classes of `mainstem_shared.errors`. Each message says what helps."
    )
    lines += ["| class | base | code | HTTP | meaning |", "|---|---|---|---|---|"]
    for name in errors.__all__:
        cls: type[errors.MainstemError] = getattr(errors, name)
        base = cls.__mro__[1].__name__ if cls is not errors.MainstemError else ""
        meaning = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(
            f"| `{name}` | {base and f'`{base}`'} | `{cls.code}` | {int(status_of(cls(name)))} | {meaning} |"
        )
    return "\n".join([*lines, ""])


def metrics() -> str:
    """Return the table of metrics, from their one declaration."""
    lines = [
        "# Metrics",
        "",
        "In the text format of Prometheus: `GET /metrics` of a gateway, which asks for an operator's",
        "token, and of a worker at `MAINSTEM_METRICS_PORT`.",
        "Gauges that tell of the whole store or fleet are the same in all processes: take their `max`.",
        "",
    ]
    lines += ["| metric | type | labels | exported by | meaning |", "|---|---|---|---|---|"]
    for row in METRICS.values():
        labels, who = " ".join(f"`{label}`" for label in row.labels), ", ".join(row.exported_by)
        lines.append(f"| `{row.exposed_name}` | {row.kind} | {labels} | {who} | {row.meaning} |")
    return "\n".join([*lines, ""])


def commands() -> str:
    """Return the page of the command line, and of the exit codes that all commands keep."""
    lines = ["# Command line", "", "`mainstem --install-completion` teaches them to your shell.", ""]
    lines += ["| exit code | name |", "|---|---|"]
    lines += [f"| {code.value} | {code.name.lower()} |" for code in Exit]
    group: Any = typer.main.get_command(build_app())
    context = click.Context(group, info_name="mainstem")
    for name, command in group.commands.items():
        lines += ["", *_command(command, f"mainstem {name}", context)]
    return "\n".join([*lines, ""])


def _command(command: Any, name: str, parent: click.Context) -> Iterator[str]:
    """Yield a command's lines, and those of its commands."""
    context = click.Context(command, info_name=name.rsplit(" ", 1)[-1], parent=parent)
    yield from (f"## {name}", "", inspect.cleandoc(command.help or "").split("\f", 1)[0], "")
    if hasattr(command, "commands"):
        for each, inner in command.commands.items():
            yield from _command(inner, f"{name} {each}", context)
        return
    yield from ("```console", f"$ {command.get_usage(context).removeprefix('Usage: ')}", "```", "")
    shown = [row for parameter in command.params if (row := parameter.get_help_record(context))]
    if shown:
        yield from ("| | |", "|---|---|")
        yield from (f"| `{what.replace('|', OR)}` | {help_.replace('|', OR)} |" for what, help_ in shown)
        yield ""


def python() -> str:
    """Return the page of the public Python names, which mkdocstrings fills in."""
    lines = ["# Python", "", "What may be relied on; everything else may change without notice.", ""]
    for module in PUBLIC:
        lines += [f"## {module}", ""]
        lines += [f"::: {module}.{name}\n" for name in importlib.import_module(module).__all__]
    return "\n".join([*lines, "## mainstem_shared.errors", "", "See [errors](errors.md).", ""])


def examples() -> str:
    """Return the examples' sources."""
    lines = [
        "# Examples",
        "",
        "Apps that start runs and workers that execute them; the tests run each of these.",
        "",
    ]
    for folder in sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir()):
        lines += [f"## {folder.name}", ""]
        for path in sorted(folder.rglob("*.py")):
            if source := path.read_text().strip():
                lines += [f"`{path.relative_to(ROOT)}`", "", "```python", source, "```", ""]
    return "\n".join(lines)


def decisions() -> str:
    """Return the list of decision records."""
    lines = ["# Decisions", "", "Why things are as they are, in the order in which it was decided.", ""]
    for path in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = path.read_text().split("\n", 1)[0].removeprefix("# ")
        lines.append(f"* [{title}]({path.name})")
    return "\n".join([*lines, ""])


EXAMPLES = "project/examples.md"
PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings,
    "reference/events.md": events,
    "reference/errors.md": error_codes,
    "reference/metrics.md": metrics,
    "reference/commands.md": commands,
    "reference/python.md": python,
    EXAMPLES: examples,
    "decisions/index.md": decisions,
}
