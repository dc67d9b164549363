"""What `search.py` measured → its page."""

from __future__ import annotations

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
        "those of one query at a time. Every part names its machine and its command.",
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
        return "\n\n".join(
            _of_store(store, figures[store])
            for store in ("faiss", "postgresql", "qdrant")
            if store in figures
        )
    plain = {name: value for name, value in figures.items() if not isinstance(value, (list, dict, str))}
    text = ", ".join(
        f"{name} {value:,.3g}" if isinstance(value, float) else f"{name} {value:,}"
        for name, value in plain.items()
    )
    blocks = [text] if text else []
    for name, value in figures.items():
        if isinstance(value, dict):
            blocks.append(f"{name}: " + ", ".join(f"{key} {_number(one)}" for key, one in value.items()))
        if isinstance(value, list) and value:
            header = [key for key in value[0] if key != "bytes"]
            blocks.append(table(header, [[_number(one.get(key)) for key in header] for one in value]))
    return "\n\n".join(blocks)


def _of_store(store: str, figures: dict[str, Any]) -> str:
    rows: list[list[object]] = []
    for one in figures["rows"]:
        rows.append(
            [
                one["first stage"],
                one["oversample"] or "-",
                f"{one['recall']:.4f}",
                f"{one['p50']:.2f}",
                f"{one['p95']:.2f}",
                f"{one['bytes']['first stage'] / 1e6:.1f}",
                f"{sum(one['bytes'].values()) / 1e6:.1f}",
                f"{one['build']:.1f}",
                f"{one['as numpy']:.1%}" if "as numpy" in one else "",
            ]
        )
    header = ["first stage", "oversample", "recall@10", "p50 ms", "p95 ms", "first stage MB", "MB", "build s"]
    text = f"**{store}**\n\n" + table([*header, "as numpy's funnel"], rows)
    if store == "faiss":
        flat = figures["rows"][0]["p50"]
        sure = [one for one in figures["rows"][1:] if one["recall"] >= 0.99]
        if sure:
            best = min(sure, key=lambda one: one["p50"])
            text += (
                f"\n\nAt a recall of 0.99 the quickest ({best['first stage']}, oversample "
                f"{best['oversample']}) is {flat / best['p50']:.1f} times as fast as the flat index."
            )
    if "plan" in figures:
        small, large = figures["prefix index bytes"], figures["whole half index bytes"]
        text += (
            f"\n\nThe index over {PREFIX} dims as half takes {small / 1e6:.1f} MB, one over all {DIMS} dims "
            f"{large / 1e6:.1f} MB ({small / large:.2f}); over {PREFIX // 2} dims "
            f"{figures['half as long'] / large:.2f}.\n\n```\n{figures['plan']}\n```"
        )
    return text


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
