"""The way of a request from texts to vectors: tokenized, admitted, queued, awaited, checked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from matryoshka2d.inference.engine import Vectors
from matryoshka2d.inference.queueing import Job
from matryoshka2d.inference.request_batching import unit_rows
from matryoshka2d.inference.tokens import Integers, TextTokenizer, Tokens, join, packed
from matryoshka2d.serving.admission import Admission
from matryoshka2d.serving.catalog import Served
from matryoshka2d.serving.metrics import Metrics
from matryoshka2d.serving.options import ServeOptions
from matryoshka2d.serving.problems import ClientGoneError, busy, failed, invalid
from matryoshka2d.serving.schema import EmbeddingsRequest, places
from matryoshka2d.serving.wire import embeddings_body
from matryoshka2d.size import Size

T = TypeVar("T")

Gone = Callable[[], Awaitable[None]]
"""Returns when the client is no longer there."""

_LOG = logging.getLogger(__name__)

_FEW = 8
"""Texts of a request that is short, unless they are very long."""

_FEW_CHARACTERS = 16_000
_TOKENIZED = 64
"""Texts tokenized at a time, between which other threads get their turn."""

_PATIENCE = 0.5
"""Seconds to wait before looking whether the client is still there."""


@dataclass(frozen=True)
class Embedded:
    """The vectors of a request's texts, float32 [texts, dims], and what they took, in seconds."""

    vectors: Vectors
    tokens: int
    cut: int
    queue: float
    tokenize: float
    embed: float


@dataclass(frozen=True)
class Inputs:
    """What a request wants to have embedded.

    Parameters
    ----------
    items
        Texts, or lists of token ids.
    field
        The field of the request that holds them, for messages.
    prompt
        What goes before each text; None for the model's own default.
    truncate
        Whether those over the model's limit may be cut; None for the choice of the server.
    """

    items: Sequence[str] | Sequence[list[int]]
    field: str
    prompt: str | None
    truncate: bool | None = None

    @property
    def short(self) -> bool:
        """Whether somebody waits for so little that it goes first."""
        return len(self.items) <= _FEW and sum(map(len, self.items)) <= _FEW_CHARACTERS


@dataclass(frozen=True)
class _Texts:
    """The distinct texts of a request as tokens."""

    tokens: Tokens
    places: Integers
    """int64 [texts of the request]: which of the distinct ones each is."""
    cut: list[int]
    """Texts of the request that were cut."""

    @property
    def usage(self) -> int:
        return int(self.tokens.lengths[self.places].sum())


_Batches = list[tuple[Integers, Job]]


