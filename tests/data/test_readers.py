from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from matryoshka2d.data.readers import read_rows
from matryoshka2d.data.rows import is_hub_name
from matryoshka2d.data.streams import open_stream
from matryoshka2d.errors import UserError

PAIRS = [{"anchor": "A dog runs.", "positive": "A dog is running."}, {"anchor": "Où?", "positive": "“Là” 😀"}]

# Any text that is not blank: no control characters (a tab or a line feed would end a cell of a .tsv).
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(
    lambda text: text.strip()
)
CSV_TEXT = TEXT | st.builds(lambda a, b: f"{a}\n{b},\"'\r\n{a}", TEXT, TEXT)


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_tsv(rows: list[dict[str, Any]]) -> bytes:
    lines = [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)]
    return "".join("\t".join(map(str, line)) + "\n" for line in lines).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.jsonl": as_jsonl,
    "rows.ndjson": as_jsonl,
    "rows.json": as_jsonl,
    "rows.csv": as_csv,
    "rows.tsv": as_tsv,
    "rows.parquet": as_parquet,
    "ROWS.JSONL": as_jsonl,
    "rows.v2.csv.gz": lambda rows: gzip.compress(as_csv(rows), mtime=0),
    "rows.jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows), mtime=0),
    "rows.tsv.gz": lambda rows: gzip.compress(as_tsv(rows), mtime=0),
}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_is_read(tmp_path: Path, name: str) -> None:
    rows = read_rows(write(tmp_path / name, WRITERS[name](PAIRS)))
    assert rows.to_list() == PAIRS
    assert rows.column_names == ["anchor", "positive"]


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read_back(tmp_path: Path, name: str, data: st.DataObject) -> None:
    text = CSV_TEXT if "csv" in name else TEXT
    row = st.fixed_dictionaries({"anchor": text, "positive": text, "negative": text, "group": text})
    rows = data.draw(st.lists(row, min_size=1, max_size=5))
    read = read_rows(write(tmp_path / name, WRITERS[name](rows))).to_list()
    numbers = {group: number for number, group in enumerate(dict.fromkeys(row["group"] for row in rows))}
    assert read == [row | {"group": numbers[row["group"]]} for row in rows]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_plain_text_is_read_back(tmp_path: Path, texts: list[str]) -> None:
    path = write(tmp_path / "lines.txt", "\n\n".join(texts))
    assert read_rows(path)["text"][:] == texts


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=5))
@pytest.mark.parametrize("name", ["s.jsonl", "s.csv", "s.tsv", "s.parquet"])
def test_scores_within_0_and_1_are_read_back(tmp_path: Path, name: str, scores: list[float]) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "score": score} for score in scores]
    path = write(tmp_path / name, WRITERS[f"row{name}"](rows))
    assert read_rows(path)["score"][:] == scores


def test_columns_are_renamed_put_in_order_and_others_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "url,answer,group_id,question\nu,me,7,who?\nv,you,,who now?\n")
    rows = read_rows(path)
    assert rows.column_names == ["anchor", "positive", "group"]
    assert rows.to_list() == [
        {"anchor": "who?", "positive": "me", "group": 0},
        {"anchor": "who now?", "positive": "you", "group": -1},
    ]


def test_named_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "q,p,score\na,b,9\n")
    assert read_rows(path, {"anchor": "q", "positive": "p"}).to_list() == [{"anchor": "a", "positive": "b"}]


def test_a_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = write(tmp_path / "f.tsv", 'text1\ttext2\r\n"Then he left.\the said "hi"\r\n')
    assert read_rows(path)[0] == {"anchor": '"Then he left.', "positive": 'he said "hi"'}


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    assert len(read_rows(write(tmp_path / "f.csv", "\ufeffanchor,positive\na,b\n"))) == 1


def test_the_limit_keeps_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "f.txt", "a\nb\nc\n")
    assert read_rows(path, limit=2)["text"][:] == ["a", "b"]
    assert len(read_rows(path, limit=9)) == 3


