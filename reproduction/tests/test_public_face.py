"""The reproduction uses of the package what the package shows: names of ``__all__``, and the ground files."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import matryoshka2d_reproduction

SOURCE = Path(matryoshka2d_reproduction.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
GROUND = {"errors", "files", "options", "size"}


def imports_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield module and name of everything that is imported from the package, inside functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (
                (alias.name, "") for alias in node.names if alias.name.split(".")[0] == "matryoshka2d"
            )
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "matryoshka2d":
            yield from ((str(node.module), alias.name) for alias in node.names)


def is_public(module: str, name: str) -> bool:
    room = module.removeprefix("matryoshka2d").removeprefix(".")
    if room in GROUND:
        return not name.startswith("_")
    return name in getattr(importlib.import_module(module), "__all__", ())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_only_public_names_of_the_package_are_used(path: Path) -> None:
    hidden = [one for one in imports_of(path.read_text(encoding="utf-8")) if not is_public(*one)]
    assert not hidden


@pytest.mark.parametrize(
    "line",
    [
        "import matryoshka2d.encoder.elastic",
        "from matryoshka2d.encoder.elastic import ElasticEncoder",
        "from matryoshka2d.encoder import _find",
        "def f():\n    from matryoshka2d.training.trainer import ElasticTrainer",
    ],
)
def test_other_names_would_be_found(line: str) -> None:
    assert [one for one in imports_of(line) if not is_public(*one)]
