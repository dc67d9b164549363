"""Codes are those of sentence-transformers and of Faiss; the loss is that of a real search."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sentence_transformers.util import quantize_embeddings

from matryoshka2d.encoder.quantization import PRECISIONS, Quantizer, recall_loss
from matryoshka2d.errors import UserError


def unit(rows: int, dims: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dims)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dims", [8, 12, 384])
def test_they_are_those_of_sentence_transformers_up_to_edges_of_steps(precision: str, dims: int) -> None:
    calibration, vectors = unit(500, dims), unit(50, dims, seed=1)
    expected = quantize_embeddings(vectors, precision=precision, calibration_embeddings=calibration)
    quantizer = Quantizer.fit(calibration, precision)
    codes = quantizer.encode(vectors)
    assert codes.dtype == expected.dtype
    if quantizer.bits:
        np.testing.assert_array_equal(codes, expected)
        return
    apart = np.abs(codes.astype(int) - expected)
    assert apart.max() <= 1
    # Only where a value lies on the edge of a step, up to rounding, may the two differ.
    place = (vectors - quantizer.ranges[0]) / (quantizer.ranges[1] - quantizer.ranges[0]) * 255
    assert (np.abs(place - np.rint(place))[apart == 1] < 1e-3).all()


@settings(deadline=None, max_examples=60)
@given(
    vectors=arrays(np.float32, (6, 9), elements=st.floats(-1, 1, width=32, allow_subnormal=False)),
    others=arrays(np.float32, (4, 9), elements=st.floats(-2, 2, width=32, allow_subnormal=False)),
)
def test_bytes_are_those_of_faiss(vectors: np.ndarray, others: np.ndarray) -> None:
    index = faiss.IndexScalarQuantizer(9, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    quantizer = Quantizer.fit(vectors, "uint8")
    for some in (vectors, others, unit(5, 9)):
        codes = index.sa_encode(some)
        np.testing.assert_array_equal(quantizer.encode(some), codes)
        np.testing.assert_allclose(index.sa_decode(codes), quantizer.decode(codes), atol=1e-6)


@pytest.mark.parametrize("dims", [8, 384])
def test_bits_are_those_that_a_binary_index_of_faiss_finds_by(dims: int) -> None:
    corpus, queries = unit(60, dims), unit(5, dims, seed=1)
    quantizer = Quantizer.fit(corpus, "ubinary")
    index = faiss.IndexBinaryFlat(dims)
    index.add(quantizer.encode(corpus))
    distances, found = index.search(quantizer.encode(queries), 10)
    hamming = ((queries > 0)[:, None] != (corpus > 0)[None]).sum(axis=2)
    np.testing.assert_array_equal(np.take_along_axis(hamming, found, axis=1), distances)


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, (6, 9), elements=st.floats(-1, 1, width=32)))
def test_decoding_is_within_half_a_step(vectors: np.ndarray) -> None:
    for precision in ("int8", "uint8"):
        quantizer = Quantizer.fit(vectors, precision)
        steps = (quantizer.ranges[1] - quantizer.ranges[0]) / 255
        error = np.abs(quantizer.decode(quantizer.encode(vectors)) - vectors)
        assert (error <= steps / 2 + 1e-6).all()
    for precision in ("binary", "ubinary"):
        quantizer = Quantizer.fit(vectors, precision)
        np.testing.assert_array_equal(
            quantizer.decode(quantizer.encode(vectors)), np.where(vectors > 0, 1, -1)
        )


def test_values_beyond_the_ranges_are_clipped() -> None:
    quantizer = Quantizer.fit(np.array([[0.0], [1.0]], dtype=np.float32), "int8")
    assert quantizer.encode(np.array([[-9.0], [9.0]], dtype=np.float32)).ravel().tolist() == [-128, 127]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_loss_is_that_of_a_plain_search(precision: str) -> None:
    corpus, queries = unit(300, 64), unit(20, 64, seed=1)
    quantizer = Quantizer.fit(corpus, precision)
    loss = recall_loss(queries, corpus, quantizer, k=5)
    if quantizer.bits:
        hamming = ((queries > 0)[:, None] != (corpus > 0)[None]).sum(axis=2)
        near = np.argsort(hamming, axis=1, kind="stable")[:, :5]
    else:
        near = np.argsort(-(queries @ quantizer.decode(quantizer.encode(corpus)).T), axis=1, kind="stable")[
            :, :5
        ]
    exact = np.argsort(-(queries @ corpus.T), axis=1)[:, :5]
    expected = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(near, exact, strict=True)])
    assert loss.recall == pytest.approx(expected)
    assert loss.rescored >= loss.recall
    assert loss.exact_bytes_per_vector == 256
    assert loss.bytes_per_vector == (8 if quantizer.bits else 64)
    assert loss.recall > (0.2 if quantizer.bits else 0.95)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match=r"written in 'int7'.*Did you mean 'int8'\?"):
        Quantizer.fit(unit(3, 8), "int7")
    for rows in (0, 1):
        with pytest.raises(UserError, match=rf"a range \({rows}\): give at least two"):
            Quantizer.fit(unit(2, 8)[:rows], "int8")
    with pytest.raises(UserError, match="expected float vectors"):
        Quantizer.fit(np.zeros((3, 8), dtype=np.int8), "int8")
    with pytest.raises(UserError, match="NaN"):
        Quantizer.fit(np.full((3, 8), np.nan, dtype=np.float32), "int8")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("precision", "rows", "stored"), [("int8", 4, 20), ("ubinary", 1, 3), ("binary", 1, 3)]
)
def test_bytes_are_those_of_float32_whatever_was_read(
    dtype: type, precision: str, rows: int, stored: int
) -> None:
    vectors = np.random.default_rng(0).normal(size=(rows, 20)).astype(dtype)
    loss = recall_loss(vectors, vectors, Quantizer.fit(vectors, precision))
    assert (loss.bytes_per_vector, loss.exact_bytes_per_vector) == (stored, 80)


@pytest.mark.parametrize(("precision", "rows"), [("int8", 1), ("uint8", 0), ("ubinary", 0)])
def test_too_few_vectors_for_a_range(precision: str, rows: int) -> None:
    with pytest.raises(UserError, match="too few vectors"):
        Quantizer.fit(np.ones((rows, 8), dtype=np.float32), precision)
