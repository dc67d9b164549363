"""An export against the model it came from, on texts; what is allowed is stated for each precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder import ElasticEncoder
    from matryoshka2d.export.loaded import Loaded

TEXTS = (
    "A man is playing a guitar.",
    "Someone plays an instrument on a stage in front of a large crowd of people.",
    "The stock market fell sharply on Monday.",
    "x",
    "",
    "  leading and trailing spaces  ",
    "UPPER and Lower Case, punctuation: (brackets), 'quotes' – dashes… and 3.14159 numbers!",
    "Die Straße nach Köln ist heute gesperrt.",
    "Où se trouve la bibliothèque ?",
    "今日は天気がいいです。",
    "Съешь же ещё этих мягких французских булок.",
    "A line\nbreak and a\ttab",
    "emoji 🙂 and a rare sign ℵ",
    "How do I cut a model to three layers?",
    "Cut vectors are scaled to unit length after the cut, never before. " * 12,
    "A text that is longer than what most models read at once. " * 100,
)
"""What every export is tried on: short and empty, several scripts, longer than the model reads."""


@dataclass(frozen=True)
class Tolerance:
    """How far an export may be from its source.

    Parameters
    ----------
    difference
        The largest allowed difference of a coordinate.
    cosine
        The smallest allowed cosine.
    alone
        The smallest allowed cosine of a text's vector, embedded beside others, to its vector alone.
    """

    difference: float = math.inf
    cosine: float = -1.0
    alone: float = 0.999

    def __str__(self) -> str:
        near = f"at most {self.difference:g} in any coordinate"
        alike = near if self.difference < math.inf else f"cosines of at least {self.cosine:g}"
        return f"{alike}, and a cosine of at least {self.alone:g} between a text alone and beside others"


TOLERANCES = {
    "fp32": Tolerance(difference=1e-5, alone=0.99999),
    "bf16": Tolerance(cosine=0.999),
    "fp16": Tolerance(cosine=0.999),
    "int8": Tolerance(cosine=0.95),
}
"""Precision → what is allowed."""


@dataclass(frozen=True)
class Agreement:
    """How an export agrees with its source.

    Parameters
    ----------
    texts
        How many texts were compared, with each of the model's prompts.
    difference
        The largest difference of a coordinate.
    cosine, mean_cosine
        The smallest cosine and their mean.
    alone
        The smallest cosine of a text's vector, embedded beside others, to its vector alone; None if that
        was not compared.
    """

    texts: int
    difference: float
    cosine: float
    mean_cosine: float
    alone: float | None = None

    def within(self, tolerance: Tolerance) -> bool:
        """Return whether it agrees well enough; a vector that is not a number never does."""
        near = self.difference <= tolerance.difference and self.cosine >= tolerance.cosine
        return near and (self.alone is None or self.alone >= tolerance.alone)

    def __str__(self) -> str:
        near = f"largest difference {self.difference:.1e}, smallest cosine {self.cosine:.6f}"
        beside = "" if self.alone is None else f", alone and beside others {self.alone:.6f}"
        return f"{self.texts} texts, {near}{beside}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "texts": self.texts,
            "largest difference": self.difference,
            "smallest cosine": self.cosine,
            "mean cosine": self.mean_cosine,
            "smallest cosine alone and beside others": self.alone,
        }


def compare(encoder: ElasticEncoder, size: Size, export: Loaded, texts: Sequence[str] = TEXTS) -> Agreement:
    """Embed texts, with every prompt of the model and without one, by both and compare.

    Without a prompt, the export embeds them one by one too: a vector must not depend on its neighbours.

    Parameters
    ----------
    encoder
        The source, in fp32.
    size
        The size that was exported.
    export
        The export, loaded again.
    texts
        What to compare on.
    """
    expected, found = [], []
    for prompt in _prompts(encoder):
        expected.append(encoder.encode(list(texts), size=size, prompt=prompt, show_progress_bar=False))
        found.append(export(texts, prompt))
    alone = np.concatenate([export([text]) for text in texts])
    return agreement(np.concatenate(found), np.concatenate(expected), alone)


def agreement(found: np.ndarray, expected: np.ndarray, alone: np.ndarray | None = None) -> Agreement:
    """Compare vectors [texts, dims], row by row; those embedded alone are those of the first texts.

    Examples
    --------
    >>> agreement(np.array([[0.6, 0.8]]), np.array([[0.6, 0.8]])).cosine
    1.0
    """
    if found.shape != expected.shape:
        raise UserError(f"the export gives vectors of shape {found.shape}, the source {expected.shape}")
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    cosines = _cosines(found, expected)
    return Agreement(
        len(found),
        float(np.abs(found - expected).max()),
        float(cosines.min()),
        float(cosines.mean()),
        None if alone is None else float(_cosines(found[: len(alone)], alone.astype(np.float64)).min()),
    )


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines: np.ndarray = (left * right).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return cosines


def refuse_unless_equal(size: Size, found: Agreement, precision: str) -> None:
    """Raise a `UserError` if an export is further from its source than its precision allows."""
    allowed = TOLERANCES[precision]
    if not found.within(allowed):
        raise UserError(
            f"the export of {size} disagrees with its source and was not kept: {found}; "
            f"{precision} allows {allowed}. Try another precision or format"
        )


def _prompts(encoder: ElasticEncoder) -> Iterator[str]:
    """Yield no prompt, and every prompt that says something."""
    yield ""
    yield from sorted({prompt for prompt in _texts_of(encoder.prompts.values()) if prompt})


def _texts_of(prompts: Iterable[str | None]) -> Iterator[str]:
    yield from (prompt for prompt in prompts if prompt is not None)
