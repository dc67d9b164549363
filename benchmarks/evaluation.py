"""The whole grid against one plain encode of the same texts, in one run.

    python benchmarks/evaluation.py [--sts FOLDER]

The grid computes 48 sizes; the encode computes the full size alone. Their ratio is what the grid costs. Where
the processor has units for bf16, the grid in bf16 stands beside them, with how far its scores are from fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from language_reference import sentences
from machine import facts
from matryoshka2d.cli.common import quiet_libraries
from matryoshka2d.encoder.default_model import default_model_path
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.precision import bf16_units
from matryoshka2d.evaluation import Grid, StsSet, encode_sts, read_sts
from matryoshka2d.inference.engine_exits import open_exits

RESULTS = Path(__file__).resolve().parent / "results"


def pairs(folder: str | None, limit: int | None) -> list[StsSet]:
    """Return STS sets, or neighboring sentences of Python's language reference with made-up scores."""
    if folder:
        return read_sts(folder)
    known = tuple(sentences()[: limit or 4000])
    half = len(known) // 2
    return [
        StsSet(
            "documentation",
            known[:half],
            known[half : 2 * half],
            np.arange(half, dtype=np.float64) % 6,
        )
    ]


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_bf16(
    encoder: ElasticEncoder, sets: list[StsSet], exact: Grid, fp32_seconds: float, rounds: int
) -> dict[str, float]:
    """Return what the grid takes in bf16, its share of the time in fp32, and how far scores move."""
    exits = open_exits(encoder, "bf16")
    exits.exits(list(sets[0].sentence1[:64]))
    found: list[Grid] = []
    spent = [seconds(lambda: found.append(encode_sts(exits, sets).grid())) for _ in range(rounds)]
    changes = [abs(found[-1].mean(size) - exact.mean(size)) for size in exact.sizes]
    return {
        "rounds": rounds,
        "fp32_grid_seconds": fp32_seconds,
        "grid_seconds": statistics.median(spent),
        "share_of_fp32": statistics.median(spent) / fp32_seconds,
        "largest_change_of_a_size": max(changes),
        "change_of_the_mean": abs(found[-1].mean_over_sizes() - exact.mean_over_sizes()),
    }


def main() -> None:
    """Time both in turn and write the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sts", help="folder of STS files; sentences of Python's documentation by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    quiet_libraries()
    sets = pairs(arguments.sts, arguments.limit)
    texts = list(dict.fromkeys(text for one in sets for text in (*one.sentence1, *one.sentence2)))
    encoder = ElasticEncoder(default_model_path(), device="cpu")
    encoder.encode(texts[:64])
    encode, grid = [], []
    grids: list[Grid] = []
    for _ in range(arguments.rounds):
        encode.append(seconds(lambda: encoder.encode(texts, size=encoder.size, batch_size=64)))
        grid.append(seconds(lambda: grids.append(encode_sts(encoder, sets).grid())))
    result: dict[str, Any] = {
        **facts(),
        "texts": len(texts),
        "sizes": len(encoder.sizes),
        "encode_seconds": statistics.median(encode),
        "grid_seconds": statistics.median(grid),
        "ratio": statistics.median(g / e for g, e in zip(grid, encode, strict=True)),
    }
    if bf16_units("cpu"):
        result["bf16"] = in_bf16(encoder, sets, grids[-1], result["grid_seconds"], arguments.rounds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
