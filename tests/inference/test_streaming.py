"""Any number of texts in bounded memory, in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from matryoshka2d.inference import Engine, embed_stream, open_engine
from tests import tiny


@pytest.fixture(scope="module")
def engine(model: str) -> Engine:
    return open_engine(model, "torch", "fp32")


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_vectors_come_in_the_order_of_the_texts(engine: Engine, mixed: list[str], chunk: int) -> None:
    found = list(embed_stream(engine, iter(mixed), "3x16", chunk=chunk))
    assert [len(vectors) for vectors in found] == [
        len(mixed[i : i + chunk]) for i in range(0, len(mixed), chunk)
    ]
    np.testing.assert_allclose(np.concatenate(found), engine.embed(mixed, "3x16"), atol=2e-6)


def test_no_more_is_read_than_is_needed(engine: Engine) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield tiny.TEXTS[read % 5]

    stream = embed_stream(engine, endless(), chunk=4)
    for _ in range(3):
        next(stream)
    stream.close()
    assert read <= 5 * 4


def test_nothing_in_nothing_out(engine: Engine) -> None:
    assert list(embed_stream(engine, [])) == []


def test_an_error_in_the_texts_comes_through(engine: Engine) -> None:
    def broken() -> Iterator[str]:
        yield "a cat"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(embed_stream(engine, broken(), chunk=1))
