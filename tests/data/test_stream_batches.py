"""Batches of streams: full, distinct, every row once a pass, a bounded number of rows in memory."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from matryoshka2d.data import rows as row_reader
from matryoshka2d.data.stream_batch_sampler import DATASET, StreamBatchSampler, endless_batches
from matryoshka2d.data.streams import open_stream
from matryoshka2d.errors import UserError
from matryoshka2d.training.teacher import DrawnRows
from tests.data.test_batching import held
from tests.data.test_readers import as_jsonl, as_parquet, write

Row = dict[str, Any]


def passes(
    rows: list[Row], read: list[int] | None = None
) -> Iterator[tuple[Iterator[Row], np.random.Generator]]:
    """Yield pass after pass; `read` counts the rows that were asked for."""

    def one_pass() -> Iterator[Row]:
        for row in rows:
            if read is not None:
                read[0] += 1
            yield row

    number = 0
    while True:
        yield one_pass(), np.random.default_rng(number)
        number += 1


def assert_distinct(batch: list[Row]) -> None:
    counts = Counter(key for row in batch for key in held(row))
    assert all(count == 1 for count in counts.values())


SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 8), st.integers(0, 30)).filter(lambda s: s[0] >= s[1])


@settings(max_examples=80, deadline=None)
@given(SHAPES, st.integers(1, 4))
def test_every_row_comes_once_a_pass_before_any_comes_again(shape: tuple[int, int, int], runs: int) -> None:
    count, size, more = shape
    rows = [{"text": f"text {i}"} for i in range(count)]
    batches = islice(endless_batches(passes(rows), size, size + more, "s"), runs * count // size)
    seen = Counter(row["text"] for batch in batches for row in batch)
    # What a pass leaves over is there first in the next, so no row is a whole pass behind.
    assert set(seen.values()) <= {runs - 1, runs, runs + 1}
    assert sum(seen.values()) == runs * count // size * size
    if count % size == 0:
        assert set(seen.values()) == {runs}


@settings(max_examples=80, deadline=None)
@given(
    SHAPES,
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(-1, 3)), min_size=40, max_size=40),
)
def test_batches_are_full_and_distinct_whatever_rows_share(
    shape: tuple[int, int, int], drawn: list[tuple[int, int, int]]
) -> None:
    count, size, more = shape
    rows = [{"anchor": f"T {a}", "positive": f"t  {b}", "group": g} for a, b, g in drawn[:count]]
    read = [0]
    try:
        for batch in islice(endless_batches(passes(rows, read), size, size + more, "s"), 12):
            assert len(batch) == size
            assert_distinct(batch)
    except UserError as error:
        assert f"fill no batch of {size}" in str(error)
        assert read[0] % count == 0


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_no_more_rows_are_read_ahead_than_the_buffer_has(shape: tuple[int, int, int]) -> None:
    count, size, more = shape
    read = [0]
    batches = endless_batches(passes([{"text": str(i)} for i in range(count)], read), size, size + more, "s")
    for number, _ in enumerate(islice(batches, 10), start=1):
        assert 0 <= read[0] - number * size <= size + more


def test_a_row_that_waits_comes_in_a_later_batch() -> None:
    rows = [{"text": "same"}] * 4 + [{"text": str(i)} for i in range(12)]
    batches = list(islice(endless_batches(passes(rows), 4, 16, "s"), 4))
    assert Counter(row["text"] for batch in batches for row in batch)["same"] == 4
    for batch in batches:
        assert_distinct(batch)


def test_where_a_buffer_fills_no_batch_the_rows_that_come_next_do() -> None:
    rows = [{"text": "same"}] * 20 + [{"text": str(i)} for i in range(20)]
    batches = list(islice(endless_batches(passes(rows), 4, 8, "s"), 5))
    for batch in batches:
        assert len(batch) == 4
        assert_distinct(batch)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "s has no rows to train on"),
        ([{"text": "a"}], "s: 1 rows fill no batch of 2 without a text or group that comes twice"),
        ([{"text": "a"}, {"text": "A "}] * 9, "fill no batch of 2"),
        ([{"text": str(i), "group": "g"} for i in range(9)], "lower --batch-size"),
    ],
)
def test_a_stream_that_fills_no_batch_ends_in_one_line(rows: list[Row], said: str) -> None:
    with pytest.raises(UserError) as caught:
        next(endless_batches(passes(rows), 2, 4, "s"))
    assert said in str(caught.value)


def sampler(
    folder: Path, counts: list[int], parts: int, *, batch_size: int, length: int, more: int, seed: int = 0
) -> StreamBatchSampler:
    streams = {}
    for number, count in enumerate(counts):
        rows = [{"anchor": f"{number} {i}", "positive": f"p {number} {i}"} for i in range(count)]
        home = folder / str(number)
        home.mkdir(exist_ok=True)
        for part in range(parts):
            name, writer = (("f.parquet", as_parquet), ("f.jsonl", as_jsonl))[number % 2]
            if rows[part::parts]:
                write(home / f"{part}-{name}", writer(rows[part::parts]))
        streams[str(number)] = open_stream(home)
    shares = [count / sum(counts) for count in counts]
    return StreamBatchSampler(
        streams, shares, batch_size=batch_size, length=length, buffer=batch_size + more, seed=seed
    )


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(8, 30), min_size=1, max_size=3),
    parts=st.integers(1, 4),
    share=st.integers(1, 4),
    processes=st.integers(1, 2),
    more=st.integers(0, 30),
    position=st.integers(0, 12),
    chunk=st.integers(1, 9),
)
def test_each_process_has_its_part_of_the_same_batches_from_wherever_it_goes_on(
    counts: list[int], parts: int, share: int, processes: int, more: int, position: int, chunk: int
) -> None:
    size = share * processes
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_reader, "CHUNK", chunk)
        made = sampler(Path(folder), counts, parts, batch_size=size, length=12, more=more)
        whole = list(made)
        assert len(whole) == len(made) == 12
        assert all(len({row.get(DATASET) for row in batch}) == 1 for batch in whole)
        found: list[list[Row]] = [[] for _ in whole[position:]]
        for rank in range(processes):
            ours = BatchSamplerShard(
                made, num_processes=processes, process_index=rank, split_batches=True, even_batches=False
            )
            loader = DataLoader(DrawnRows({}), batch_sampler=ours, collate_fn=list)
            parts_of_rank = list(skip_first_batches(loader, position))
            assert all(len(part) == share for part in parts_of_rank)
            for batch, part in zip(found, parts_of_rank, strict=True):
                batch += part
        assert found == whole[position:]


def test_another_seed_gives_other_batches_and_the_same_seed_the_same(tmp_path: Path) -> None:
    def batches(seed: int) -> str:
        return json.dumps(list(sampler(tmp_path, [30], 3, batch_size=4, length=7, more=20, seed=seed)))

    assert batches(1) == batches(1) != batches(2)


def test_passes_differ_and_rows_are_mixed_within_the_buffer(tmp_path: Path) -> None:
    made = sampler(tmp_path, [400], 1, batch_size=4, length=200, more=96)
    order = [int(row["anchor"].split()[1]) for batch in made for row in batch]
    first, second = order[:400], order[400:]
    assert sorted(first) == sorted(second) == list(range(400))
    assert first != second
    # A row comes at most a buffer too early, and neighbors are parted.
    assert all(row - place < 100 for place, row in enumerate(first))
    assert np.mean(np.abs(np.diff(first))) > 15
