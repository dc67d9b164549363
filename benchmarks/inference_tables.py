"""results/inference.json, or the file that is named → its page: python benchmarks/inference_tables.py [FILE]

A file may say under ``title`` and ``note`` what stands at the top of its page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PRODUCTS = "sentence-transformers"
OURS = ("torch ", "onnx ")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def measured(part: dict[str, Any]) -> str:
    """Say where, when and how a part was measured."""
    kernels = "compiled kernels" if part["kernels"] else "no compiled kernels"
    note = f" {part['note']}" if "note" in part else ""
    return (
        f"{part['processor']}, {part['threads']} threads, {part['date']}, torch {part['torch']}, "
        f"sentence-transformers {part['sentence-transformers']}, {kernels}: `python {part['command']}`.{note}"
    )


def best(row: dict[str, Any], name: str) -> tuple[float, str]:
    """Return the most texts a second of a peer and the batch size that gave it."""
    speeds = row["texts_per_second"][name]
    batch = max(speeds, key=lambda size: speeds[size])
    return speeds[batch], batch


def peers(part: dict[str, Any]) -> str:
    """Return the tables of speed and agreement, memory and start."""
    rows = {name: row for name, row in part["figures"].items() if "texts_per_second" in row}
    inputs = list(next(iter(rows.values()))["texts_per_second"])
    products = [row for peer, row in rows.items() if peer.startswith(PRODUCTS)]
    fastest = {name: max(best(row, name)[0] for row in products) for name in inputs}
    plain = {name: rows["sentence-transformers fp32"]["texts_per_second"][name]["32"] for name in inputs}
    speed = []
    for name, row in rows.items():
        cells = [f"**{name}**" if name.startswith(OURS) else name]
        for text in inputs:
            value, batch = best(row, text)
            shown = "" if batch == "auto" else f" ({batch})"
            cells.append(f"{value:,.0f}{shown}")
            cells.append(f"{value / fastest[text]:.2f}x, {value / plain[text]:.2f}x")
        speed.append(cells)
    header = ["texts/s (batch)", *(cell for name in inputs for cell in (name, "ratios"))]
    other = [
        [
            name,
            *(f"{row['agreement'][text]['lowest']:.5f}" for text in inputs),
            f"{row['peak_megabytes']:,.0f}",
            f"{row['first_vector_seconds']:.1f}",
        ]
        for name, row in rows.items()
        if "agreement" in row
    ]
    failed = [f"{name}: {row['error']}" for name, row in part["figures"].items() if "error" in row]
    return "\n\n".join(
        [
            "## Throughput at full size (6x384)",
            measured(part),
            "Each at its best batch size. Ratios: to the fastest sentence-transformers backend on the same "
            "input, and to sentence-transformers as it comes (fp32, batches of 32).",
            table(header, speed),
            *_agreement(inputs, other),
            *([f"Not measured: {'; '.join(failed)}"] if failed else []),
        ]
    )


def _agreement(inputs: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the section on agreement, memory and start, or nothing where none of it was measured."""
    if not rows:
        return []
    return [
        "## Agreement with fp32, memory and start",
        "Lowest cosine over all texts of each input; peak memory of the process over all three inputs in "
        "megabytes; seconds from the start of Python to the first vector.",
        table(["", *inputs, "peak MB", "first vector s"], rows),
    ]


def depths(part: dict[str, Any]) -> str:
    """Return the curve over layers, the share of the peak and the profile."""
    figures = part["figures"]
    tables = []
    for name in ("short", "long"):
        row = figures[name]
        lines = [
            [
                layers,
                f"{row['texts_per_second']['tokens'][layers]:,.0f}",
                f"{row['ratio_to_full']['tokens'][layers]:.2f}x",
                f"{6 / int(layers):.2f}x",
                f"{row['texts_per_second']['text'][layers]:,.0f}",
                f"{row['ratio_to_full']['text'][layers]:.2f}x",
            ]
            for layers in row["texts_per_second"]["tokens"]
        ]
        header = ["layers", "texts/s from tokens", "to full", "ideal 6/n", "texts/s from text", "to full"]
        tables += [
            f"### {name}: {row['texts']} texts of {row['tokens_per_text']:.1f} tokens",
            table(header, lines),
            f"Full size: {row['teraflops']:.2f} TFLOP/s, {row['share_of_peak']:.0%} of the measured peak of "
            f"matrix products ({figures['matrix_peak_teraflops']:.2f}); the tokenizer alone: "
            f"{row['tokenizer_texts_per_second']:,.0f} texts/s.",
        ]
    shares = [[name, f"{share:.1%}"] for name, share in figures["profile"].items()]
    return "\n\n".join(
        [
            f"## What a depth costs (torch {_precision(figures)})",
            measured(part),
            *tables,
            "### Where the time goes: short texts, full size, one core",
            table(["", "share"], shares),
        ]
    )


def _precision(figures: dict[str, Any]) -> str:
    """Return the precision of the torch engine; files of before it was a choice do not say it."""
    return str(figures.get("precision", "bf16"))


def latency(part: dict[str, Any]) -> str:
    """Return the tables of one query and of many callers."""
    figures = part["figures"]
    one = [[name, f"{row['p50']:.2f}", f"{row['p99']:.2f}"] for name, row in figures["milliseconds"].items()]
    many = [[callers, f"{speed:,.0f}"] for callers, speed in figures["callers"].items()]
    return "\n\n".join(
        [
            f"## One query, many callers (torch {_precision(figures)})",
            measured(part),
            table(["milliseconds for one text", "p50", "p99"], one),
            table(["callers with one text each", "texts/s"], many),
        ]
    )


def corpus(part: dict[str, Any]) -> str:
    """Return the figures of the large corpus."""
    figures = part["figures"]
    lines = [
        ["rows a second", f"{figures['rows_per_second']:,.0f}"],
        ["seconds", f"{figures['seconds']:,.0f}"],
        ["megabytes at each tenth of the time", ", ".join(map(str, figures["megabytes_at_each_tenth"]))],
        ["shards there after each SIGKILL", ", ".join(map(str, figures["shards_found_after_each_kill"]))],
        ["shards in all", figures["shards"]],
        ["resumed run identical to the unbroken one", "yes" if figures["identical"] else "NO"],
    ]
    title = f"## {figures['rows']:,} distinct short texts through `encode` to Parquet at {figures['size']}"
    return "\n\n".join([title, measured(part), table(["", ""], lines)])


PARTS = {"peers": peers, "depths": depths, "latency": latency, "corpus": corpus}


def main() -> None:
    """Write the page beside the figures."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "inference.json"
    whole = json.loads(file.read_text(encoding="utf-8"))
    top = [f"# {whole.get('title', 'Inference, measured')}", *([whole["note"]] if "note" in whole else [])]
    parts = [PARTS[name](whole[name]) for name in PARTS if name in whole]
    file.with_suffix(".md").write_text("\n\n".join([*top, *parts]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
