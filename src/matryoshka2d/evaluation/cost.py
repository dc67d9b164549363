"""What a size costs: time and memory measured on this machine, index bytes computed.

Time is a matter of depth: the last thing an engine does is cut the vector, so sizes of one depth cost the
same. Depths are therefore measured, at full width, and the width enters where it matters: in the index.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.cosine import Floats
from matryoshka2d.size import Size

INDEX_PRECISIONS: Mapping[str, int] = {"float32": 32, "int8": 8, "binary": 1}
"""Name of an index precision → bits of one coordinate."""

_WARM_UPS = 5
_FEWEST_TIMINGS = 60
_THROUGHPUT_ROUNDS = 3
_AT_ONCE = 256


class Embeds(Protocol):
    """What is timed: an engine, or anything else that embeds texts at a size."""

    @property
    def depth(self) -> int:
        """Number of layers."""

    @property
    def width(self) -> int:
        """Number of dims of the full vector."""

    def embed(self, texts: Sequence[str], size: str | Size | None = None) -> Any:
        """Return the vectors of the texts at a size."""


# --- computed -----------------------------------------------------------------------------------------


def vector_bytes(dims: int, precision: str = "float32") -> int:
    """Return the bytes of one vector in an index, without the index's own overhead.

    Parameters
    ----------
    dims
        Coordinates kept.
    precision
        ``"float32"``, ``"int8"`` or ``"binary"``; the bits of a binary vector fill whole bytes.

    Examples
    --------
    >>> [vector_bytes(384, precision) for precision in INDEX_PRECISIONS]
    [1536, 384, 48]
    """
    return -(-dims * INDEX_PRECISIONS[precision] // 8)


def index_bytes(dims: int, documents: int, precision: str = "float32") -> int:
    """Return the bytes of all vectors of an index; also what one exhaustive search reads from memory.

    A graph or inverted-list index adds to the bytes and reads fewer of them; how much is its own matter.

    Examples
    --------
    >>> index_bytes(128, 20_000_000, "int8")
    2560000000
    """
    return documents * vector_bytes(dims, precision)


# --- measured -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What one depth costs on a machine.

    Parameters
    ----------
    latency_p50, latency_p95
        Seconds for one text by itself: the median and the 95th percentile over texts and rounds.
    throughput
        Texts a second when many are given at once.
    memory
        Peak bytes of a process that loads this depth and embeds; nan if it was not measured.
    """

    latency_p50: float
    latency_p95: float
    throughput: float
    memory: float = math.nan

    def to_dict(self) -> dict[str, float | None]:
        """Return JSON values; what was not measured is None."""
        return {name: None if math.isnan(value) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Costs:
    """The cost of every depth, measured in one run.

    Parameters
    ----------
    depths
        Layers → cost.
    details
        What was measured: engine, precision, device, texts, machine. JSON values only.
    """

    depths: Mapping[int, Cost]
    details: Mapping[str, Any] = field(default_factory=dict)

    def of(self, size: Size) -> Cost:
        """Return the cost of a size: that of its depth.

        Raises
        ------
        UserError
            If the depth was not measured.
        """
        if size.layers not in self.depths:
            measured = ", ".join(map(str, self.depths))
            raise UserError(f"the cost of {size.layers} layers was not measured: expected one of {measured}")
        return self.depths[size.layers]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: the details, and layers → seconds, texts a second, bytes."""
        return {
            **self.details,
            "depths": {str(layers): cost.to_dict() for layers, cost in self.depths.items()},
        }


def measure_costs(
    engine: Embeds,
    layers: Iterable[int],
    texts: Sequence[str],
    *,
    seconds: float = 10.0,
    memory: Mapping[int, float] | None = None,
    seed: int = 0,
    details: Mapping[str, Any] | None = None,
) -> Costs:
    """Time every depth of an engine on this machine: one text by itself, and many at once.

    The depths take turns, so that a machine that slows down or speeds up does so for all of them.

    Parameters
    ----------
    engine
        What embeds.
    layers
        The depths to time.
    texts
        Texts like those that will be embedded: their lengths decide the result. Repeats are left out.
    seconds
        About how long to time single texts, in all. Raise it on a machine that other work disturbs.
    memory
        Layers → peak bytes, if they were measured.
    seed
        Shuffles the turns.
    details
        Kept with the costs.

    Raises
    ------
    UserError
        If there are no texts, or the engine lacks a depth.
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        raise UserError("no text to time: expected at least one")
    sizes = [Size(n, engine.width).check(engine.depth, engine.width) for n in sorted(set(layers))]
    timings = time_single_texts(engine.embed, sizes, distinct, seconds=seconds, seed=seed)
    rates = time_many_texts(engine.embed, sizes, distinct[:_AT_ONCE], seed=seed)
    depths = {
        size.layers: Cost(
            float(np.percentile(timings[size], 50)),
            float(np.percentile(timings[size], 95)),
            rates[size],
            math.nan if memory is None else memory.get(size.layers, math.nan),
        )
        for size in sizes
    }
    return Costs(depths, {**(details or {}), "timed texts": len(distinct)})


def time_single_texts(
    embed: Callable[[list[str], Size], Any],
    sizes: Sequence[Size],
    texts: Sequence[str],
    *,
    seconds: float = 10.0,
    seed: int = 0,
) -> dict[Size, Floats]:
    """Time one text at a time, the sizes taking turns in an order that is shuffled anew each time.

    Parameters
    ----------
    embed
        Called with a list of one text and a size.
    sizes
        The sizes that take turns.
    texts
        Gone through in a shuffled order, again and again; every size meets the same ones.
    seconds
        About how long to time, in all; every size is timed at least 60 times.
    seed
        Shuffles texts and turns.

    Returns
    -------
    dict
        Size → float64 [timings], in seconds, in the order in which they were taken; entry i of every
        size is the same text, taken in the same turn.
    """
    random = np.random.default_rng(seed)
    for size in sizes:
        for text in list(texts)[:_WARM_UPS]:
            embed([text], size)
    timings: dict[Size, list[float]] = {size: [] for size in sizes}
    started = time.perf_counter()
    turn = 0
    order: list[int] = []
    while turn < _FEWEST_TIMINGS or time.perf_counter() - started < seconds:
        order = order or list(random.permutation(len(texts)))
        text = texts[order.pop()]
        for place in random.permutation(len(sizes)):
            before = time.perf_counter()
            embed([text], sizes[place])
            timings[sizes[place]].append(time.perf_counter() - before)
        turn += 1
    return {size: np.array(values) for size, values in timings.items()}


def time_many_texts(
    embed: Callable[[list[str], Size], Any], sizes: Sequence[Size], texts: Sequence[str], *, seed: int = 0
) -> dict[Size, float]:
    """Return texts a second when all are given at once: the median of three rounds in turn."""
    random = np.random.default_rng(seed)
    rates: dict[Size, list[float]] = {size: [] for size in sizes}
    for _ in range(_THROUGHPUT_ROUNDS):
        for place in random.permutation(len(sizes)):
            before = time.perf_counter()
            embed(list(texts), sizes[place])
            rates[sizes[place]].append(len(texts) / (time.perf_counter() - before))
    return {size: float(np.median(values)) for size, values in rates.items()}
