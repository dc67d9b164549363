"""Vectors as the bytes of an answer: JSON numbers, or base64 of little-endian float32."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Literal

import numpy as np
import orjson

from matryoshka2d.inference.engine import Vectors

Encoding = Literal["float", "base64"]

_ROWS = 32
"""Rows written at a time: other threads get their turn between."""

_ROW = '{"object":"embedding","index":%d,"embedding":'


def embeddings_body(vectors: Vectors, encoding: Encoding, model: str, tokens: int) -> bytes:
    """Return the JSON body of an answer.

    Parameters
    ----------
    vectors
        Little-endian float32 [texts, dims].
    encoding
        How a vector is written.
    model
        The name that the request used.
    tokens
        What the request cost.

    Examples
    --------
    >>> body = embeddings_body(np.array([[1.0, 0.0]], dtype="<f4"), "base64", "m", 3)
    >>> orjson.loads(body)["data"]
    [{'object': 'embedding', 'index': 0, 'embedding': 'AACAPwAAAAA='}]
    """
    if vectors.dtype.str != "<f4":
        raise TypeError(f"vectors are {vectors.dtype.str}: clients read little-endian float32")
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    tail = orjson.dumps({"model": model, "usage": usage})[1:]
    return b'{"object":"list","data":[' + b",".join(_rows(vectors, encoding)) + b"]," + tail


def _rows(vectors: Vectors, encoding: Encoding) -> Iterator[bytes]:
    write = _base64 if encoding == "base64" else _numbers
    for start in range(0, len(vectors), _ROWS):
        part = np.ascontiguousarray(vectors[start : start + _ROWS])
        yield b",".join(
            b"%b%b}" % ((_ROW % i).encode(), row) for i, row in enumerate(write(part), start=start)
        )


def _base64(vectors: Vectors) -> Iterator[bytes]:
    for row in vectors:
        yield b'"' + base64.b64encode(row) + b'"'


def _numbers(vectors: Vectors) -> Iterator[bytes]:
    for row in vectors:
        yield orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
