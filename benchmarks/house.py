"""The structure of a checkout in numbers: files, lines, rooms, arrows, floors, public names, import time.

Run it on two checkouts to compare them; nothing of the package is imported but by the timed processes.

    python benchmarks/house.py . ../older-checkout
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

PACKAGE = "matryoshka2d"


def main() -> None:
    """Print a table with one column a checkout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    columns = {str(path): measure(path.resolve()) for path in arguments.checkouts}
    if arguments.json:
        print(json.dumps(columns, indent=1))
        return
    names = list(next(iter(columns.values())))
    width = max(map(len, names))
    print(" " * width, *(f"{name:>16}" for name in columns))
    for name in names:
        print(f"{name:{width}}", *(f"{column[name]:>16}" for column in columns.values()))


def measure(root: Path) -> dict[str, float]:
    """Return what is counted and timed of a checkout."""
    source = root / "src" / PACKAGE
    files = sorted(source.rglob("*.py"))
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    needs = rooms_needed(source, files)
    return {
        "files": len(files),
        "lines": sum(lines),
        "lines of code": sum(map(code_lines, files)),
        "median file": statistics.median(lines),
        "largest file": max(lines),
        "modules at the top": len([path for path in source.glob("*.py") if not path.name.startswith("__")]),
        "rooms": len(needs),
        "arrows between rooms": sum(map(len, needs.values())),
        "floors": floors(needs),
        "rooms in circles": len(in_circles(needs)),
        "modules in circles": len(in_circles(modules_needed(source, files))),
        "public names": public_names(source),
        "tracked files": len(tracked(root)),
        "tracked MB": round(sum((root / name).stat().st_size for name in tracked(root)) / 1e6, 1),
        "import, s": seconds(root, "-c", f"import {PACKAGE}"),
        "--help, s": seconds(root, "-m", PACKAGE, "--help"),
    }


def code_lines(path: Path) -> int:
    """Count the lines that are neither empty, comments nor docstrings."""
    text = path.read_text(encoding="utf-8")
    documented = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return sum(
        1
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#") and number not in documented
    )


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules and names of the package that a file imports, those for types too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(source: Path, path: Path) -> str:
    """Return the dotted name of a file, without the package."""
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_needed(source: Path, files: list[Path]) -> dict[str, set[str]]:
    """Return module → modules that it imports."""
    names = {module_of(source, path) for path in files}
    needs: dict[str, set[str]] = {}
    for path in files:
        own = module_of(source, path)
        found = {name.removeprefix(f"{PACKAGE}.") for name in imports_of(path)}
        found = {name if name in names else name.rpartition(".")[0] for name in found}
        needs[own] = (found & names) - {own, ""}
    return needs


def rooms_needed(source: Path, files: list[Path]) -> dict[str, set[str]]:
    """Return room (first part of a module's name) → rooms that it imports; the two faces are left out."""
    needs: dict[str, set[str]] = {}
    for module, wanted in modules_needed(source, files).items():
        room = module.split(".")[0]
        if room not in ("", "__main__"):
            needs.setdefault(room, set()).update({name.split(".")[0] for name in wanted} - {room, "__main__"})
    return needs


def in_circles(needs: dict[str, set[str]]) -> set[str]:
    """Return what is left when all that needs nothing, or that nothing needs, is taken away."""
    left = dict(needs)
    while True:
        needed = {name for wanted in left.values() for name in wanted}
        kept = {
            name: wanted & set(left) for name, wanted in left.items() if wanted & set(left) and name in needed
        }
        if kept.keys() == left.keys():
            return set(kept)
        left = kept


def floors(needs: dict[str, set[str]]) -> int:
    """Return the longest chain of imports between rooms, a circle counted once."""
    depth: dict[str, int] = {}

    def floor(name: str, above: frozenset[str]) -> int:
        if name not in depth:
            below = [floor(one, above | {name}) for one in needs.get(name, ()) if one not in above]
            depth[name] = 1 + max(below, default=0)
        return depth[name]

    return max(floor(name, frozenset()) for name in needs)


def public_names(source: Path) -> int:
    """Return how many names the package lists in ``__all__``."""
    code = f"import {PACKAGE}; print(*{PACKAGE}.__all__)"
    return len(_run(source.parent.parent, "-c", code).stdout.split())


def tracked(root: Path) -> list[str]:
    """Return the files that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def seconds(root: Path, *arguments: str) -> float:
    """Return the median seconds of a fresh Python with these arguments, less those of an empty one."""
    times = []
    for words in [("-c", "pass"), arguments] * 5:
        start = time.perf_counter()
        _run(root, *words)
        times.append(time.perf_counter() - start)
    return round(statistics.median(b - a for a, b in list(pairwise(times))[::2]), 3)


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=True
    )


if __name__ == "__main__":
    main()
