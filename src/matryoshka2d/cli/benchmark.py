"""matryoshka2d benchmark: engines x precisions x sizes on this machine, and the fastest made the default."""

from __future__ import annotations

import dataclasses
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matryoshka2d.cli.common import Device, Json, Model, Pooling, Quiet, print_json, quiet_libraries, say

if TYPE_CHECKING:
    from rich.table import Table

    from matryoshka2d.inference.benchmark import Benchmark, Pairs


def benchmark(
    model: Model,
    sizes: Annotated[
        str | None, typer.Option(help="Sizes, as 1-6x128. Default: full, half and single depth.")
    ] = None,
    engines: Annotated[str, typer.Option(help="Which engines, with commas.")] = "torch,onnx",
    precisions: Annotated[
        str | None, typer.Option(help="Which precisions, with commas. Default: all that suit this machine.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Your own texts, a file. Default: those of this package.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column that holds the texts.")] = None,
    limit: Annotated[int, typer.Option(min=2, help="How many texts.")] = 2000,
    sts: Annotated[
        Path | None, typer.Option(help="STS file or folder: show what a precision costs in Spearman.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is timed.")] = 3,
    agreement: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Least cosine to fp32 that a default must have.")
    ] = 0.999,
    save: Annotated[bool, typer.Option("--save", help="Make the winner this model's default here.")] = False,
    pooling: Pooling = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model on this machine: speed, latency, and agreement with fp32.

    Example: matryoshka2d benchmark my-model --save
    """
    from matryoshka2d.errors import UserError, did_you_mean
    from matryoshka2d.inference import benchmark as measure
    from matryoshka2d.inference.engine import ENGINES, PRECISIONS
    from matryoshka2d.size import default_sizes, parse_sizes

    names = [name.strip() for name in engines.split(",")]
    kinds = None if precisions is None else [name.strip() for name in precisions.split(",")]
    for name, known, what in [
        *((n, ENGINES, "engine") for n in names),
        *((k, PRECISIONS[1:], "precision") for k in kinds or []),
    ]:
        if name not in known:
            raise UserError(
                f"no {what} is called '{name}': expected {', '.join(known)}.{did_you_mean(name, known)}"
            )
    wanted = None if sizes is None else parse_sizes(sizes)
    corpus = _texts(texts, column, limit)
    pairs = None if sts is None else _pairs(sts)
    quiet_libraries()
    if wanted is None:
        from matryoshka2d.inference import open_engine

        full = open_engine(model, "torch", "fp32", device, pooling=pooling).size
        depths = sorted({1, max(1, full.layers // 2), full.layers})
        wanted = tuple(
            s for s in default_sizes(full.layers, full.dims) if s.layers in depths and s.dims == full.dims
        )
    found = measure.benchmark(
        model,
        corpus,
        sizes=wanted,
        engines=names,
        precisions=kinds,
        device=device,
        pooling=pooling,
        pairs=pairs,
        rounds=rounds,
        note=lambda line: say(f"Measuring {line} …", silent=quiet or json),
    )
    winner = found.winner(agreement) if save else None
    if winner is not None:
        from matryoshka2d.inference.engine import save_default

        save_default(model, winner.engine, winner.precision, winner.texts_per_second)
    _show(found, model, winner, json=json, quiet=quiet)


def _show(found: Benchmark, model: str, winner: object, *, json: bool, quiet: bool) -> None:
    if json:
        rows = [{**dataclasses.asdict(row), "size": str(row.size)} for row in found.rows]
        saved = None if winner is None else {"engine": winner.engine, "precision": winner.precision}  # type: ignore[attr-defined]
        print_json({"model": model, "rows": rows, "left_out": found.left_out, "saved": saved})
        return
    from rich.console import Console

    Console().print(_table(found))
    for line in found.left_out:
        say(f"Left out: {line}", silent=quiet)
    if winner is not None and not quiet:
        print(f"Saved: {model} runs in {winner.engine} {winner.precision} on this machine.")  # type: ignore[attr-defined]


def _table(found: Benchmark) -> Table:
    from rich.table import Table

    table = Table(title="cosine: to torch fp32, lowest and mean", title_justify="left", padding=(0, 0, 0, 1))
    scored = any(row.spearman is not None for row in found.rows)
    for name in ("engine", "precision"):
        table.add_column(name, no_wrap=True)
    for name in ("size", "texts/s", "ms", "lowest", "mean", *(["Spearman"] if scored else []), "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.rows:
        scores = [f"{row.spearman:+.2f}"] if row.spearman is not None else []
        table.add_row(
            row.engine,
            row.precision,
            str(row.size),
            f"{row.texts_per_second:,.0f}",
            f"{row.milliseconds:.1f}",
            f"{row.lowest_cosine:.4f}",
            f"{row.mean_cosine:.5f}",
            *scores,
            f"{row.megabytes:,.0f}",
        )
    return table


def _texts(path: Path | None, column: str | None, limit: int) -> list[str]:
    """Return up to so many texts: the distinct ones of a file, or those of this package again and again."""
    if path is None:
        from matryoshka2d.inference.benchmark import sample_texts

        return list(islice(cycle(sample_texts()), limit))
    from matryoshka2d.inference.encoding import read_texts

    return list(dict.fromkeys(read_texts(path, column=column)))[:limit]


def _pairs(path: Path) -> Pairs:
    import numpy as np

    from matryoshka2d.evaluation import read_sts
    from matryoshka2d.inference.benchmark import Pairs

    sets = read_sts(path)
    return Pairs(
        [text for one in sets for text in one.sentence1],
        [text for one in sets for text in one.sentence2],
        np.concatenate([one.gold for one in sets]),
    )