def test_groups_of_any_kind_become_numbers(tmp_path: Path) -> None:
    groups = [3, "3", None, " ", "x", 3]
    lines = [{"anchor": "a", "positive": "b", "group": group} for group in groups]
    path = write(tmp_path / "f.jsonl", as_jsonl([*lines, {"anchor": "a", "positive": "b"}]))
    assert read_rows(path)["group"][:] == [0, 0, -1, -1, 1, 0, -1]


# Scores


def scored(path: Path, scores: list[Any]) -> Path:
    return write(path, as_jsonl([{"sentence1": "a", "sentence2": "b", "score": score} for score in scores]))


def test_scores_of_sts_are_divided_by_five_whatever_the_limit(tmp_path: Path) -> None:
    path = scored(tmp_path / "f.jsonl", [0.5, 2, 5])
    assert read_rows(path)["score"][:] == [0.1, 0.4, 1.0]
    limited = read_rows(path, limit=1)
    assert limited["score"][:] == [0.1]
    assert limited.info.description == f"{path}: 1 scored pairs; scores divided by 5"


def test_a_score_range_is_mapped_to_0_and_1(tmp_path: Path) -> None:
    path = scored(tmp_path / "f.jsonl", [1, 3, 5])
    rows = read_rows(path, score_range=(1, 5))
    assert rows["score"][:] == [0, 0.5, 1]
    assert "mapped from 1–5 to 0–1" in rows.info.description
    assert read_rows(scored(path, [0, 1, 2]), score_range=(0, 2))["score"][:] == [0, 0.5, 1]
    assert read_rows(scored(path, [0.5, 1]), score_range=(0, 1))["score"][:] == [0.5, 1]


# Splits


STS = (
    "subset\tsplit\tscore\tsentence1\tsentence2\n"
    "x\ttrain\t5.0\ta\tb\nx\ttest\t3.0\tc\td\nx\ttrain\t1.0\te\tf\n"
)


def test_a_column_named_split_chooses_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "sts.tsv", STS)
    assert read_rows(path)["sentence1"][:] == ["a", "e"]
    assert read_rows(path, split="test")["score"][:] == [0.6]
    assert len(read_rows(path, split=None)) == len(read_rows(path, split="all")) == 3


def test_an_absent_split_is_named(tmp_path: Path) -> None:
    message = mistake(write(tmp_path / "sts.tsv", STS), split="dev")
    assert "'dev'" in message
    assert "'train', 'test'" in message


# The hub