class Embedder:
    """Embeds requests on the engines' own workers.

    Parameters
    ----------
    options
        The choices of the server.
    admission
        What bounds the work that waits.
    metrics
        Where times and counts are noted.
    """

    def __init__(self, options: ServeOptions, admission: Admission, metrics: Metrics) -> None:
        self._options = options
        self._admission = admission
        self._metrics = metrics
        # Long requests are tokenized and written one at a time: the cores are for the layers.
        self._tokenizing = ThreadPoolExecutor(1, "matryoshka2d-tokenize")
        self._writing = ThreadPoolExecutor(1, "matryoshka2d-write")

    async def answer(
        self, request: EmbeddingsRequest, served: Served, size: Size, gone: Gone
    ) -> tuple[bytes, Embedded]:
        """Return the body of the answer to a request, and what it took; see `embed`."""
        prompt = served.prompt(request.input_type)
        inputs = Inputs(request.texts, "input", prompt, request.truncate)
        async with within(self._options.deadline):
            found = await self.embed(inputs, served, size, gone)
            encoding = request.encoding_format or "float"
            body = await self._run(
                inputs.short, embeddings_body, found.vectors, encoding, request.model, found.tokens
            )
        return body, found

    async def embed(self, inputs: Inputs, served: Served, size: Size, gone: Gone) -> Embedded:
        """Return the vectors of texts.

        Parameters
        ----------
        inputs
            The texts.
        served, size
            The model and the size that the request asks for.
        gone
            Returns when the client is no longer there.

        Raises
        ------
        RequestError
            If it cannot be served.
        ClientGoneError
            If nobody waits for the answer any more.
        """
        short = inputs.short
        # A text has at least one token: where there is no room for these, tokenizing would be for nothing.
        self._admission.check(len(inputs.items), bulk=not short)
        begun = time.perf_counter()
        if short:
            texts = self._tokenize(inputs, served.engine.tokenizer)
        else:
            texts = await self._in(self._tokenizing, self._tokenize, inputs, served.engine.tokenizer)
        tokenized = time.perf_counter()
        self._refuse_cut(inputs, texts, served)
        with self._admission.tokens(len(texts.tokens.ids), bulk=not short):
            batches = served.engine.begin(texts.tokens, size.layers, bulk=not short)
            try:
                await self._until_done([job for _, job in batches], gone)
                vectors = np.zeros((len(texts.tokens), size.dims), dtype=np.float32)
                bad = await self._run(short, _fill, vectors, batches)
                if bad:
                    await self._again(bad, vectors, inputs, texts, served, size)
            finally:
                for _, job in batches:
                    job.future.cancel()
        self._admission.finished(len(texts.tokens.ids))
        queue, embed = _times(batches)
        vectors = await self._run(short, vectors.__getitem__, texts.places)
        found = Embedded(vectors, texts.usage, len(texts.cut), queue, tokenized - begun, embed)
        self._note(found, texts, size)
        return found

    def _tokenize(self, inputs: Inputs, tokenizer: TextTokenizer) -> _Texts:
        """Tokenize each distinct text once."""
        items = inputs.items
        if isinstance(items[0], list):
            return self._of_ids(items, tokenizer)  # type: ignore[arg-type]
        distinct: dict[str, int] = {}
        for text in items:
            distinct.setdefault(text, len(distinct))  # type: ignore[arg-type]
        rows = np.fromiter((distinct[text] for text in items), dtype=np.int64, count=len(items))  # type: ignore[index]
        words = list(distinct)
        parts: list[Tokens] = []
        cut: set[int] = set()
        total = 0
        for start in range(0, len(words), _TOKENIZED):
            tokens, over = tokenizer.counted(words[start : start + _TOKENIZED], inputs.prompt)
            total += len(tokens.ids)
            self._refuse_more_than(total, inputs.field)
            parts.append(tokens)
            cut.update(start + row for row in over)
        texts = _Texts(join(parts), rows, [i for i, row in enumerate(rows) if row in cut] if cut else [])
        self._refuse_more_than(texts.usage, inputs.field)
        return texts

    def _of_ids(self, inputs: Sequence[list[int]], tokenizer: TextTokenizer) -> _Texts:
        """Take token ids for what they are."""
        for i, ids in enumerate(inputs):
            if not 0 <= min(ids) <= max(ids) < tokenizer.vocabulary:
                raise invalid(
                    f"input[{i}] has a token id outside of the model's vocabulary: expected 0 to "
                    f"{tokenizer.vocabulary - 1}",
                    "input",
                    "invalid_value",
                )
        limit = tokenizer.limit
        cut = [i for i, ids in enumerate(inputs) if limit is not None and len(ids) > limit]
        tokens = packed([ids[:limit] for ids in inputs])
        self._refuse_more_than(len(tokens.ids), "input")
        return _Texts(tokens, np.arange(len(inputs)), cut)

    def _refuse_more_than(self, tokens: int, field: str) -> None:
        if tokens > self._options.max_request_tokens:
            raise invalid(
                f"{field} has more than {self._options.max_request_tokens} tokens: send several requests",
                field,
                "too_many_tokens",
            )

    def _refuse_cut(self, inputs: Inputs, texts: _Texts, served: Served) -> None:
        """Refuse a request whose texts are too long, where they may not be cut."""
        may = self._options.on_too_long == "cut" if inputs.truncate is None else inputs.truncate
        if texts.cut and not may:
            raise invalid(
                f"{places(texts.cut, inputs.field)} is longer than the model's "
                f"{served.engine.tokenizer.limit} tokens: shorten it, or send truncate: true",
                inputs.field,
                "input_too_long",
            )

    async def _until_done(self, jobs: list[Job], gone: Gone) -> None:
        """Wait until all jobs have ended, well or not, or the client is gone."""
        futures: list[asyncio.Future[Any]] = [asyncio.wrap_future(job.future) for job in jobs]
        if not futures:
            return
        _, waiting = await asyncio.wait(futures, timeout=_PATIENCE)
        if waiting:
            left: asyncio.Future[Any] = asyncio.ensure_future(gone())
            try:
                rest: asyncio.Future[Any] = asyncio.gather(*waiting, return_exceptions=True)
                await asyncio.wait({rest, left}, return_when=asyncio.FIRST_COMPLETED)
                if not rest.done():
                    rest.cancel()
                    raise ClientGoneError
            finally:
                left.cancel()
        for future in futures:
            # What went wrong is read from the jobs; asyncio wants to see that it was.
            if not future.cancelled():
                future.exception()

    async def _again(
        self,
        bad: Sequence[int],
        vectors: Vectors,
        inputs: Inputs,
        texts: _Texts,
        served: Served,
        size: Size,
    ) -> None:
        """Run texts that failed once more, each alone, so that only those fail that must."""
        failing = []
        for row in bad:
            alone = served.engine.begin(texts.tokens.take(np.array([row])), size.layers, shared=False)
            await asyncio.wait([asyncio.wrap_future(job.future) for _, job in alone])
            found = np.zeros((1, size.dims), dtype=np.float32)
            if _fill(found, alone):
                failing.append(row)
            vectors[row] = found
        if failing:
            rows = np.flatnonzero(np.isin(texts.places, failing)).tolist()
            raise failed(
                f"the model gives no finite vector for {places(rows, inputs.field)}: leave it out",
                inputs.field,
                "no_finite_vector",
            )

    def _note(self, found: Embedded, texts: _Texts, size: Size) -> None:
        metrics, layers = self._metrics, str(size.layers)
        metrics.queue_seconds.labels(layers).observe(found.queue)
        metrics.tokenize_seconds.observe(found.tokenize)
        metrics.embed_seconds.labels(layers).observe(found.embed)
        metrics.tokens.labels(layers).inc(len(texts.tokens.ids))
        metrics.truncated.inc(found.cut)

    async def _run(self, short: bool, function: Callable[..., T], *arguments: object) -> T:
        """Call a function: here if it is quick, else in the thread for long requests."""
        return function(*arguments) if short else await self._in(self._writing, function, *arguments)

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    def close(self) -> None:
        """End the threads."""
        for pool in (self._tokenizing, self._writing):
            pool.shutdown(wait=False, cancel_futures=True)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Give up with a `RequestError` what takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise busy(
            f"the request was not served within {seconds:g} s", "deadline_exceeded", 1.0, status=503
        ) from None


def _fill(vectors: Vectors, batches: _Batches) -> list[int]:
    """Write the vectors of ended batches, cut and of unit length; return the rows that have none."""
    bad: list[int] = []
    for rows, job in batches:
        try:
            found = job.future.result(timeout=0)[:, : vectors.shape[1]]
        except CancelledError:
            raise busy("the server is stopping", "draining", 1.0, status=503) from None
        except Exception:
            _LOG.exception("a batch of %d texts failed", len(rows))
            bad += rows.tolist()
            continue
        finite = np.isfinite(found).all(axis=1)
        bad += rows[~finite].tolist()
        vectors[rows[finite]] = unit_rows(found[finite])
    return sorted(bad)


def _times(batches: _Batches) -> tuple[float, float]:
    """Return the seconds until the first batch ran, and from then to the end of the last."""
    if not batches:
        return 0.0, 0.0
    queued = min(job.queued for _, job in batches)
    begun = min(job.begun for _, job in batches)
    return begun - queued, max(job.ended for _, job in batches) - begun
