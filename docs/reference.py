"""Write the option tables of strategies and objectives into docs/strategies.md, from their own docstrings.

python docs/reference.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from matryoshka2d.losses import objectives, strategies
from matryoshka2d.options import Description

PAGE = Path(__file__).with_name("strategies.md")
MARK = "<!-- generated below: python docs/reference.py -->\n"


def section(title: str, descriptions: Iterable[Description]) -> str:
    """Return one markdown section: a heading and an option table for every name."""
    parts = [f"## {title}\n"]
    for described in descriptions:
        parts.append(f"### `{described.name}`\n\n{described.summary}\n")
        if described.options:
            rows = [
                f"| `{option.name}` | {option.type} | {option.default or '–'} | {option.help} |"
                for option in described.options
            ]
            parts.append("\n".join(["| option | type | default | |", "|---|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def generated(page: str) -> str:
    """Return the page with its generated part made anew."""
    head, _, _ = page.partition(MARK)
    tables = [section("Options of strategies", strategies.describe())]
    tables += [section("Options of objectives", objectives.describe())]
    return head + MARK + "\n" + "\n".join(tables)


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