def test_a_hub_data_set_is_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    hub = datasets.Dataset.from_dict({"query": ["a", "b"], "answer": ["c", "d"], "picture": [b"", b""]})

    def load_dataset(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        calls.append((name, config, split))
        return hub

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_rows("owner/name:pair", limit=1, split="dev").to_list() == [{"anchor": "a", "positive": "c"}]
    assert len(read_rows("owner/name", split=None)) == 2
    assert calls == [("owner/name", "pair", "dev"), ("owner/name", None, "all")]


def test_wrong_rows_of_a_hub_data_set_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = datasets.Dataset.from_dict({"sentence1": ["a"] * 2, "sentence2": ["b"] * 2, "score": [1, None]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub)
    assert mistake("owner/name").startswith("owner/name, row 2:")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub.select([]))
    assert "has no rows" in mistake("owner/name")


def test_what_the_hub_says_becomes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise RuntimeError("Config name is missing.\nPlease pick one")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = mistake("owner/name")
    assert "'owner/name'" in message
    assert "Config name is missing;" in message


def test_a_file_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert is_hub_name("owner/name")
    assert is_hub_name("owner/name-v1.5:en-de")
    assert not is_hub_name("data/pairs")
    assert not is_hub_name("owner/pairs.jsonl")
    assert not is_hub_name("pairs")
    assert not is_hub_name(Path("owner/name"))


# Mistakes


def mistake(source: str | Path, **options: Any) -> str:
    """Return the message of the mistake, which is one line that names the source."""
    with pytest.raises(UserError) as caught:
        read_rows(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


HEADER = "sentence1,sentence2,score\n"


@pytest.mark.parametrize(
    ("name", "content", "line", "part"),
    [
        ("f.jsonl", '{"text": "a"}\n\n{"text": "b"\n', 3, "not JSON"),
        ("f.jsonl", '{"text": "a"}\n["b"]\n', 2, "a JSON list"),
        ("f.jsonl", '"a"\n', 1, "a JSON text"),
        ("f.jsonl", "7\n", 1, "a JSON number"),
        ("f.json", "[\n", 1, "one object a line"),
        ("f.jsonl", "[" * 100_000, 1, "not JSON"),
        ("f.jsonl", '{"text": "a"}\n{"text": 5}\n', 2, "the int 5"),
        ("f.jsonl", '{"text": "a"}\n{"text": ["' + "b" * 200 + '"]}\n', 2, "the list"),
        ("f.jsonl", '{"text": "a"}\n{"txt": "b"}\n', 2, "no 'text'"),
        ("f.jsonl", '{"text": "a"}\n{"text": "\\ud83d"}\n', 2, "surrogate"),
        (
            "f.jsonl",
            '{"anchor": "a", "positive": "b"}\n{"anchor": "a", "positive": "b", "negative": "c"}',
            1,
            "no 'n",
        ),
        ("f.jsonl", '{"anchor": "a", "positive": "b", "group": [1]}\n', 1, "'group'"),
        ("f.csv", "anchor,positive\na,b\na,b,c\n", 3, "3 columns, expected the 2"),
        ("f.csv", 'anchor,positive\na,"b\n', 2, "broken CSV"),
        ("f.csv", "text,text\na,b\n", 1, "twice"),
        ("f.tsv", "anchor\tpositive\na\tb\na b\n", 3, "1 columns, expected the 2"),
        ("f.csv", HEADER + "a,b,1\na,b,high\n", 3, "'high': expected a number"),
        ("f.csv", HEADER + "a,b,1\na,b,\n", 3, "expected a number"),
        ("f.csv", HEADER + "a,b,1\na,b,nan\n", 3, "'nan': expected a number"),
        ("f.csv", HEADER + "a,b,inf\n", 2, "expected a number"),
        ("f.csv", HEADER + "a,b,1_0\n", 2, "expected a number"),
        ("f.csv", HEADER + "a,b,0\na,b,-0.5\n", 3, "is -0.5, expected 0 to 1"),
        ("f.csv", HEADER + "a,b,3\na,b,7\n", 3, "is 7, expected 0 to 5"),
        ("f.csv", HEADER + "a,b,0\na,b,1\na,b,2\n", 4, "classes"),
        ("f.jsonl", '{"sentence1": "a", "sentence2": "b", "score": NaN}\n', 1, "expected a number"),
        ("f.jsonl", '{"sentence1": "a", "sentence2": "b", "score": true}\n', 1, "True: expected a number"),
        ("f.jsonl", '{"sentence1": "a", "sentence2": "b", "score": null}\n', 1, "None: expected a number"),
        ("f.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 1' + "0" * 400 + "}\n", 1, "a number"),
        ("f.txt", "a\nb\nc\xe9\n".encode("latin-1"), 3, "byte 0xe9 is not UTF-8"),
        ("f.csv", codecs.BOM_UTF16_LE + b"a\0\n\0\x00\xd8", 1, "not UTF-16"),
        ("f.jsonl.gz", gzip.compress(b'{"text": "a"}\n{"text": 5}\n', mtime=0), 2, "the int 5"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, line: int, part: str
) -> None:
    path = write(tmp_path / name, content)
    message = mistake(path)
    assert message.startswith(f"{path}, line {line}: ")
    assert part in message, message
    assert len(message) < len(str(path)) + 250
    with pytest.raises(UserError) as caught:
        list(open_stream(path).one_pass(np.random.default_rng(0)))
    assert str(caught.value) == message, "streamed, it is named in the same words"


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("f.csv", "", "is empty"),
        ("f.jsonl", "\n \n", "is empty"),
        ("f.txt", "\n", "is empty"),
        ("f.csv", "anchor,positive\n", "no rows"),
        ("f.tsv", "anchor\tpositive\n\n", "no rows"),
        ("f.csv", "a;b\nc;d\n", "found 'a', 'b'"),
        ("f.jsonl", "{}\n", "found none"),
        ("f.docx", "a", "unknown kind of file '.docx'"),
        ("f.jsnl", "a", "Did you mean '.jsonl'?"),
        ("f", "a", "unknown kind of file"),
        ("f.gz", "a", "unknown kind of file"),
        ("f.parquet.gz", "a", "unknown kind of file"),
        ("f.parquet", "not parquet", "not a readable Parquet file"),
        ("f.parquet", b"", "not a readable Parquet file"),
        ("f.csv.gz", "not gzip", "not a whole gzip file"),
        ("f.csv.gz", gzip.compress(b"anchor,positive\na,b\n", mtime=0)[:-6], "not a whole gzip file"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: str | bytes, part: str) -> None:
    message = mistake(write(tmp_path / name, content))
    assert part in message, message


def test_a_wrong_row_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    row = {"sentence1": "a", "sentence2": "b", "score": 1.0}
    path = write(tmp_path / "f.parquet", as_parquet([row, row | {"score": None}]))
    assert mistake(path).startswith(f"{path}, row 2: column 'score' is None: expected a number")


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("f.jsonl", b'{"text": "a"}\n{"text": null}\n{"text": "b"}\n{"text": " \\t"}\n', "line 2"),
        ("f.csv", b'text\na\n"b"\n""\n" "\n', "line 4"),
        ("f.parquet", as_parquet([{"text": text} for text in ("a", None, "b", " ")]), "row 2"),
    ],
)
def test_rows_without_a_text_are_left_out_with_a_note(
    tmp_path: Path, name: str, content: bytes, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / name, content)
    assert read_rows(path)["text"][:] == ["a", "b"]
    assert [row["text"] for row in open_stream(path).one_pass(np.random.default_rng(0))] == ["a", "b"]
    note = f"note: {path}: rows without a text are left out: 2, first {first}"
    assert [record.getMessage() for record in caplog.records] == [note], "once, however often it is read"


def test_a_row_with_half_a_pair_of_texts_is_left_out_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "f.tsv", "anchor\tpositive\tgroup\na\tb\tx\nc\t \ty\nd\te\tz\n")
    assert read_rows(path).to_dict() == {"anchor": ["a", "d"], "positive": ["b", "e"], "group": [0, 1]}
    assert "has no rows whose texts are all there" in mistake(write(tmp_path / "g.jsonl", '{"text": ""}'))


def test_a_title_is_put_before_the_text_unless_the_text_is_named(tmp_path: Path) -> None:
    rows = [
        {"_id": "1", "title": "Cats", "text": "They sleep."},
        {"_id": "2", "title": "", "text": "Alone."},
        {"_id": "3", "title": "Only", "text": ""},
        {"_id": "4", "title": None, "text": "None."},
    ]
    path = write(tmp_path / "corpus.jsonl", as_jsonl(rows))
    assert read_rows(path)["text"][:] == ["Cats They sleep.", "Alone.", "Only", "None."]
    assert read_rows(path, {"text": "text"})["text"][:] == ["They sleep.", "Alone.", "None."]


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    whole = as_parquet([{"text": "a" * 1000}] * 100)
    assert "Parquet" in mistake(write(tmp_path / "f.parquet", whole[: len(whole) // 2]))


def test_a_missing_file_names_its_neighbor(tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl", "")
    assert "Did you mean 'pairs.jsonl'?" in mistake(tmp_path / "pair.jsonl")
    assert "does not exist" in mistake(tmp_path / "no" / "pairs.jsonl")
    assert "is empty" in mistake(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    assert "holds no data" in mistake(tmp_path / "folder.csv")


def test_a_score_outside_of_the_given_range_is_named(tmp_path: Path) -> None:
    path = scored(tmp_path / "f.jsonl", [1, 6])
    assert mistake(path, score_range=(1, 5)).startswith(
        f"{path}, line 2: column 'score' is 6, expected 1 to 5"
    )


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"limit": -3}, {"score_range": (5, 0)}, {"score_range": (0, float("inf"))}],
)
def test_wrong_options_are_one_line(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(tmp_path / "f.csv", **options)
    assert "\n" not in str(caught.value)
