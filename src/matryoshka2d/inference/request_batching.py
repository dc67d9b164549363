"""An engine that runs texts of similar length together, and callers with few texts beside each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.encoder.finite import check_finite
from matryoshka2d.encoder.lengths import packed_slices, padded_slices
from matryoshka2d.errors import UserError
from matryoshka2d.inference.engine import Runner, Vectors
from matryoshka2d.inference.queueing import Job
from matryoshka2d.inference.shape import Shape
from matryoshka2d.inference.tokens import TextTokenizer, Tokens
from matryoshka2d.inference.workers import Workers
from matryoshka2d.size import Size

# Texts tokenized at a time: few at first, so that computing starts at once; later enough of every length.
_FIRST_CHUNK = 256
_CHUNK = 8192


class BatchingEngine:
    """An engine: a tokenizer and a runner, with batching between them. Safe to share between threads.

    Parameters
    ----------
    runner
        What runs a batch.
    tokenizer
        What makes tokens of texts.
    shape
        What the model offers.
    threads, cores
        As in `Workers`.
    """

    def __init__(
        self, runner: Runner, tokenizer: TextTokenizer, shape: Shape, *, threads: int, cores: int = 1
    ) -> None:
        self.runner = runner
        self.tokenizer = tokenizer
        self.shape = shape
        self.threads = threads
        self._workers = Workers(runner, threads, cores)

    def __del__(self) -> None:
        if hasattr(self, "_workers"):
            self._workers.close()

    @property
    def name(self) -> str:
        """Which engine it is."""
        return self.runner.name

    @property
    def precision(self) -> str:
        """What it computes in."""
        return self.runner.precision

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.runner.device

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.shape.depth

    @property
    def width(self) -> int:
        """Number of dims of the full vector."""
        return self.shape.width

    @property
    def size(self) -> Size:
        """The size that is used when none is asked for."""
        return self.shape.size

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that the model shows by default."""
        return self.shape.sizes

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes of memory that serving this depth takes, for the depths ready to run."""
        return self.runner.memory()

    def embed(
        self,
        texts: Sequence[str],
        size: str | Size | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Vectors:
        """Return float32 [len(texts), dims], rows of unit length, in the order of the texts."""
        wanted = self._wanted(size)
        distinct, places = _distinct(texts)
        chunks = (
            (start, self.tokenizer(distinct[start : start + count], prompt, prompt_name))
            for start, count in _chunks(len(distinct))
        )
        vectors = self._run(chunks, len(distinct), wanted)
        vectors = vectors if places is None else vectors[places]
        check_finite(vectors, texts, numbered=True)
        return vectors

    def embed_tokens(self, tokens: Tokens, size: str | Size | None = None) -> Vectors:
        """Return the vectors of texts that are tokenized already, float32 [texts, dims]."""
        return self._run([(0, tokens)], len(tokens), self._wanted(size))

    def watch(self, note: Callable[[int, int], object]) -> None:
        """Have `note` called with the texts and the tokens of every batch, before it runs."""
        self._workers.watch = note

    def _wanted(self, size: str | Size | None) -> Size:
        return self.size if size is None else Size.parse(size).check(self.depth, self.width)

    def _run(self, chunks: Iterable[tuple[int, Tokens]], count: int, size: Size) -> Vectors:
        with self._workers.caller():
            return self._run_all(chunks, count, size)

    def _run_all(self, chunks: Iterable[tuple[int, Tokens]], count: int, size: Size) -> Vectors:
        out = np.zeros((count, size.dims), dtype=np.float32)
        waiting: deque[tuple[NDArray[np.int64], Future[Vectors]]] = deque()
        try:
            for start, tokens in chunks:
                begun = self.begin(tokens, size.layers, shared=len(tokens) == count)
                waiting.extend((start + rows, job.future) for rows, job in begun)
                while waiting and waiting[0][1].done():
                    _place(out, *waiting.popleft())
            while waiting:
                _place(out, *waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()
        return out

    def begin(
        self, tokens: Tokens, layers: int, *, shared: bool = True, bulk: bool = False
    ) -> list[tuple[NDArray[np.int64], Job]]:
        """Queue texts; return (rows, job) of every batch, without waiting for any.

        Parameters
        ----------
        tokens
            The texts.
        layers
            After how many layers they leave.
        shared
            Whether they may run beside texts of other callers, if they are one batch.
        bulk
            Whether nobody waits for them alone: see `matryoshka2d.inference.queueing`.

        Returns
        -------
        list
            Which texts, and the job whose future receives float32 [texts, width], neither cut nor
            normalized. A text without tokens is in none of them: its vector is zero.
        """
        batches = self._batches(tokens)
        shared = shared and len(batches) == 1
        caller = object()
        # A query alone is not copied.
        part = tokens.take if len(tokens) > 1 else lambda _: tokens
        return [
            (rows, self._workers.submit(part(rows), layers, shared=shared, bulk=bulk, caller=caller))
            for rows in batches
        ]

    def _batches(self, tokens: Tokens) -> list[NDArray[np.int64]]:
        """Return the rows of each batch, ordered by length; the longest texts first, to end on small ones."""
        if len(tokens) == 1 and len(tokens.ids):
            return [np.zeros(1, dtype=np.int64)]
        order = np.argsort(tokens.lengths, kind="stable")
        # A text without a token, which some tokenizers make of an empty text, has the zero vector.
        order = order[tokens.lengths[order] > 0]
        lengths, budget, waste = tokens.lengths[order], self.runner.budget, self.runner.waste
        slices = (
            packed_slices(lengths, budget) if waste is None else padded_slices(lengths, budget, waste=waste)
        )
        return [order[rows] for rows in slices]


def _place(out: Vectors, rows: NDArray[np.int64], future: Future[Vectors]) -> None:
    """Write vectors [texts, width] into their rows, cut, then scaled to unit length."""
    out[rows] = unit_rows(future.result()[:, : out.shape[1]])


def unit_rows(vectors: Vectors) -> Vectors:
    """Return vectors [texts, dims] at unit length; a zero row, of a text without tokens, stays so."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    scaled: Vectors = vectors / np.maximum(norms, 1e-12)
    return scaled


def _distinct(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64] | None]:
    """Return the distinct texts and, if any came twice, where among them each text is."""
    if isinstance(texts, str):
        raise UserError("one text was given: expected a list of texts, as in embed(['a text'])")
    places: dict[str, int] = {}
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"text {i} is a {type(text).__name__}: expected a str")
        places.setdefault(text, len(places))
    if len(places) == len(texts):
        return list(texts), None
    return list(places), np.fromiter((places[text] for text in texts), dtype=np.int64, count=len(texts))


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    """Yield (start, count) of chunks that grow.

    >>> list(_chunks(3000))
    [(0, 256), (256, 1024), (1280, 1720)]
    """
    start, size = 0, _FIRST_CHUNK
    while start < count:
        yield start, min(size, count - start)
        start, size = start + size, min(4 * size, _CHUNK)
