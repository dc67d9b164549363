"""An iterator of texts in, an iterator of vectors out, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from matryoshka2d.inference.engine import Engine, Vectors
from matryoshka2d.size import Size


def embed_stream(
    engine: Engine,
    texts: Iterable[str],
    size: str | Size | None = None,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    chunk: int = 8192,
    show_progress_bar: bool = False,
) -> Iterator[Vectors]:
    """Yield the vectors of any number of texts, chunk by chunk.

    Parameters
    ----------
    engine
        The engine.
    texts
        The texts; read as they are needed, two chunks ahead at most.
    size, prompt_name, prompt
        As in `Engine.embed`.
    chunk
        Texts a chunk. More find more texts of equal length, fewer keep less in memory.
    show_progress_bar
        Whether to draw progress.

    Yields
    ------
    numpy.ndarray
        float32 [up to chunk, dims], rows of unit length, in the order of the texts.

    Examples
    --------
    >>> from matryoshka2d.inference import open_engine
    >>> engine = open_engine("default", precision="fp32", device="cpu")
    >>> texts = (f"sentence number {i}" for i in range(5))
    >>> [vectors.shape for vectors in embed_stream(engine, texts, "1x32", chunk=2)]
    [(2, 32), (2, 32), (1, 32)]
    """
    from tqdm.auto import tqdm

    waiting = iter(texts)
    with (
        tqdm(desc="Embedding", unit=" texts", disable=not show_progress_bar) as bar,
        ThreadPoolExecutor(1, "matryoshka2d-stream") as ahead,
    ):
        pending: Future[Vectors] | None = None
        try:
            while batch := list(islice(waiting, chunk)):
                following = ahead.submit(engine.embed, batch, size, prompt_name=prompt_name, prompt=prompt)
                if pending is not None:
                    vectors = pending.result()
                    bar.update(len(vectors))
                    yield vectors
                pending = following
            if pending is not None:
                vectors = pending.result()
                bar.update(len(vectors))
                yield vectors
        finally:
            ahead.shutdown(wait=False, cancel_futures=True)
