"""The parts that need no server: names and sizes, the wire, what may wait."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.errors import UserError
from matryoshka2d.serving.admission import Admission
from matryoshka2d.serving.catalog import Catalog, grids, load_catalog, named_model
from matryoshka2d.serving.options import ServeOptions
from matryoshka2d.serving.problems import RequestError, busy
from matryoshka2d.serving.wire import embeddings_body
from matryoshka2d.size import Size, parse_sizes


def drawn(rows: int, dims: int, seed: int) -> np.ndarray:
    """Return vectors of numbers large and small."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, dims)) * 10.0 ** rng.integers(-9, 1, (rows, dims))).astype("<f4")


VECTORS = st.builds(drawn, st.integers(1, 70), st.integers(1, 12), st.integers(0, 2**32))


@given(VECTORS)
def test_numbers_and_base64_hold_the_same_bits(vectors: np.ndarray) -> None:
    numbers = json.loads(embeddings_body(vectors, "float", "m", 3))
    coded = json.loads(embeddings_body(vectors, "base64", "m", 3))
    for i, (left, right) in enumerate(zip(numbers["data"], coded["data"], strict=True)):
        assert left["index"] == right["index"] == i
        found = np.frombuffer(base64.b64decode(right["embedding"]), dtype="<f4")
        np.testing.assert_array_equal(found, vectors[i])
        np.testing.assert_array_equal(np.array(left["embedding"]).astype("<f4"), vectors[i])
    assert numbers["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2"])
def test_other_numbers_never_reach_the_wire(dtype: str) -> None:
    with pytest.raises(TypeError, match="little-endian float32"):
        embeddings_body(np.zeros((1, 2), dtype=dtype), "base64", "m", 1)


@given(st.sets(st.tuples(st.integers(1, 12), st.sampled_from([8, 16, 32, 384])), min_size=1))
def test_sizes_are_written_as_they_are_read(pairs: set[tuple[int, int]]) -> None:
    sizes = {Size(*pair) for pair in pairs}
    assert set(parse_sizes(grids(sizes))) == sizes


def test_names_of_models(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert named_model("a=b") == ("a=b", "a=b")
    assert named_model(".") == (tmp_path.name, ".")
    assert named_model("default") == ("default", "default")
    assert named_model("org/name") == ("org/name", "org/name")
    assert named_model("mine=org/name") == ("mine", "org/name")
    (tmp_path / "x@2").mkdir()
    with pytest.raises(UserError, match=r"has an @.*name the model"):
        named_model("x@2")


def test_a_catalog_that_cannot_be(model: str) -> None:
    with pytest.raises(UserError, match="two models are called 'one'"):
        load_catalog([f"one={model}", f"one={model}"], ServeOptions())
    with pytest.raises(UserError, match="too deep"):
        load_catalog([model], ServeOptions(sizes="9x8"))
    with pytest.raises(UserError, match="--size 2x8 is not among the sizes offered: 1x16,32"):
        load_catalog([model], ServeOptions(sizes="1x16", size="2x8"))


def test_sizes_may_be_chosen(model: str) -> None:
    options = ServeOptions(sizes="1x8 3x16", size="3x16", engine="torch", precision="fp32")
    served = Catalog(load_catalog([f"m={model}"], options).served.values())
    assert grids(served.served["m"].sizes) == "1x8,32 3x16,32"
    assert str(served.find("m")[1]) == "3x16"
    assert str(served.find("m@1", dims=8)[1]) == "1x8"
    with pytest.raises(RequestError) as refused:
        served.find("m@1")
    assert refused.value.code == "size_not_offered"
    anything = load_catalog([f"m={model}"], ServeOptions(any_size=True, engine="torch"))
    assert str(anything.find("m@2x13")[1]) == "2x13"
    with pytest.raises(RequestError, match="any up to 4x32"):
        anything.find("m", dims=33)


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_long_requests_leave_room_for_short_ones() -> None:
    admission = Admission(100, 10, 60.0, Clock())
    with admission.tokens(75, bulk=True):
        with pytest.raises(RequestError):
            admission.check(1, bulk=True)
        with admission.tokens(25, bulk=False), pytest.raises(RequestError):
            admission.check(1, bulk=False)
    assert admission.held == 0


def test_the_wait_is_that_of_the_measured_speed() -> None:
    clock = Clock()
    admission = Admission(1000, 10, 60.0, clock)
    for _ in range(50):
        clock.now += 0.1
        admission.finished(10)
    assert admission.speed == pytest.approx(100, rel=0.1)
    with admission.tokens(700, bulk=True), pytest.raises(RequestError) as refused:
        admission.check(250, bulk=True)
    # Two hundred tokens too many, at a hundred a second.
    assert refused.value.headers["Retry-After"] in ("2", "3")
    clock.now += 100
    assert admission.speed > 1000, "what was long ago says nothing"


@pytest.mark.parametrize(("share", "speed"), [(0.02, 10_000), (0.5, 400)])
def test_the_time_between_requests_says_nothing_of_the_speed(share: float, speed: float) -> None:
    clock = Clock()
    admission = Admission(100_000, 10, 60.0, clock)
    for _ in range(50):
        clock.now += 0.1 * (1 - share)
        with admission.tokens(20, bulk=False):
            clock.now += 0.1 * share
        admission.finished(20)
    # With too little work in the window, nothing is known.
    assert admission.speed == pytest.approx(speed)
    with admission.tokens(1500, bulk=True):
        admission.check(1500, bulk=True)


def test_what_would_be_late_is_refused_at_once() -> None:
    clock = Clock()
    admission = Admission(100_000, 10, 5.0, clock)
    for _ in range(50):
        clock.now += 0.1
        admission.finished(10)
    with admission.tokens(1000, bulk=True):
        with pytest.raises(RequestError, match="all the work that it can take"):
            admission.check(1, bulk=True)
        admission.check(1, bulk=False)


def test_bodies_are_bounded_all_together() -> None:
    admission = Admission(100, 10, 60.0)
    with admission.body() as first, admission.body() as second:
        first(50)
        with pytest.raises(RequestError) as refused:
            second(31)
        assert refused.value.status == 429
    with admission.body() as third:
        third(80)


@given(st.floats(0, 1000))
def test_both_headers_say_the_same_wait(seconds: float) -> None:
    headers = busy("no", "overloaded", seconds).headers
    assert int(headers["Retry-After"]) >= int(headers["retry-after-ms"]) / 1000 >= seconds
