"""An export against the model it came from, on texts; what is allowed is stated for each precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.encoder.finite import check_finite
from matryoshka2d.errors import UserError
from matryoshka2d.export.signature import OUTPUT, PROMPT_LENGTH
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.evaluation.quality import Quality

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

    Without a prompt, the export embeds them one by one too: a vector must not depend on its neighbors.

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
        check_finite(expected[-1], texts)
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


Vectors = NDArray[np.float32]


class Loaded(Protocol):
    """What a loaded export offers: texts, and a prompt to put before them, → vectors."""

    def __call__(self, texts: Sequence[str], prompt: str = "") -> Vectors:
        """Return float32 [texts, dims]."""


def load_sentence_transformers(folder: Path, _name: str) -> Loaded:
    """Load a folder by stock sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def embed(texts: Sequence[str], prompt: str = "") -> Vectors:
        vectors = model.encode(list(texts), prompt=prompt, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    return embed


def load_onnx(folder: Path, name: str) -> Loaded:
    """Load a graph by ONNX Runtime, and ``tokenizer.json`` beside it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    inputs = [one.name for one in session.get_inputs()]
    return _tokenized(folder, inputs, lambda tensors: session.run([OUTPUT], tensors)[0])


def load_openvino(folder: Path, name: str) -> Loaded:
    """Load OpenVINO's files, computing in fp32, and ``tokenizer.json`` beside them."""
    import openvino

    # Where the processor has units for bf16, OpenVINO would take them.
    model = openvino.Core().compile_model(str(folder / name), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = [one.get_any_name() for one in model.inputs]
    return _tokenized(folder, inputs, lambda tensors: model(tensors)[OUTPUT])


def _tokenized(folder: Path, inputs: Sequence[str], run: Callable[[dict[str, Any]], Any]) -> Loaded:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def length_of(prompt: str) -> int:
        found = tokenizer.encode(prompt)
        # The mark that ends a text does not end the prompt.
        return len(found.ids) - found.special_tokens_mask[-1]

    def embed(texts: Sequence[str], prompt: str = "") -> Vectors:
        batch = tokenizer.encode_batch([prompt + text for text in texts])
        tensors = {
            "input_ids": np.array([one.ids for one in batch], dtype=np.int64),
            "attention_mask": np.array([one.attention_mask for one in batch], dtype=np.int64),
            "token_type_ids": np.array([one.type_ids for one in batch], dtype=np.int64),
            PROMPT_LENGTH: np.array([length_of(prompt) if prompt else 0], dtype=np.int64),
        }
        return np.asarray(run({one: tensors[one] for one in inputs}), dtype=np.float32)

    return embed


SECONDS = 1.0
"""About how long single texts are timed, for all sizes together."""

# Sentences: neither the empty text nor those that fill the window.
_TIMED = tuple(text for text in TEXTS if 5 < len(text) < 120)


@dataclass(frozen=True)
class _ByDepth:
    """Loaded exports by depth, in the form that timing asks for."""

    exports: Mapping[int, Loaded]
    width: int

    @property
    def depth(self) -> int:
        return max(self.exports)

    def embed(self, texts: Sequence[str], size: str | Size | None = None) -> Any:
        assert isinstance(size, Size)
        return self.exports[size.layers](texts)


def costs_of(exports: Mapping[Size, Loaded]) -> dict[Size, dict[str, float | None]]:
    """Time loaded exports on this machine: one text by itself, and many at once.

    Sizes of one depth cost the same, so one of them is timed.

    Parameters
    ----------
    exports
        Size → the export, loaded.

    Returns
    -------
    dict
        Size → ``latency_p50`` and ``latency_p95`` in seconds, ``throughput`` in texts a second.
    """
    from matryoshka2d.evaluation.cost import measure_costs

    by_depth = _ByDepth({size.layers: export for size, export in exports.items()}, 1)
    costs = measure_costs(by_depth, by_depth.exports, _TIMED, seconds=SECONDS)
    found = {size: costs.of(size).to_dict() for size in exports}
    return {size: {key: row[key] for key in row if key != "memory"} for size, row in found.items()}


def quality_of(encoder: ElasticEncoder) -> Quality | None:
    """Return the quality that a saved model carries, or None if it has none or one of other weights."""
    from matryoshka2d.encoder.fingerprints import weights_fingerprint
    from matryoshka2d.evaluation.record import holds_quality, stored_quality

    if not holds_quality(encoder.record):
        return None
    try:
        return stored_quality(encoder.record, "float32", weights_fingerprint(encoder))
    except UserError:
        return None


def quality_row(quality: Quality, size: Size) -> dict[str, list[float]] | None:
    """Return a size's score and its share of the full size's, each with the ends of its 95% interval.

    None if the size was not measured.
    """
    if size not in quality.sizes:
        return None
    score = [round(float(value), 2) for value in quality.score(size)]
    return {"score": score, "share": [round(float(value), 4) for value in quality.kept(size)]}


def provenance(quality: Quality) -> str:
    """Return in one sentence what the scores are and where they come from."""
    sets = ", ".join(f"{name} ({count:,})" for name, count in quality.units.items())
    what = "Agreement with the full size" if quality.fidelity else f"{quality.grid.metric} x100"
    when = f", measured {quality.details['date']}" if "date" in quality.details else ""
    return f"{what}, mean over sets, on the {quality.of} of {sets}{when}; of the model before the export."
