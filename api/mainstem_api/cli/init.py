"""`mainstem init` writes a small project: an engine, a web app, a Celery app, a test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Template
from typing import Annotated, Final

import typer

from mainstem_api.cli._options import Exit, Json

_TEMPLATES: Final = Path(__file__).with_name("project")
_SUFFIX: Final = ".template"


def init(
    directory: Annotated[Path, typer.Argument(help="Where; its last part names the project.")],
    *,
    as_json: Json = False,
) -> None:
    """Write a small project that runs: an engine, a web app, a Celery app, a test."""
    name = directory.resolve().name
    package = re.sub(r"\W+", "_", name).lower()
    if not package.isidentifier():
        _refuse(f"{name!r} cannot name a Python package: let it begin with a letter.")
    files = _files(directory, name=name, package=package)
    if there := [target for target in files if target.exists()]:
        _refuse(f"{there[0]} is there already; nothing was written.")
    for target, text in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    if as_json:
        print(json.dumps({"directory": str(directory), "files": [str(target) for target in files]}))
        return
    print(*files, sep="\n")
    print(f"\nNext:  cd {directory}  &&  pip install -e '.[test]'  &&  mainstem up")


def _files(directory: Path, *, name: str, package: str) -> dict[Path, str]:
    """Return what is written where."""
    files: dict[Path, str] = {}
    for source in sorted(_TEMPLATES.rglob(f"*{_SUFFIX}")):
        place = source.relative_to(_TEMPLATES)
        parts = [package if part == "package" else part for part in place.parts]
        parts[-1] = parts[-1].removesuffix(_SUFFIX).replace("gitignore", ".gitignore")
        words = Template(source.read_text())
        files[directory.joinpath(*parts)] = words.substitute(name=name, package=package)
    return files


def _refuse(words: str) -> None:
    typer.secho(words, fg=typer.colors.RED, err=True)
    raise typer.Exit(Exit.REFUSED)
