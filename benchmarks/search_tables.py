"""What `search.py` measured → its page."""

from __future__ import annotations

import re
from typing import Any

DIMS, PREFIX = 384, 128


def table(header: list[str], rows: list[list[object]]) -> str:
    """Return a Markdown table."""
    lines: list[list[object]] = [[*header], ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def page(parts: dict[str, Any]) -> str:
    """Return the page of all parts that are there."""
    lines = ["# Search by a prefix and rescoring", ""]
    lines += [
        "Recall is that of the ten nearest of exact search over whole vectors (384 dims); milliseconds are "
        "those of one query at a time, seconds those of the wall clock; neither is given where the machine "
        "had other work. The prefix has 128 dims where no other is named. Every part "
        "names its machine and its command; `benchmarks/search.py` says what the words mean.",
        "",
    ]
    for name in sorted(parts):
        part = parts[name]
        machine = part["machine"]
        lines += [f"## {name}", ""]
        lines += [
            f"{machine['processor']}, {machine['threads']} threads, {machine['date']}: "
            f"`python benchmarks/search.py {part['command']}`",
            "",
        ]
        lines += [_shown(name.split()[0], part["figures"]), ""]
    lines += ["## 100 million and a billion, on paper", "", on_paper(), ""]
    return "\n".join(lines)


def _shown(kind: str, figures: dict[str, Any]) -> str:
    if kind == "stores":
        return _of_store(figures)
    plain = {name: value for name, value in figures.items() if not isinstance(value, (list, dict, str))}
    text = ", ".join(f"{name} {_number(value)}" for name, value in plain.items())
    blocks = [text] if text else []
    for name, value in figures.items():
        if isinstance(value, dict):
            blocks.append(f"{name}: " + ", ".join(f"{key} {_number(one)}" for key, one in value.items()))
        if isinstance(value, list) and value:
            header = list(value[0])
            blocks.append(table(header, [[_number(one.get(key)) for key in header] for one in value]))
    return "\n\n".join(blocks)


def _of_store(figures: dict[str, Any]) -> str:
    rows: list[list[object]] = []
    exact = figures.get("exact")
    if exact:
        times = _times(exact, exact)
        rows.append(["none: whole vectors", "", f"{exact['recall']:.4f}", *times, "", "", "", ""])
    for name, one in figures["variants"].items():
        first, every = one["bytes"]["first stage"], sum(one["bytes"].values())
        built = f"{one['build seconds']:.0f}" if one["machine alone"] else ""
        for own in one.get("searches", []):
            rows.append(
                [
                    name.replace("-", ", "),
                    own["oversample"],
                    f"{own['recall']:.4f}",
                    *_times(own, one),
                    f"{first / 1e6:.1f}",
                    f"{every / 1e6:.1f}",
                    built,
                    f"{own['as numpy']:.1%}" if "as numpy" in own else "",
                ]
            )
    header = ["first stage", "oversample", "recall@10", "p50 ms", "p95 ms", "first stage MB", "MB", "build s"]
    blocks = [f"{figures['documents']:,} documents, {figures['queries']} queries."]
    blocks.append(table([*header, "as numpy's funnel"], rows))
    if exact and all(one.get("searched alone") for one in [exact, *figures["variants"].values()]):
        blocks.append(_quickest(exact, figures["variants"]))
    for one in figures["variants"].values():
        if "plan" in one:
            small, large = one["prefix index bytes"], one["whole half index bytes"]
            blocks.append(
                f"The index over {PREFIX} dims as half takes {small:,} bytes, one over all {DIMS} dims "
                f"{large:,} ({small / large:.4f}); over {PREFIX // 2} dims "
                f"{one['half as long']:,} ({one['half as long'] / large:.4f}). The plan of a search:"
            )
            blocks.append(f"```text\n{short(one['plan'])}\n```")
    return "\n\n".join(blocks)


def _times(one: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """Return median and 95th percentile; nothing where the machine had other work."""
    return [f"{one['p50']:.2f}", f"{one['p95']:.2f}"] if run.get("searched alone") else ["", ""]


def _quickest(exact: dict[str, Any], variants: dict[str, Any]) -> str:
    """Say what a recall of 0.99 costs, beside comparing whole vectors."""
    sure = [
        (own["p50"], name, own["oversample"])
        for name, one in variants.items()
        for own in one.get("searches", [])
        if own["recall"] >= 0.99
    ]
    if not sure:
        return "No way reaches a recall of 0.99."
    best, name, oversample = min(sure)
    return (
        f"At a recall of 0.99 the quickest ({name.replace('-', ', ')}, oversample {oversample}) is "
        f"{exact['p50'] / best:.1f} times as fast as comparing whole vectors."
    )


def short(plan: str) -> str:
    """Return a plan without the numbers of the query's vector."""
    return re.sub(r"'\[[^\]]*\]'", "'[…]'", plan)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return (
        "-"
        if value is None
        else f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)
    )


def on_paper() -> str:
    """Return what larger corpora take, by arithmetic: vectors, first stage, links of a graph."""
    rows: list[list[object]] = []
    for count, name in ((10**8, "100 million"), (10**9, "1 billion")):
        for dims, prefix, codes, wide in (
            (384, 128, "float", 4.0),
            (384, 128, "int8", 1.0),
            (384, 64, "bit", 0.125),
        ):
            whole, first, links = 4 * dims * count, wide * prefix * count, 4 * 32 * count
            rows.append(
                [
                    name,
                    f"{prefix} {codes}",
                    *(f"{one / 1e9:,.0f}" for one in (whole, first, links)),
                    f"{(first + links) / 1e9:,.0f}",
                ]
            )
    header = [
        "vectors",
        "first stage",
        "whole GB (4 x 384)",
        "prefix GB",
        "links GB (4 x 32)",
        "in memory GB",
    ]
    return table(header, rows) + (
        "\n\nWhole vectors may lie on disk: a query reads only its candidates (200 x 1,536 bytes = 0.3 MB). "
        "What must be in memory is the first stage and its links; divide by the memory of a machine for the "
        "number of machines."
    )
