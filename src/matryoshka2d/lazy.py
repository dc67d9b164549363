"""Names of a package that are imported when they are first used, from the list that type checkers read."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], list[str]]:
    """Return the ``__getattr__`` and the ``__all__`` of a package.

    Its names are those that it imports under ``if TYPE_CHECKING:``, so each is written once. Importing the
    package then waits for none of their libraries.

    >>> find, names = lazy_names("matryoshka2d")
    >>> "Size" in names, str(find("Size").parse("3x128"))
    (True, '3x128')
    """
    loader = sys.modules[package].__loader__
    homes = {
        alias.name: str(line.module)
        for block in ast.parse(loader.get_source(package)).body  # type: ignore[union-attr]
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(homes[name]), name)

    return find, sorted(homes)
