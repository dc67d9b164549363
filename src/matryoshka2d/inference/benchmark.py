"""Engines x precisions x sizes on this machine: how fast, and how close to fp32."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.encoder.precision import best_precision
from matryoshka2d.errors import UserError
from matryoshka2d.inference.engine import ENGINES, Engine, Vectors, open_engine
from matryoshka2d.inference.kernels import load_kernels
from matryoshka2d.size import Size

AGREEMENT = 0.999
"""Smallest cosine to fp32, over all texts, that the default of a machine must have."""

_QUERIES = 20


def sample_texts() -> tuple[str, ...]:
    """Return the distinct texts of this package, to measure speed where none are given.

    They are sentences of 5 to 20 words, and every tenth is a paragraph.

    >>> texts = sample_texts()
    >>> len(texts) == len(set(texts))
    True
    """
    from importlib.resources import files

    text = files("matryoshka2d.inference").joinpath("sample_texts.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


@dataclass(frozen=True)
class Row:
    """One engine in one precision at one size.

    Parameters
    ----------
    engine, precision, size
        What was measured.
    texts_per_second
        Median over the rounds, from text to vector.
    milliseconds
        Median for one text alone.
    lowest_cosine, mean_cosine
        Agreement with the torch engine in fp32 at the same size.
    spearman
        Spearman correlation x100 on the scored pairs minus that of fp32; None without pairs.
    megabytes
        Memory that this depth takes, as the engine states it.
    """

    engine: str
    precision: str
    size: Size
    texts_per_second: float
    milliseconds: float
    lowest_cosine: float
    mean_cosine: float
    spearman: float | None
    megabytes: float


@dataclass(frozen=True)
class Pairs:
    """Scored pairs of sentences."""

    left: Sequence[str]
    right: Sequence[str]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Benchmark:
    """The table, and why some rows are not in it."""

    rows: tuple[Row, ...]
    left_out: tuple[str, ...]

    def winner(self, agreement: float = AGREEMENT) -> Row:
        """Return the fastest row at the deepest size among those that agree with fp32.

        Raises
        ------
        UserError
            If none agrees.
        """
        deepest = max(row.size for row in self.rows)
        close = [row for row in self.rows if row.size == deepest and row.lowest_cosine >= agreement]
        if not close:
            raise UserError(f"nothing agrees with fp32 to a cosine of {agreement}: lower --agreement")
        return max(close, key=lambda row: row.texts_per_second)


def benchmark(
    model: str | Path,
    texts: Sequence[str],
    *,
    sizes: Sequence[Size],
    engines: Sequence[str] = tuple(ENGINES),
    precisions: Sequence[str] | None = None,
    device: str | None = None,
    pooling: str | None = None,
    pairs: Pairs | None = None,
    rounds: int = 3,
    note: Callable[[str], None] = lambda _: None,
) -> Benchmark:
    """Measure a model on this machine.

    Parameters
    ----------
    model
        The model.
    texts
        What to embed; half of them also calibrate int8, and agreement is measured on the other half.
    sizes
        At which sizes.
    engines
        Names of engines. One whose library is missing is left out, and said so.
    precisions
        By default fp32, bf16 where the processor has units for it, int16 where it runs, and int8.
    device
        For torch; the other engines run on the CPU.
    pooling
        As in `open_engine`.
    pairs
        Scored pairs, to see what a precision costs in Spearman correlation.
    rounds
        How often each is timed.
    note
        Called with a line for each engine and precision before it is measured.

    Raises
    ------
    UserError
        If nothing can be measured.
    """
    calibration, kept = texts[::2], list(texts[1::2] or texts)
    exact = open_engine(model, "torch", "fp32", device, pooling=pooling)
    reference = {size: exact.embed(kept, size) for size in sizes}
    baseline = {size: _spearman(exact, size, pairs) for size in sizes}
    rows: list[Row] = []
    left_out: list[str] = []
    for engine, precision in _combinations(engines, precisions, device):
        note(f"{engine} {precision}")
        try:
            opened = open_engine(
                model,
                engine,
                precision,
                device if engine == "torch" else None,
                pooling=pooling,
                calibration=calibration if precision == "int8" else None,
            )
        except UserError as error:
            left_out.append(f"{engine} {precision}: {error}")
            continue
        for size in sizes:
            vectors = opened.embed(kept, size)
            cosines = np.einsum("ij,ij->i", vectors, reference[size])
            spearman = _spearman(opened, size, pairs)
            rows.append(
                Row(
                    engine,
                    precision,
                    size,
                    len(kept) / _seconds(partial(opened.embed, kept, size), rounds),
                    1000 * _latency(opened, kept, size),
                    float(cosines.min()),
                    float(cosines.mean()),
                    None if spearman is None else spearman - (baseline[size] or 0.0),
                    opened.memory().get(size.layers, 0) / 1e6,
                )
            )
    if not rows:
        raise UserError(f"nothing could be measured: {'; '.join(left_out)}")
    return Benchmark(tuple(rows), tuple(left_out))


def _combinations(
    engines: Sequence[str], precisions: Sequence[str] | None, device: str | None
) -> Iterator[tuple[str, str]]:
    """Yield what makes sense: bf16 only with units for it, fp16 on a GPU, int8 where an engine has it."""
    bf16 = best_precision(device or "auto").name == "bf16"
    has = {
        "torch": [
            "fp32",
            *(["bf16"] if bf16 else []),
            *(["int16"] if load_kernels("int16") is not None else []),
            *(["fp16"] if str(device).startswith("cuda") else []),
        ],
        "onnx": ["fp32", "int8"],
    }
    for engine in engines:
        for precision in has[engine] if precisions is None else precisions:
            if (
                precisions is None
                or engine not in has
                or precision in (*has[engine], "bf16", "fp16", "int16")
            ):
                yield engine, precision


def _seconds(work: Callable[[], Vectors], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _latency(engine: Engine, texts: Sequence[str], size: Size) -> float:
    """Return the median seconds of one text alone."""
    taken = []
    for text in (list(texts) * _QUERIES)[:_QUERIES]:
        start = time.perf_counter()
        engine.embed([text], size)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _spearman(engine: Engine, size: Size, pairs: Pairs | None) -> float | None:
    if pairs is None:
        return None
    from scipy.stats import spearmanr

    left, right = engine.embed(pairs.left, size), engine.embed(pairs.right, size)
    return float(100 * spearmanr(np.einsum("ij,ij->i", left, right), pairs.scores).statistic)
