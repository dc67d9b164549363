"""The one reader of rows: lines of every system, files of splits, and nothing but one line for any bytes."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from matryoshka2d.data.lines import filled_lines, numbered_lines
from matryoshka2d.data.readers import read_rows
from matryoshka2d.data.rows import EXTENSIONS, open_shards, read_tables, source_files
from matryoshka2d.data.streams import open_stream
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import read_retrieval, read_sts
from matryoshka2d.inference.encoding import look_over, read_texts

Rows = list[dict[str, Any]]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(source: Path, split: str | None = None) -> Rows:
    return [row for table in read_tables(source, split) for row in table.rows]


def mistake(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),
        (b"a\rb\nc", ["a\rb", "c"]),
        ("a\u2028b\x85c\x0b\x0cd\n".encode(), ["a\u2028b\x85c\x0b\x0cd"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
        ("a\r\nb".encode("utf-16"), ["a", "b"]),
        ("\ufeffa\rb".encode("utf-16-be"), ["a", "b"]),
        ("a\nb".encode("utf-32"), ["a", "b"]),
        (b"a\0b\n", ["a\0b"]),
        (b"\n \n\t\r\n", []),
        (b"", []),
    ],
)
def test_lines_of_every_system(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    assert [line for _, line in filled_lines(write(tmp_path / "f.txt", content))] == lines
    packed = write(tmp_path / "f.txt.gz", gzip.compress(content))
    assert [line for _, line in filled_lines(packed)] == lines


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "f.txt", b"a\n" * 200_000 + b"\xff")
    lines = numbered_lines(path)
    assert next(lines) == (1, "a\n")
    assert (
        mistake(lambda: list(lines)) == f"{path}, line 200001: byte 0xff is not UTF-8: save the file as UTF-8"
    )


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "f.txt", "a")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13), str(path))

    # Root may read anything, so the refusal of the system is played.
    monkeypatch.setattr(Path, "open", refuse)
    assert mistake(lambda: rows_of(path)) == f"cannot read {path}: Permission denied"


# --- forms ---------------------------------------------------------------------------------------


def test_sheets_say_their_sign_themselves(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", 'sep=;\ntext;n\n"a;\nb";1\nc;2;3\n')
    assert mistake(lambda: rows_of(path)).startswith(f"{path}, line 5: 3 columns, expected the 2")
    assert rows_of(write(path, 'sep=;\ntext;n\n"a;\nb";1,5\n')) == [{"text": "a;\nb", "n": "1,5"}]
    assert rows_of(write(path, "text\tn\na,b\t1\n")) == [{"text": "a,b", "n": "1"}]
    assert rows_of(write(path, "text\na;b\n")) == [{"text": "a;b"}]


def test_sets_of_sick_have_a_score_beside_a_label(tmp_path: Path) -> None:
    header = "pair_ID\tsentence_A\tsentence_B\tlabel\trelatedness_score\n"
    path = write(tmp_path / "sick.tsv", header + "1\ta\tb\t1\t4.5\n2\tc\td\t0\t1\n")
    assert read_sts(path)[0].gold.tolist() == [4.5, 1]
    assert read_rows(path)["score"][:] == [0.9, 0.2]


def test_numbers_that_only_python_reads_are_no_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "f.tsv", "score\tsentence1\tsentence2\n1_5\ta\tb\n2\tc\td\n")
    assert "'1_5': expected a number" in mistake(lambda: read_sts(path))


# --- splits --------------------------------------------------------------------------------------


def test_files_named_after_splits_are_not_mixed(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test"):
        row = {"sentence1": name, "sentence2": "b", "score": len(name) / 100}
        write(tmp_path / "set" / f"{name}.jsonl", json.dumps(row) + "\n" + json.dumps(row | {"score": 0}))
    write(tmp_path / "set" / "README.md", "of a hub")
    found = {
        split: [path.stem for path in source_files(tmp_path / "set", split)] for split in ("dev", "test")
    }
    assert found == {"dev": ["validation-00000-of-00001"], "test": ["test"]}
    assert len(read_rows(tmp_path / "set")) == 4
    assert len(read_rows(tmp_path / "set", split="all")) == 8
    assert [one.name for one in read_sts(tmp_path / "set")] == ["set"]
    assert read_sts(tmp_path / "set", "dev")[0].sentence1[0].startswith("validation")
    said = mistake(lambda: read_texts(tmp_path / "set"))
    assert "holds several splits: found test, train, validation; name one" in said


def test_folders_that_datasets_saved_know_their_splits(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(3000)]})
    datasets.DatasetDict({"train": rows, "validation": rows.select(range(5, 9))}).save_to_disk(
        tmp_path / "set", num_shards={"train": 3, "validation": 1}
    )
    assert read_rows(tmp_path / "set")["text"][:] == rows["text"][:]
    assert read_rows(tmp_path / "set", split="dev")["text"][:] == rows["text"][5:9]
    assert "several splits: found train, validation" in mistake(lambda: read_texts(tmp_path / "set"))
    assert len(read_texts(tmp_path / "set" / "validation")) == 4
    shards, count = open_shards(tmp_path / "set", "train")
    assert (len(shards), count) == (3, None)
    write(tmp_path / "set" / "dataset_dict.json", "{}")
    assert "is not one that datasets wrote" in mistake(lambda: rows_of(tmp_path / "set"))


@pytest.mark.parametrize("name", ["dev", "val", "Validation", "valid "])
def test_a_split_called_validation_has_many_names(tmp_path: Path, name: str) -> None:
    lines = [f"{name}\t{i}\ta\tb" for i in (1, 2)] + ["train\t3\tc\td"]
    path = write(tmp_path / "f.tsv", "split\tscore\tsentence1\tsentence2\n" + "\n".join(lines))
    for split in ("dev", "validation"):
        assert read_sts(path, split)[0].gold.tolist() == [1, 2]
        assert len(read_rows(path, split=split)) == 2


# --- any bytes -----------------------------------------------------------------------------------

READERS: tuple[Callable[[Path], object], ...] = (
    read_rows,
    lambda path: list(open_stream(path).one_pass(np.random.default_rng(0))),
    lambda path: read_sts(path, None),
    lambda path: look_over(path, None, with_schema=True),
    read_texts,
    read_retrieval,
)
ENDINGS = (*EXTENSIONS, ".jsonl.gz", ".csv.zst", ".tsv.gz")

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [
        "text",
        "Text",
        "title",
        "_id",
        "sentence1",
        "sentence2",
        "score",
        "anchor",
        "positive",
        "split",
        "",
        "é",
    ]
) | st.text(max_size=5)
TABLES = st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=5)


def as_json(rows: Rows) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_array(rows: Rows) -> bytes:
    return json.dumps(rows, ensure_ascii=False).encode("utf-8", "surrogatepass")


def as_sheet(rows: Rows) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=";" if len(rows) % 2 else ",")
    writer.writerows([*map(list, rows[:1]), *(map(str, row.values()) for row in rows)])
    return out.getvalue().encode("utf-8", "surrogatepass")


def as_table(rows: Rows) -> bytes:
    out = io.BytesIO()
    with contextlib.suppress(pa.ArrowException, OverflowError, ValueError, TypeError):
        table = pa.Table.from_pylist(rows)
        if len(rows) % 2:
            pq.write_table(table, out)
        else:
            with pa.ipc.new_stream(out, table.schema) as stream:
                stream.write_table(table)
    return out.getvalue()


NEARLY = st.builds(
    lambda write, rows: write(rows), st.sampled_from([as_json, as_array, as_sheet, as_table]), TABLES
)
CUT = st.builds(lambda content, end: content[: -end or None], NEARLY, st.integers(0, 40))


@pytest.mark.parametrize("reader", range(len(READERS)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | NEARLY | CUT, ending=st.sampled_from(ENDINGS), packed=st.booleans())
@example(content=b'{"text": ' + b"[" * 100_000, ending=".json", packed=False)
@example(content=b'{"text": "a", "n": 1' + b"0" * 400 + b"}", ending=".jsonl", packed=False)
@example(content=b'{"text": "a", "n": ' + b"1" * 5000 + b"}", ending=".jsonl", packed=True)
@example(content=b"text," + b"x" * 300_000 + b"\na,b", ending=".csv", packed=False)
def test_any_bytes_are_read_or_refused_in_one_line(
    tmp_path: Path, reader: int, content: bytes, ending: str, packed: bool
) -> None:
    path = write(tmp_path / f"f{ending}", gzip.compress(content) if packed else content)
    try:
        READERS[reader](path)
    except UserError as error:
        assert "\n" not in str(error)
