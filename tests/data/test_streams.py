"""A stream has the rows that reading everything gives, whatever the shards, and says what is wrong there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from matryoshka2d.data import rows as row_reader
from matryoshka2d.data import streams
from matryoshka2d.data.mixture import open_mixture
from matryoshka2d.data.readers import read_rows
from matryoshka2d.data.row_formats import POSITIVE_PAIRS, SCORED_PAIRS
from matryoshka2d.data.streams import Stream, open_stream
from matryoshka2d.errors import UserError
from tests.data.test_readers import CSV_TEXT, TEXT, WRITERS, as_csv, as_jsonl, as_parquet, write

Rows = list[dict[str, Any]]


def one_pass(stream: Stream, seed: int = 0) -> Rows:
    return list(stream.one_pass(np.random.default_rng(seed)))


def in_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def mistake(source: Path | str, **choices: Any) -> str:
    with pytest.raises(UserError) as caught:
        one_pass(open_stream(source, **choices))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=12, deadline=None)
@given(data=st.data(), parts=st.integers(1, 4), chunk=st.integers(1, 5))
def test_its_rows_are_those_that_are_read_at_once(
    name: str, data: st.DataObject, parts: int, chunk: int
) -> None:
    text = CSV_TEXT if ".csv" in name.lower() else TEXT
    row = st.fixed_dictionaries(
        {"sentence1": text, "sentence2": text, "score": st.floats(0, 1), "group": st.sampled_from("ab")}
    )
    rows = data.draw(st.lists(row, min_size=parts, max_size=12))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_reader, "CHUNK", chunk)
        whole = read_rows(write(Path(folder, name), WRITERS[name](rows))).remove_columns("group").to_list()
        Path(folder, name).unlink()
        for part in range(parts):
            write(Path(folder, f"{part}-{name}"), WRITERS[name](rows[part::parts]))
        stream = open_stream(folder)
        found = one_pass(stream)
        # Groups keep their names: numbering them would take all rows.
        assert sorted(row.pop("group") for row in found) == sorted(row["group"] for row in rows)
        assert in_order(found) == in_order(whole)
        assert stream.layout.format == SCORED_PAIRS
        assert stream.rows == (len(rows) if name == "rows.parquet" else None)


def shards_of(folder: Path, rows: Rows, parts: int, name: str = "nli") -> str:
    folder.mkdir(exist_ok=True)
    for part in range(parts):
        write(folder / f"{name}-{part}.parquet", as_parquet(rows[part::parts]))
    return str(folder / f"{name}-*.parquet")


NUMBERED = [{"anchor": f"a {i}", "positive": f"p {i}"} for i in range(40)]


def test_a_pattern_a_folder_and_a_file_are_streams(tmp_path: Path) -> None:
    pattern = shards_of(tmp_path / "shards", NUMBERED, 4)
    for source in (pattern, tmp_path / "shards", str(tmp_path / "*" / "*.parquet")):
        assert in_order(one_pass(open_stream(source))) == in_order(NUMBERED)
    assert len(one_pass(open_stream(tmp_path / "shards" / "nli-0.parquet"))) == 10


def test_shards_come_in_another_order_in_every_pass_and_rows_as_the_seed_says(tmp_path: Path) -> None:
    stream = open_stream(shards_of(tmp_path, NUMBERED, 8))
    assert one_pass(stream, 1) == one_pass(stream, 1) != one_pass(stream, 2)


def test_a_limit_keeps_the_first_rows(tmp_path: Path) -> None:
    stream = open_stream(shards_of(tmp_path, NUMBERED, 4), limit=12)
    assert stream.rows == 12
    assert one_pass(stream, 3) == [*NUMBERED[0::4], *NUMBERED[1:8:4]]


def test_a_split_is_picked_out_and_its_length_is_not_known(tmp_path: Path) -> None:
    rows = [{**row, "split": "train" if i % 4 else "test"} for i, row in enumerate(NUMBERED)]
    stream = open_stream(write(tmp_path / "f.parquet", as_parquet(rows)))
    assert stream.rows is None
    assert one_pass(stream) == [row for i, row in enumerate(NUMBERED) if i % 4]
    assert len(one_pass(open_stream(tmp_path / "f.parquet", split="all"))) == 40


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "vector": [0.0] * 8} for row in NUMBERED]
    path = write(tmp_path / "f.parquet", as_parquet(rows))
    asked = []
    iterate = parquet.ParquetFile.iter_batches

    def noting(self: Any, *args: Any, columns: list[str], **choices: Any) -> Any:
        asked.append(columns)
        return iterate(self, *args, columns=columns, **choices)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", noting)
    assert one_pass(open_stream(path)) == NUMBERED
    assert asked == [["anchor", "positive"]]


def test_no_more_is_read_than_was_asked_for(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in NUMBERED[:4]] + ["{broken"]
    path = write(tmp_path / "f.jsonl", "\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_reader, "CHUNK", 2)
        rows = open_stream(path).one_pass(np.random.default_rng(0))
        assert [next(rows) for _ in range(4)] == NUMBERED[:4]
        with pytest.raises(UserError, match="line 5: not JSON"):
            next(rows)


def test_an_empty_shard_among_others_is_passed_over(tmp_path: Path) -> None:
    empty = pyarrow.Table.from_pylist([], schema=pyarrow.schema([("other", pyarrow.string())]))
    pattern = shards_of(tmp_path, NUMBERED, 2)
    parquet.write_table(empty, tmp_path / "nli-00.parquet")
    assert in_order(one_pass(open_stream(pattern))) == in_order(NUMBERED)


@pytest.mark.parametrize(
    ("files", "source", "said"),
    [
        ({"f.parquet": as_parquet(NUMBERED)[:200]}, "*.parquet", "f.parquet is not a readable Parquet file"),
        ({"f.parquet": b"not parquet"}, "f.parquet", "write or download it again"),
        ({"f.csv": b"anchor,positive\n", "g.csv": b"anchor,positive\n"}, "", "has no rows"),
        ({"f.jsonl": b"\n"}, "f.jsonl", "has no rows"),
        ({"README.md": b"a"}, "", "holds no data: expected shards ending in .jsonl"),
        ({"f.csv": b"a", "f.json": b"b"}, "", r"several kinds (.csv, .json): name those of one, as in '"),
        ({}, "f-*.parquet", "no file matches"),
        ({}, "f.parquet", "there is no file"),
        ({"f.md": b"a"}, "*.md", "unknown kind of file '.md'"),
        ({"f.csv": b"text,split\na,dev\n"}, "f.csv", None),
        (
            {"a.csv": as_csv(NUMBERED), "b.csv": b"anchor,text\na,b\n"},
            "*.csv",
            "b.csv: there is no column 'positive', which",
        ),
        (
            {"a.parquet": as_parquet(NUMBERED), "b.parquet": as_parquet([{"anchor": "a"}])},
            "*.parquet",
            "found 'anchor'; every shard needs the same columns",
        ),
    ],
)
def test_what_cannot_be_streamed_is_said_when_it_is_opened(
    tmp_path: Path, files: dict[str, bytes], source: str, said: str | None
) -> None:
    for name, content in files.items():
        write(tmp_path / name, content)
    if said is None:
        assert one_pass(open_stream(tmp_path / source)) == []
        return
    with pytest.raises(UserError) as caught:
        open_stream(str(tmp_path / source) if source else tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_shard_that_is_broken_inside_is_named(tmp_path: Path) -> None:
    content = bytearray(as_parquet([{"text": f"{i} " * 50} for i in range(5000)]))
    content[1000:3000] = bytes(2000)
    path = write(tmp_path / "f.parquet", bytes(content))
    assert mistake(path).startswith(f"{path} is not a readable Parquet file")


def test_a_scale_is_guessed_from_the_first_rows_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_reader, "CHUNK", 4)

    def scored(name: str, scores: list[float]) -> Path:
        rows = [{"sentence1": "a", "sentence2": "b", "score": score} for score in scores]
        return write(tmp_path / name, as_jsonl(rows))

    high = open_stream(scored("high.jsonl", [0, 5, 0, 0, 1, 2.5]))
    assert [row["score"] for row in one_pass(high)] == [0, 1, 0, 0, 0.2, 0.5]
    path = scored("late.jsonl", [0, 1, 0, 0.5, 1, 3])
    assert mistake(path).startswith(f"{path}, line 6: column 'score' is 3, expected 0 to 1: the first rows")
    assert "--score-range 0,5" in mistake(path)
    assert [row["score"] for row in one_pass(open_stream(path, score_range=(0, 5)))][-1] == 0.6


def test_a_set_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*names: Any, **choices: Any) -> Any:
        asked.append((*names, choices))
        return datasets.Dataset.from_list(NUMBERED).to_iterable_dataset(num_shards=3)

    monkeypatch.setattr(datasets, "load_dataset", load)
    stream = open_stream("owner/nli:pair")
    assert asked == [("owner/nli", "pair", {"split": "train", "streaming": True})]
    assert len(stream.shards) == 3
    assert stream.rows is None
    card = datasets.splits.SplitDict({"train": datasets.splits.SplitInfo("train", num_examples=40)})
    rows = datasets.Dataset.from_list(NUMBERED).to_iterable_dataset()
    info = datasets.DatasetInfo(features=rows.features, splits=card)
    content = datasets.IterableDataset(rows._ex_iterable, info=info, split=datasets.Split.TRAIN)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: content)
    assert open_stream("owner/nli").rows == 40
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert in_order(one_pass(stream)) == in_order(NUMBERED)
    assert one_pass(stream, 1) == one_pass(stream, 1)


def test_a_hub_that_fails_on_the_way_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Any:
        yield NUMBERED[0]
        raise ConnectionError("reset by peer\nand more")

    features = datasets.Features({name: datasets.Value("string") for name in NUMBERED[0]})
    content = datasets.IterableDataset.from_generator(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: content)
    assert mistake("owner/nli").startswith("cannot read owner/nli from the hub: ")
    assert "--resume" in mistake("owner/nli")


class TestMixtures:
    def test_each_stream_keeps_its_format_and_a_name(self, tmp_path: Path) -> None:
        pattern = shards_of(tmp_path / "qa", NUMBERED, 2)
        scored = write(tmp_path / "sts.csv", "sentence1,sentence2,score\na,b,1\n")
        mixture = open_mixture([pattern, tmp_path / "qa", tmp_path / "qa" / "*.parquet", scored])
        assert list(mixture.formats) == ["nli", "qa", "qa_2", "sts"]
        assert mixture.formats["qa"] == POSITIVE_PAIRS
        assert mixture.formats["sts"] == SCORED_PAIRS
        assert mixture.rows == {"nli": 40, "qa": 40, "qa_2": 40, "sts": None}

    def test_rows_that_are_not_known_may_be_said(self, tmp_path: Path) -> None:
        path = write(tmp_path / "qa.jsonl", as_jsonl(NUMBERED))
        assert open_mixture([path], rows={"qa": 40}).rows == {"qa": 40}
        assert open_mixture([path], rows={"qa": 40}, limit=7).rows == {"qa": 7}
        with pytest.raises(UserError, match=r"rows names 'quora', but the data sets are qa\."):
            open_mixture([path], rows={"quora": 40})


def test_opening_a_stream_reads_no_more_than_its_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", as_jsonl(NUMBERED) + b"{broken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_reader, "CHUNK", 8)
        assert streams.open_stream(path).layout.format == POSITIVE_PAIRS
