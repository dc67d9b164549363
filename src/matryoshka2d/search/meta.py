"""What an index knows about itself: the model that made its vectors, their size, and how it is searched."""

from __future__ import annotations

import base64
import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.size import Size

Vectors = NDArray[np.float32]

FORMAT = 1
CODES = ("float", "half", "int8", "bit")
"""How the first stage keeps a coordinate of the prefix: 4 bytes, 2 bytes, a byte or a bit."""

PROBES = (
    "Which planet is the largest?",
    "A cat sat on the mat.",
    "The company reported a loss for the third quarter.",
    "def add(a, b): return a + b",
    "How do I reset my password?",
    "Rain fell all day in the north.",
    "Insulin lowers the level of sugar in the blood.",
    "The treaty was signed in 1648.",
)
"""Texts whose vectors an index keeps: a model that gives others is another model."""


@dataclass(frozen=True)
class Choice:
    """How an index is searched unless the caller says otherwise.

    Parameters
    ----------
    oversample
        How many candidates the prefix finds for each result; more are surer and slower.
    effort
        How far the graph of the first stage is searched, at least the number of candidates; 0 leaves it at
        that number.
    query_layers
        How many layers embed a query; 0 for those of the index.
    tuned
        What `tune` measured for this choice, empty without it.
    """

    oversample: int = 10
    effort: int = 0
    query_layers: int = 0
    tuned: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Meta:
    """The record that every store keeps beside its vectors.

    Parameters
    ----------
    model
        The name by which the model was opened; empty for vectors that came without one.
    size
        Layers and dims of the stored vectors.
    prefix
        How many leading dims the first stage compares.
    codes : {"float", "half", "int8", "bit"}
        How the first stage keeps them.
    graph
        Whether the first stage searches a graph (HNSW); without it every prefix is compared.
    engine, precision
        What computed the vectors, as ``"torch"`` and ``"bf16"``.
    document_prompt, query_prompt
        What is put before a document and before a query.
    probes
        Layers → the vectors of `PROBES` after so many layers, float16 in base64.
    choice
        How to search by default.
    """

    model: str
    size: Size
    prefix: int
    codes: str = "float"
    graph: bool = True
    engine: str = ""
    precision: str = ""
    document_prompt: str = ""
    query_prompt: str = ""
    probes: dict[int, str] = field(default_factory=dict)
    choice: Choice = field(default_factory=Choice)

    def __post_init__(self) -> None:
        if not 1 <= self.prefix <= self.size.dims:
            raise UserError(
                f"prefix {self.prefix} does not fit vectors of {self.size.dims} dims: "
                f"use 1 to {self.size.dims}"
            )
        if self.codes not in CODES:
            raise UserError(
                f"no codes are called '{self.codes}': expected one of {', '.join(CODES)}."
                f"{did_you_mean(self.codes, CODES)}"
            )

    def to_json(self) -> str:
        """Return the record as one line of JSON."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self), "size": str(self.size)})

    @classmethod
    def from_json(cls, text: str) -> Meta:
        """Read what `to_json` wrote."""
        record = json.loads(text)
        if record.pop("format", None) != FORMAT:
            raise UserError("the index was written by another version of matryoshka2d: index anew")
        record["size"] = Size.parse(record["size"])
        record["choice"] = Choice(**record["choice"])
        record["probes"] = {int(layers): codes for layers, codes in record["probes"].items()}
        return cls(**record)

    def probe_vectors(self, layers: int) -> Vectors:
        """Return the recorded vectors of `PROBES` after so many layers: float32 [probes, dims]."""
        raw = np.frombuffer(base64.b64decode(self.probes[layers]), dtype="<f2")
        return raw.reshape(len(PROBES), -1).astype(np.float32)

    def other_than(self, before: Meta) -> list[str]:
        """Return in which ways vectors of this record do not belong to an index with that one."""
        names = ("size", "prefix", "codes", "graph", "document_prompt", "query_prompt")
        return [
            f"{name.replace('_', ' ')} is {_shown(getattr(before, name))}, not {_shown(getattr(self, name))}"
            for name in names
            if getattr(self, name) != getattr(before, name)
        ]


def _shown(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def encoded(vectors: Vectors) -> str:
    """Return vectors as `Meta.probes` keeps them."""
    return base64.b64encode(vectors.astype("<f2").tobytes()).decode("ascii")


def default_prefix(dims: int) -> int:
    """Return the prefix of an index that none is named for: a third of the dims in whole bytes, at least 32.

    >>> default_prefix(384), default_prefix(128), default_prefix(16)
    (128, 40, 16)
    """
    return min(dims, max(32, dims // 24 * 8))


def cut(vectors: Vectors, dims: int) -> Vectors:
    """Return the first dims of each row, of unit length again; a row of zeros stays one."""
    kept = np.asarray(vectors[:, :dims], dtype=np.float32)
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    unit: Vectors = np.divide(kept, lengths, out=np.zeros_like(kept), where=lengths > 0)
    return unit
