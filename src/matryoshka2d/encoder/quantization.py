"""Vectors in a byte or a bit a dim: calibrated after the cut and the normalization, and what that costs.

The codes are those of Faiss, byte for byte: ``uint8`` codes are those of ``IndexScalarQuantizer(QT_8bit)``
with the same ranges, ``ubinary`` codes those of ``IndexBinaryFlat``; ``int8`` and ``binary`` are the same
bytes, shifted to signed ones. ``quantize_embeddings`` of sentence-transformers gives the same bits; of its
bytes about one in ten thousand, those on the edge of a step, are a step off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.encoder.finite import first_not_finite
from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.files import check_file_free, staged_file

Vectors = NDArray[np.float32]
Codes = NDArray[Any]

PRECISIONS = ("int8", "uint8", "binary", "ubinary")
"""What vectors can be written in."""

_LEVELS = 255
_SIGNED = np.uint8(128)
_BLOCK = 256
_OVERSAMPLING = 4
_SAMPLE = 1000
"""Rows that stand for queries where none are given."""


@dataclass(frozen=True)
class Quantizer:
    """How vectors become codes.

    Parameters
    ----------
    precision : {"int8", "uint8", "binary", "ubinary"}
        A byte a dim, or a bit a dim; signed or not, as the index wants it.
    ranges
        float32 [2, dims]: the least and the largest value of each dim. Bits need none: their dims are cut
        at 0.

    Examples
    --------
    >>> vectors = np.array([[0.6, -0.8], [-0.6, 0.8]], dtype=np.float32)
    >>> Quantizer.fit(vectors, "int8").encode(vectors)
    array([[ 127, -128],
           [-128,  127]], dtype=int8)
    >>> Quantizer.fit(vectors, "ubinary").encode(vectors)
    array([[128],
           [ 64]], dtype=uint8)
    """

    precision: str
    ranges: Vectors

    @classmethod
    def fit(cls, vectors: Vectors, precision: str) -> Quantizer:
        """Read the ranges off vectors of the size that will be stored, cut and normalized.

        Parameters
        ----------
        vectors
            float32 [rows, dims]: the corpus, or some thousand rows of it. Values beyond the ranges are
            clipped.
        precision
            One of `PRECISIONS`.

        Raises
        ------
        UserError
            If the precision is not known, or there are too few vectors.
        """
        check_codes(precision)
        check_vectors(vectors)
        # Bits are cut at 0 and have no range.
        fewest, said = (1, "one") if precision.endswith("binary") else (2, "two")
        if len(vectors) < fewest:
            raise UserError(
                f"too few vectors for a range ({len(vectors)}): give at least {said}, better some thousand"
            )
        return cls(precision, np.stack([vectors.min(axis=0), vectors.max(axis=0)]).astype(np.float32))

    @property
    def bits(self) -> bool:
        """Whether there is a bit a dim."""
        return self.precision.endswith("binary")

    def encode(self, vectors: Vectors) -> Codes:
        """Return codes: [rows, dims], or [rows, dims / 8 rounded up] for bits."""
        codes = np.packbits(vectors > 0, axis=-1) if self.bits else self._bytes(vectors)
        # The same byte with its highest bit flipped, read as a signed one.
        return codes if self.precision.startswith("u") else (codes ^ _SIGNED).view(np.int8)

    def _bytes(self, vectors: Vectors) -> Codes:
        """Return uint8 codes, in the order of operations of Faiss, so that edges of steps fall alike."""
        low, high = self.ranges
        spread = high - low
        shares = np.divide(
            vectors.astype(np.float32, copy=False) - low,
            spread,
            out=np.zeros(vectors.shape, np.float32),
            where=spread > 0,
        )
        return np.asarray(np.clip(shares, 0, 1) * np.float32(_LEVELS)).astype(np.uint8)

    def decode(self, codes: Codes) -> Vectors:
        """Return float32 [rows, dims]: the middle of each step, or -1 and 1 for bits."""
        unsigned = codes.view(np.uint8) ^ _SIGNED if codes.dtype == np.int8 else codes
        if self.bits:
            found = np.unpackbits(unsigned, axis=-1, count=self.ranges.shape[1])
            return np.asarray(found, dtype=np.float32) * 2 - 1
        starts, steps = self.ranges[0], (self.ranges[1] - self.ranges[0]) / _LEVELS
        return np.asarray(starts + (unsigned + np.float32(0.5)) * steps, dtype=np.float32)


@dataclass(frozen=True)
class RecallLoss:
    """What codes cost in search.

    Parameters
    ----------
    recall
        Share of the exact `k` nearest that are among the `k` nearest by codes.
    rescored
        The same, when four times as many are found by codes and ordered by their decoded vectors.
    k
        How many nearest.
    bytes_per_vector, exact_bytes_per_vector
        What is stored, and what float32 would take.
    """

    recall: float
    rescored: float
    k: int
    bytes_per_vector: int
    exact_bytes_per_vector: int


def recall_loss(queries: Vectors, corpus: Vectors, quantizer: Quantizer, k: int = 10) -> RecallLoss:
    """Search with and without codes and compare.

    Bits are compared by Hamming distance and rescored by the query in float32; bytes are searched by the
    query in float32 against decoded vectors, and rescoring changes nothing.

    Parameters
    ----------
    queries, corpus
        float32 [queries, dims] and [rows, dims], of unit length.
    quantizer
        What the corpus is stored with.
    k
        How many nearest count.
    """
    codes = quantizer.encode(corpus)
    decoded = quantizer.decode(codes)
    k = min(k, len(corpus))
    more = min(_OVERSAMPLING * k, len(corpus))
    plain, rescored = 0, 0
    for block in _blocks(queries):
        exact = _nearest(block @ corpus.T, k)
        by_codes = block @ decoded.T
        # The product of two vectors of -1 and 1 is the number of dims minus twice the Hamming distance.
        first = quantizer.decode(quantizer.encode(block)) @ decoded.T if quantizer.bits else by_codes
        plain += _shared(exact, _nearest(first, k))
        candidates = _nearest(first, more)
        best = _nearest(np.take_along_axis(by_codes, candidates, axis=1), k)
        rescored += _shared(exact, np.take_along_axis(candidates, best, axis=1))
    count = k * len(queries)
    exact_bytes = corpus.shape[1] * np.dtype(np.float32).itemsize
    return RecallLoss(plain / count, rescored / count, k, codes[0].nbytes, exact_bytes)


def quantize_file(
    vectors: Path,
    target: Path,
    precision: str = "int8",
    *,
    calibration: Path | None = None,
    queries: Path | None = None,
    k: int = 10,
    overwrite: bool = False,
) -> tuple[int, RecallLoss]:
    """Write the codes of a file of vectors, and the ranges beside them, as ``.ranges.npy``.

    Parameters
    ----------
    vectors
        ``.npy``, float [rows, dims], as `encode` writes it.
    target
        ``.npy`` of codes.
    precision
        One of `PRECISIONS`.
    calibration
        ``.npy`` of vectors that fix the ranges. Default: the vectors themselves.
    queries
        ``.npy`` of vectors to measure the recall with. Default: 1000 of the vectors.
    k
        How many nearest the recall counts.
    overwrite
        Whether existing files may be replaced.

    Returns
    -------
    tuple of int and RecallLoss
        How many vectors were written, and what the codes cost in search.

    Raises
    ------
    UserError
        If a file is not usable, widths differ, or the target may not be written.
    """
    ranges = check_targets(target, overwrite=overwrite)
    corpus = read_vectors(vectors)
    quantizer = Quantizer.fit(corpus if calibration is None else read_vectors(calibration), precision)
    _check_width(corpus.shape[1], quantizer.ranges.shape[1], calibration)
    rows = np.linspace(0, len(corpus) - 1, min(_SAMPLE, len(corpus))).astype(int)
    asked = corpus[rows] if queries is None else read_vectors(queries)
    _check_width(corpus.shape[1], asked.shape[1], queries)
    codes = quantizer.encode(corpus)
    loss = recall_loss(asked, corpus, quantizer, k)
    for path, values in ((target, codes), (ranges, quantizer.ranges)):
        with staged_file(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
            np.save(file, values)
    return len(codes), loss


def check_codes(precision: str) -> None:
    """Raise a `UserError` unless vectors can be written so."""
    if precision not in PRECISIONS:
        hint = did_you_mean(precision, PRECISIONS)
        raise UserError(
            f"vectors cannot be written in '{precision}': expected one of {', '.join(PRECISIONS)}.{hint}"
        )


def check_targets(target: Path, *, overwrite: bool = False) -> Path:
    """See that codes and their ranges may be written; return where the ranges go."""
    ranges = target.with_suffix(".ranges.npy")
    for path in (target, ranges):
        check_file_free(path, overwrite=overwrite)
    return ranges


def read_vectors(path: Path) -> Vectors:
    """Return the vectors of a ``.npy`` file, float [rows, dims], as they lie on the disk."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: expected vectors, .npy, as matryoshka2d encode writes them")
    try:
        vectors: Vectors = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(
            f"{path} is not a .npy file of vectors: expected a float array, a row a text, as matryoshka2d "
            "encode writes it"
        ) from error
    check_vectors(vectors)
    return vectors


def _check_width(width: int, other: int, path: Path | None) -> None:
    if width != other:
        raise UserError(f"{path} holds vectors of {other} dims, but those to write have {width}")


def check_vectors(vectors: Codes) -> None:
    """Raise a `UserError` unless these are float vectors, a row each, without NaN."""
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise UserError(
            f"expected float vectors, a row each: these are {vectors.dtype} {list(vectors.shape)}"
        )
    row = first_not_finite(vectors)
    if row is not None:
        raise UserError(f"the vectors hold NaN or infinity, first in row {row + 1}: embed the texts again")


def _blocks(queries: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(queries), _BLOCK):
        yield queries[start : start + _BLOCK]


def _nearest(scores: Vectors, k: int) -> NDArray[np.int64]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _shared(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    return sum(len(np.intersect1d(a, b)) for a, b in zip(one, other, strict=True))
