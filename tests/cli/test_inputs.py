"""Kinds of input by commands: what a file may be, and what is seen of it; docs/inputs.md says the same.

Every command reads its input before it loads a model, so that loading one is the sign that it was read.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from matryoshka2d.data import open_mixture, read_mixture
from matryoshka2d.data.rows import note_once
from matryoshka2d.evaluation import read_retrieval, read_sts
from matryoshka2d.inference.encoding import read_texts

Rows = list[dict[str, Any]]

TEXTS: Rows = [{"text": text, "id": f"{i}"} for i, text in enumerate(["A cat, “mat”.", "a\u2028b", "Où? 😀"])]
PAIRS: Rows = [
    {"sentence1": row["text"], "sentence2": f"{row['text']}!", "score": f"{i / 2}"}
    for i, row in enumerate(TEXTS)
]
CORPUS: Rows = [{"_id": row["id"], "title": "On", "text": row["text"]} for row in TEXTS]


# --- how rows become a file ---------------------------------------------------------------------------------

Writer = Callable[[Path, Rows], Path]


def jsonl(rows: Rows, *, ascii: bool = False) -> str:
    return "".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows)


def separated(rows: Rows, sign: str = ",", end: str = "\n") -> str:
    out = io.StringIO(newline="")
    style = {} if sign != "\t" else {"quoting": csv.QUOTE_NONE, "quotechar": None}
    writer = csv.DictWriter(out, list(rows[0]), delimiter=sign, lineterminator=end, **style)  # type: ignore[arg-type]
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def plain(name: str, content: Callable[[Rows], str | bytes]) -> Writer:
    def write(folder: Path, rows: Rows) -> Path:
        found = content(rows)
        # A corpus of BEIR has a name of its own.
        path = folder / f"{_stem(rows)}{name}"
        path.write_bytes(found.encode() if isinstance(found, str) else found)
        return path

    return write


def _stem(rows: Rows) -> str:
    return "corpus" if "_id" in rows[0] or "_ID" in rows[0] else "rows"


def zstd(text: str) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(text.encode())
    return out.getvalue().to_pybytes()


def parquet(path: Path, rows: Rows, **choices: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **choices)
    return path


def parquet_bytes(rows: Rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def arrow(rows: Rows) -> bytes:
    table, out = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def folder_of(write: Callable[[Path, Rows], None]) -> Writer:
    def written(folder: Path, rows: Rows) -> Path:
        path = folder / _stem(rows)
        path.mkdir()
        write(path, rows)
        return path

    return written


def shards_with_what_archives_leave(path: Path, rows: Rows) -> None:
    for i, row in enumerate(rows):
        (path / f"part-{i}.jsonl").write_text(jsonl([row]))
        (path / f"._part-{i}.jsonl").write_bytes(b"\0\5\x16\7 Mac OS X")
    for name in (".DS_Store", "Thumbs.db", "README.md"):
        (path / name).write_bytes(b"\0\0\0\1Bud1")


def saved(path: Path, rows: Rows) -> None:
    datasets.Dataset.from_list(rows).save_to_disk(path)


def saved_split(path: Path, rows: Rows) -> None:
    splits = ("train", "test") if "score" in rows[0] else ("train",)
    datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split in splits}).save_to_disk(path)


def upper(rows: Rows) -> Rows:
    return [{name.upper(): value for name, value in row.items()} for row in rows]


def changed(rows: Rows, text: str | None) -> Rows:
    """Return the rows, the second with another text."""
    name = next(name for name in ("text", "sentence1") if name in rows[0])
    return [row | {name: text} if i == 1 else row for i, row in enumerate(rows)]


def nothing(path: Path, rows: Rows) -> None:
    (path / "README.md").write_text("no rows")


READ = {
    "JSONL": plain(".jsonl", jsonl),
    "JSONL, escaped": plain(".ndjson", lambda rows: jsonl(rows, ascii=True)),
    "JSON array": plain(".json", lambda rows: json.dumps(rows, indent=1)),
    "CSV": plain(".csv", separated),
    "CSV with semicolons": plain(".csv", lambda rows: separated(rows, ";")),
    "TSV": plain(".tsv", lambda rows: separated(rows, "\t")),
    "Parquet": plain(".parquet", parquet_bytes),
    "Arrow": plain(".arrow", arrow),
    "gzip": plain(".csv.gz", lambda rows: gzip.compress(separated(rows).encode())),
    "zstd": plain(".jsonl.zst", lambda rows: zstd(jsonl(rows))),
    "gzip without its ending": plain(".jsonl", lambda rows: gzip.compress(jsonl(rows).encode())),
    "byte order mark": plain(".csv", lambda rows: separated(rows).encode("utf-8-sig")),
    "UTF-16 with its mark": plain(".tsv", lambda rows: separated(rows, "\t").encode("utf-16")),
    "line ends of Windows": plain(".csv", lambda rows: separated(rows, end="\r\n")),
    "line ends of old Macs": plain(".tsv", lambda rows: separated(rows, "\t", end="\r")),
    "no last line end": plain(".jsonl", lambda rows: jsonl(rows).rstrip("\n")),
    "blank lines": plain(".jsonl", lambda rows: "\n \n" + jsonl(rows).replace("\n", "\n\n")),
    "columns in capitals": plain(".csv", lambda rows: separated(upper(rows))),
    "columns without a name": plain(
        ".csv", lambda rows: separated([{"": i, **row} for i, row in enumerate(rows)])
    ),
    "folder of shards": folder_of(shards_with_what_archives_leave),
    "folder that datasets saved": folder_of(saved),
    "folder of splits that datasets saved": folder_of(saved_split),
}
"""What every command reads alike."""

LONG = "a cat " * 50_000
CHANGED: dict[str, tuple[Writer, str]] = {
    "a cell of 300 kB": (plain(".csv", lambda rows: separated(changed(rows, LONG))), "read"),
    "a NUL in a text": (plain(".jsonl", lambda rows: jsonl(changed(rows, "a\0b"))), "read"),
    "a text that is empty": (plain(".jsonl", lambda rows: jsonl(changed(rows, ""))), "noted"),
    "a text that is null": (plain(".parquet", lambda rows: parquet_bytes(changed(rows, None))), "noted"),
}

REFUSED: dict[str, tuple[Writer, str]] = {
    "half a surrogate pair": (
        plain(".jsonl", lambda rows: jsonl(changed(rows, "a \ud83d"), ascii=True)),
        "line 2: half a surrogate pair",
    ),
    "bytes that are not UTF-8": (
        plain(".csv", lambda rows: separated(rows).encode().replace("ù".encode(), b"\xf9")),
        "line 4: byte 0xf9 is not UTF-8",
    ),
    "UTF-16 without its mark": (
        plain(".csv", lambda rows: separated(rows).encode("utf-16-le")),
        "is not text",
    ),
    "gzip that is cut off": (
        plain(".jsonl.gz", lambda rows: gzip.compress(jsonl(rows).encode())[:-9]),
        "not a whole gzip file",
    ),
    "zstd that is cut off": (
        plain(".jsonl.zst", lambda rows: zstd(jsonl(rows))[:-5]),
        "not a whole zstd file",
    ),
    "no gzip, but called so": (plain(".csv.gz", separated), "not a whole gzip file"),
    "another compression": (
        plain(".csv.bz2", lambda rows: bz2.compress(separated(rows).encode())),
        "kind of file",
    ),
    "a zip archive": (plain(".csv", lambda _: b"PK\3\4..."), "is a zip archive"),
    "an unknown ending": (plain(".docx", jsonl), "unknown kind of file"),
    "an empty file": (plain(".csv", lambda _: ""), "is empty"),
    "a header alone": (plain(".tsv", lambda rows: "\t".join(rows[0]) + "\n"), "has no rows"),
    "a row with too many cells": (
        plain(".csv", lambda rows: separated(rows) + "a,b,c,d\n"),
        "4 columns, expected",
    ),
    "a column twice": (
        plain(".csv", lambda rows: separated(rows).replace("\n", ",x,x\n", 1)),
        "a column twice",
    ),
    "a quote that never ends": (plain(".csv", lambda rows: separated(rows) + '"a,b'), "broken CSV"),
    "JSON that is broken": (plain(".jsonl", lambda rows: jsonl(rows) + '{"text": \n'), "line 4: not JSON"),
    "JSON that is no object": (plain(".jsonl", lambda rows: jsonl(rows) + "7\n"), "line 4: a JSON number"),
    "a text that is a number": (plain(".jsonl", lambda rows: jsonl(changed(rows, 5))), "line 2"),  # type: ignore[arg-type]
    "Parquet that is broken": (
        plain(".parquet", lambda rows: parquet_bytes(rows)[:-20]),
        "not a readable Parquet",
    ),
    "Parquet that is another file": (plain(".parquet", jsonl), "not a readable Parquet file"),
    "a folder without data": (folder_of(nothing), "holds no data"),
    "a file that is not there": (lambda folder, rows: folder / f"{_stem(rows)}.jsonl", "no file"),
}


# --- the commands -------------------------------------------------------------------------------------------


def beir(path: Path) -> Path:
    """Return the folder of a corpus, with queries and judgments beside it."""
    (path.parent / "queries.jsonl").write_text('{"_id": "q", "text": "a cat"}\n')
    (path.parent / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\n")
    return path.parent


COMMANDS: dict[str, tuple[Rows, str]] = {
    "train": (PAIRS, "train --model MODEL --data INPUT --output out"),
    "train --streaming": (PAIRS, "train --model MODEL --data INPUT --output out --streaming --max-steps 1"),
    "fit": (TEXTS, "fit --model MODEL --data INPUT --output out"),
    "distill": (TEXTS, "distill --model MODEL --data INPUT --output out --steps 1"),
    "rotate": (TEXTS, "rotate --model MODEL --data INPUT --output out"),
    "evaluate --sts": (PAIRS, "evaluate MODEL --sts INPUT"),
    "evaluate --retrieval": (CORPUS, "evaluate MODEL --retrieval INPUT"),
    "encode": (CORPUS, "encode MODEL INPUT out.npy"),
    "plan --texts": (TEXTS, "plan MODEL --texts INPUT --min-quality 90%"),
    "benchmark --texts": (TEXTS, "benchmark MODEL --texts INPUT"),
}


class ModelLoaded(BaseException):
    """The input was read: a model is next."""


@pytest.fixture
def seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], model: str
) -> Iterator[Callable[[str, Writer], tuple[str, str]]]:
    """Return what a command does with an input: its outcome, and what it says on stderr."""
    from matryoshka2d.cli import main

    def load(*arguments: object, **options: object) -> None:
        raise ModelLoaded

    monkeypatch.setattr("matryoshka2d.encoder.elastic.ElasticEncoder.__init__", load)
    monkeypatch.setattr("matryoshka2d.encoder.saved_model._read", load)
    monkeypatch.chdir(tmp_path)

    def call(command: str, write: Writer) -> tuple[str, str]:
        rows, line = COMMANDS[command]
        folder = tmp_path / "input"
        folder.mkdir()
        path = write(folder, rows)
        if command == "evaluate --retrieval":
            path = beir(path)
        words = [{"MODEL": model, "INPUT": str(path)}.get(word, word) for word in line.split()]
        monkeypatch.setattr("sys.argv", ["matryoshka2d", *words])
        note_once.cache_clear()
        capfd.readouterr()
        try:
            main()
        except ModelLoaded:
            said = capfd.readouterr().err
            return ("noted" if "note: " in said else "read"), said
        except SystemExit as error:
            out, said = capfd.readouterr()
            assert error.code == 2, said
            assert said.startswith("error: "), said
            assert len(said.splitlines()) == 1, said
            assert not out
            return "refused", said
        raise AssertionError("neither read nor refused")

    yield call
    assert {path.name for path in tmp_path.iterdir()} <= {"input"}, "something was written"


def expected(command: str, kind: str) -> str:
    """Return what a command does with a kind of input that is not read alike by all."""
    outcome = CHANGED[kind][1]
    if command == "evaluate --sts" and outcome == "noted":
        return "refused"  # A pair that is left out would change the score.
    # A document without a text is a document: evaluate embeds it, as encode does. A stream is read later.
    return "read" if command in ("evaluate --retrieval", "train --streaming") else outcome


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_every_form(
    seen: Callable[..., tuple[str, str]], command: str, kind: str
) -> None:
    if command == "evaluate --sts" and kind == "folder of shards":
        pytest.skip("each file of a folder is a set of its own")
    outcome, said = seen(command, READ[kind])
    # encode says that it puts the titles of a corpus before its texts.
    titled = "TITLE" if kind == "columns in capitals" else "title"
    if command == "encode":
        assert said.count("note: ") == said.count(f"'{titled}' is put before") == 1, said
    else:
        assert outcome == "read", said


@pytest.mark.parametrize("kind", CHANGED)
@pytest.mark.parametrize("command", COMMANDS)
def test_texts_of_any_kind(seen: Callable[..., tuple[str, str]], command: str, kind: str) -> None:
    outcome, said = seen(command, CHANGED[kind][0])
    if command == "encode":
        assert ("1 of 3 texts are empty, first" in said) == (CHANGED[kind][1] == "noted"), said
    else:
        assert outcome == expected(command, kind), said


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_in_one_line_what_it_cannot_read(
    seen: Callable[..., tuple[str, str]], command: str, kind: str
) -> None:
    if command == "train --streaming" and kind == "a text that is a number":
        pytest.skip("a stream is read later")
    write, part = REFUSED[kind]
    outcome, said = seen(command, write)
    assert outcome == "refused"
    if command == "evaluate --retrieval" and kind in _ABSENT:
        part = "corpus.jsonl does not exist"
    if command == "evaluate --sts" and kind == "a folder without data":
        part = "no STS file in"
    assert part in said, said
    assert "rows" in said or "corpus" in said, said


# Of a BEIR folder, a file of an unknown kind is none.
_ABSENT = ("another compression", "an unknown ending", "a file that is not there")


# --- the same rows ------------------------------------------------------------------------------------------


def of_mixture(path: Path) -> Rows:
    (rows,) = read_mixture([path]).datasets.values()
    return [row | {"score": str(row["score"])} for row in rows]


def of_stream(path: Path) -> Rows:
    import numpy as np

    (stream,) = open_mixture([path]).datasets.values()
    return sorted(stream.one_pass(np.random.default_rng(0)), key=lambda row: row["score"])


@pytest.mark.parametrize("kind", READ)
def test_the_rows_are_the_same_whatever_the_form(tmp_path: Path, kind: str) -> None:
    pairs = READ[kind](tmp_path, PAIRS)
    assert of_mixture(pairs) == PAIRS
    assert of_stream(pairs) == [row | {"score": float(row["score"])} for row in PAIRS]
    if kind != "folder of shards":
        (sts,) = read_sts(pairs)
        assert list(sts.sentence1) == [row["sentence1"] for row in PAIRS]
        assert list(sts.sentence2) == [row["sentence2"] for row in PAIRS]
        assert sts.gold.tolist() == [0, 0.5, 1]
    (tmp_path / "beir").mkdir()
    corpus = READ[kind](tmp_path / "beir", CORPUS)
    titled = [f"On {row['text']}" for row in CORPUS]
    assert list(read_retrieval(beir(corpus)).corpus.values()) == titled
    assert read_texts(corpus) == titled
    (rows,) = read_mixture([corpus]).datasets.values()
    assert rows["text"][:] == titled
