"""The package as a whole: quick to import, the names it promises, and which room may know which."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import time
from collections.abc import Container, Iterator
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import matryoshka2d
from matryoshka2d.encoder.architectures import ARCHITECTURES

SOURCE = Path(matryoshka2d.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
HEAVY = ("torch", "transformers", "sentence_transformers", "datasets", "numpy", "scipy", "pyarrow")


def test_importing_takes_well_under_a_second_and_loads_nothing_heavy() -> None:
    code = f"""
import sys, time
start = time.perf_counter()
import matryoshka2d
print(time.perf_counter() - start, *[name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *loaded = done.stdout.split()
    assert loaded == []
    assert float(seconds) < 0.5


def test_the_version_is_shown_in_well_under_three_seconds() -> None:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "matryoshka2d", "--version"], capture_output=True, check=True)
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize("name", matryoshka2d.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert name in dir(matryoshka2d)
    assert getattr(matryoshka2d, name).__doc__


LISTS = [path for path in MODULES if "lazy_names(__name__)" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.parent.name)
def test_every_name_of_a_package_is_where_its_list_says(path: Path) -> None:
    package = importlib.import_module(_name_of(path))
    assert len(package.__all__) == len(set(package.__all__)) > 0
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_every_package_that_says_what_it_shows_is_listed() -> None:
    assert {path.parent.name for path in LISTS} >= {
        "matryoshka2d",
        "encoder",
        "evaluation",
        "training",
        "cli",
    }


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        matryoshka2d.nothing  # noqa: B018
    assert not hasattr(importlib.import_module("matryoshka2d.training"), "nothing")


def test_types_are_shipped() -> None:
    assert (SOURCE / "py.typed").is_file()


def test_the_version_is_that_of_the_distribution() -> None:
    assert matryoshka2d.__version__ == version("matryoshka2d")


def test_the_command_is_declared() -> None:
    (command,) = entry_points(group="console_scripts", name="matryoshka2d")
    assert command.value == "matryoshka2d.cli:main"


# --- the rules between the rooms -------------------------------------------------------------------


def room_of(module: str) -> str:
    """Return the first part of a module's name inside the package."""
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path, *, at_run_time: bool = True) -> Iterator[str]:
    """Yield the modules of the package that a file imports, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if at_run_time and id(node) in for_types:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # `from matryoshka2d import loading` is an import of that module.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "matryoshka2d")


def rooms_imported_by(room: str) -> set[str]:
    """Return the rooms that a package or a module of the package imports from."""
    paths = [SOURCE / f"{room}.py"] if (SOURCE / f"{room}.py").is_file() else (SOURCE / room).rglob("*.py")
    return {room_of(name) for path in paths for name in imports_of(path)} - {room}


GROUND = {"errors", "size", "files", "options", "lazy"}
# Which room may import which; what is not listed must not exist.
ARROWS: dict[str, set[str]] = {
    "lazy": set(),
    "errors": set(),
    "size": {"errors"},
    "files": {"errors"},
    "options": {"errors", "size"},
    "data": {"errors", "files", "lazy"},
    "encoder": {"errors", "size", "files", "lazy"},
    "losses": {"encoder", "data", "options", "size", "errors", "lazy"},
    "evaluation": {"encoder", "data", *GROUND},
    "training": {"data", "losses", "encoder", "evaluation", *GROUND},
    "export": {"encoder", "evaluation", *GROUND},
    "inference": {"export", "encoder", "evaluation", "data", *GROUND},
    "planning": {"inference", "evaluation", "encoder", *GROUND},
    "search": {"inference", "evaluation", "encoder", "data", *GROUND},
    "serving": {"search", "inference", "evaluation", "encoder", *GROUND},
}


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    assert rooms_imported_by(room) <= ARROWS[room]


def test_every_room_has_its_row() -> None:
    rooms = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in MODULES}
    assert rooms - {"__init__", "__main__", "cli"} == set(ARROWS)


def test_search_knows_no_training_and_only_the_command_line_knows_search() -> None:
    assert not rooms_imported_by("search") & {"training", "cli", "planning", "quickstart", "experiments"}
    users = {
        room_of(_name_of(path)) for path in MODULES for name in imports_of(path) if room_of(name) == "search"
    }
    assert users <= {"search", "cli", "serving"}


def users_of(room: str) -> set[str]:
    """Return the files outside of a room that import from it."""
    return {
        path.relative_to(SOURCE).as_posix()
        for path in MODULES
        for name in imports_of(path, at_run_time=False)
        if room_of(name) == room and path.parent.name != room
    }


def test_nobody_imports_the_command_line() -> None:
    assert users_of("cli") == {"__main__.py"}


def test_only_its_command_imports_the_server() -> None:
    assert users_of("serving") == {"cli/serve.py"}


def test_modules_do_not_import_in_circles() -> None:
    """No module needs itself by any way, for types either; the package's own list of names is left out."""
    names = {_name_of(path): path for path in MODULES if path.parent != SOURCE or path.stem != "__init__"}
    needs = {
        name: {_module_in(imported, names) for imported in imports_of(path, at_run_time=False)} & names.keys()
        for name, path in names.items()
    }
    # What is left when modules that need nothing are taken away again and again is a circle.
    while free := {name for name, needed in needs.items() if not needed - {name}}:
        needs = {name: needed - free for name, needed in needs.items() if name not in free}
    assert needs == {}


def _name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module_in(imported: str, names: Container[str]) -> str:
    """Return the module that an imported name is, or is in."""
    return imported if imported in names else imported.rpartition(".")[0]


def test_only_one_file_knows_an_architecture_by_its_name() -> None:
    found = {
        (path.name, node.value)
        for path in MODULES
        if path.name != "architectures.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in ARCHITECTURES
    }
    assert found == set()
