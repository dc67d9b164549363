"""A file of texts becomes a file of vectors: every form, every row, and nothing else is touched."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.inference import Engine, encoding, open_engine
from matryoshka2d.inference.encoding import VECTOR_COLUMN, check_files, encode, encode_file
from matryoshka2d.inference.request_batching import BatchingEngine
from tests import tiny

INPUTS = (".txt", ".jsonl", ".parquet")
OUTPUTS = (".npy", ".jsonl", ".parquet")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ElasticEncoder:
    folder = tiny.sentence_model(tmp_path_factory.mktemp("model"), prompts={"query": "query : "})
    return ElasticEncoder(folder, size="3x16", device="cpu")


_ENGINES: dict[int, Engine] = {}


def engine(encoder: ElasticEncoder) -> Engine:
    """Return the encoder's engine in fp32, opened once."""
    return _ENGINES.setdefault(id(encoder), open_engine(encoder, "torch", "fp32"))


def write_texts(path: Path, texts: Sequence[str], **columns: Sequence[Any]) -> Path:
    rows = [
        dict(zip(["text", *columns], row, strict=True)) for row in zip(texts, *columns.values(), strict=True)
    ]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        path.write_text("".join(text + "\n" for text in texts), encoding="utf-8", newline="")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_vectors(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    return np.array([row[VECTOR_COLUMN] for row in read_rows(path)], dtype=np.float32)


def lines_of_text() -> st.SearchStrategy[list[str]]:
    """Texts of any characters that a line may hold, some of them long, some of known words."""
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\n")
    known = st.lists(st.sampled_from(tiny.WORDS.split()), min_size=1, max_size=200).map(" ".join)
    any_text = st.text(characters, min_size=1, max_size=60).filter(str.strip)
    return st.lists(known | any_text, min_size=1, max_size=8)


@pytest.mark.parametrize("target", OUTPUTS)
@pytest.mark.parametrize("source", INPUTS)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=lines_of_text(), chunk=st.integers(1, 9))
def test_every_form_gives_the_vectors_of_encode(
    encoder: ElasticEncoder,
    tmp_path_factory: pytest.TempPathFactory,
    source: str,
    target: str,
    texts: list[str],
    chunk: int,
) -> None:
    folder = tmp_path_factory.mktemp("forms")
    path = write_texts(folder / f"in{source}", texts)
    before = path.read_bytes()
    output = folder / f"out{target}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "_CHUNK", chunk)
        assert encode_file(engine(encoder), path, output) == len(texts)
    vectors = read_vectors(output)
    assert (vectors.dtype, vectors.shape) == (np.float32, (len(texts), 16))
    np.testing.assert_allclose(vectors, encoder.encode(texts, size="3x16"), atol=1e-5)
    if target != ".npy":
        # A carriage return at the end of a line of a text file is part of the line's end.
        kept = [text.rstrip("\r") if source == ".txt" else text for text in texts]
        assert [row["text"] for row in read_rows(output)] == kept
    assert path.read_bytes() == before
    assert {entry.name for entry in folder.iterdir()} == {path.name, output.name}


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u00a0", "\u2003\u3000", "\x1c", "\u2028"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_are_no_texts(encoder: ElasticEncoder, tmp_path: Path, blank: str, end: str) -> None:
    (tmp_path / "in.txt").write_bytes(end.join([blank, "a cat", blank, blank, "a dog", blank]).encode())
    assert encode_file(engine(encoder), tmp_path / "in.txt", tmp_path / "out.npy") == 2
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), encoder.encode(["a cat", "a dog"], size="3x16"), atol=1e-5
    )


def test_the_mark_that_some_editors_put_first_is_no_text(encoder: ElasticEncoder, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a cat"}\n')
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbfa cat")
    for name in ("in.jsonl", "in.txt"):
        encode_file(engine(encoder), tmp_path / name, tmp_path / "out.jsonl", overwrite=True)
        assert read_rows(tmp_path / "out.jsonl")[0]["text"] == "a cat"


@pytest.mark.parametrize("target", [".jsonl", ".parquet"])
@pytest.mark.parametrize("source", [".jsonl", ".parquet"])
class TestOtherColumns:
    def test_they_are_kept_in_order(
        self, encoder: ElasticEncoder, tmp_path: Path, source: str, target: str
    ) -> None:
        columns = {"id": [1, 2, 3], "tags": [["x"], [], ["y", "z"]], "place": [{"page": i} for i in range(3)]}
        path = write_texts(tmp_path / f"in{source}", tiny.TEXTS[:3], **columns)
        encode_file(engine(encoder), path, tmp_path / f"out{target}")
        rows = read_rows(tmp_path / f"out{target}")
        assert list(rows[0]) == ["text", "id", "tags", "place", VECTOR_COLUMN]
        for name, values in columns.items():
            assert [row[name] for row in rows] == values

    def test_older_vectors_are_replaced(
        self, encoder: ElasticEncoder, tmp_path: Path, source: str, target: str
    ) -> None:
        path = write_texts(tmp_path / f"in{source}", ["a cat"], **{VECTOR_COLUMN: [[1.0, 2.0]]})
        encode_file(engine(encoder), path, tmp_path / f"out{target}")
        assert read_vectors(tmp_path / f"out{target}").shape == (1, 16)

    def test_values_that_are_missing_stay_missing(
        self,
        encoder: ElasticEncoder,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        source: str,
        target: str,
    ) -> None:
        # A column that is empty in the first chunk must not lose its values in the next.
        monkeypatch.setattr(encoding, "_CHUNK", 2)
        columns = {"note": [None, None, "late"], "score": [1, 2, 2.5]}
        path = write_texts(tmp_path / f"in{source}", tiny.TEXTS[:3], **columns)
        encode_file(engine(encoder), path, tmp_path / f"out{target}")
        rows = read_rows(tmp_path / f"out{target}")
        assert [row["note"] for row in rows] == [None, None, "late"]
        assert [row["score"] for row in rows] == [1, 2, 2.5]


def test_a_column_that_only_later_rows_have_is_kept(
    encoder: ElasticEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_CHUNK", 2)
    rows = [{"text": "a cat"}, {"text": "a dog", "new": 1}, {"id": "x", "text": "sun"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encode_file(engine(encoder), tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    encode_file(engine(encoder), tmp_path / "in.jsonl", tmp_path / "out.parquet")
    written = read_rows(tmp_path / "out.jsonl")
    assert [{k: v for k, v in row.items() if k != VECTOR_COLUMN} for row in written] == rows
    table = pq.read_table(tmp_path / "out.parquet").drop_columns([VECTOR_COLUMN])
    assert table.to_pydict() == {
        "text": ["a cat", "a dog", "sun"],
        "new": [None, 1, None],
        "id": [None, None, "x"],
    }


def test_parquet_keeps_the_types_of_parquet(encoder: ElasticEncoder, tmp_path: Path) -> None:
    table = pa.table(
        {
            "day": pa.array([datetime.date(2024, 1, 1), None]),
            "small": pa.array([1, 2], pa.int8()),
            "text": pa.array(["a cat", "a dog"], pa.large_string()),
            "raw": pa.array([b"\xff", b""]),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    encode_file(engine(encoder), tmp_path / "in.parquet", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.drop_columns([VECTOR_COLUMN]).equals(table)
    assert found.schema.field(VECTOR_COLUMN).type == pa.list_(pa.float32(), 16)
    # JSON has no dates: they are written as text.
    encode_file(engine(encoder), tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert [row["day"] for row in read_rows(tmp_path / "out.jsonl")] == ["2024-01-01", None]


@pytest.mark.parametrize("name", ["text", "sentence", "passage", "query"])
def test_usual_columns_are_found(encoder: ElasticEncoder, tmp_path: Path, name: str) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"title": "red", name: "a cat"}))
    assert check_files(tmp_path / "in.jsonl", tmp_path / "out.npy").column == name


def test_the_only_column_of_texts_is_found(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": 3, "headline": "a cat"}))
    assert check_files(tmp_path / "in.jsonl", tmp_path / "out.npy").column == "headline"


def test_a_named_column_wins_over_a_usual_one(encoder: ElasticEncoder, tmp_path: Path) -> None:
    path = write_texts(tmp_path / "in.jsonl", ["red house"], other=["a cat"])
    encode_file(engine(encoder), path, tmp_path / "out.npy", column="other")
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), encoder.encode(["a cat"], size="3x16"), atol=1e-5
    )


def test_a_prompt_is_put_before_every_text(encoder: ElasticEncoder, tmp_path: Path) -> None:
    path = write_texts(tmp_path / "in.txt", tiny.TEXTS)
    encode_file(engine(encoder), path, tmp_path / "out.npy", prompt_name="query")
    expected = encoder.encode(tiny.TEXTS, prompt_name="query")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


def test_an_encoder_of_every_size_gives_its_full_one(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path / "m", normalize=False), device="cpu")
    path = write_texts(tmp_path / "in.txt", tiny.TEXTS)
    encode_file(engine(encoder), path, tmp_path / "out.npy")
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), encoder.encode(tiny.TEXTS, size="4x32"), atol=1e-5
    )


@pytest.mark.parametrize("target", OUTPUTS)
@pytest.mark.parametrize("source", INPUTS)
def test_no_more_than_a_chunk_is_held_at_once(
    encoder: ElasticEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    monkeypatch.setattr(encoding, "_CHUNK", 3)
    asked: list[int] = []
    whole = BatchingEngine.embed

    def note(self: BatchingEngine, texts: list[str], *rest: Any, **options: Any) -> np.ndarray:
        asked.append(len(texts))
        return whole(self, texts, *rest, **options)

    monkeypatch.setattr(BatchingEngine, "embed", note)
    path = write_texts(tmp_path / f"in{source}", [f"cat {i}" for i in range(10)])
    encode_file(engine(encoder), path, tmp_path / f"out{target}")
    assert asked == [3, 3, 3, 1]


class TestOverwriting:
    def test_an_output_that_exists_is_kept(self, encoder: ElasticEncoder, tmp_path: Path) -> None:
        path = write_texts(tmp_path / "in.txt", ["a cat"])
        (tmp_path / "out.npy").write_text("precious")
        with pytest.raises(UserError, match=r"exists already.*--overwrite"):
            encode_file(engine(encoder), path, tmp_path / "out.npy")
        assert (tmp_path / "out.npy").read_text() == "precious"

    def test_it_is_replaced_when_asked_to(self, encoder: ElasticEncoder, tmp_path: Path) -> None:
        path = write_texts(tmp_path / "in.txt", ["a cat"])
        (tmp_path / "out.npy").write_text("old")
        encode_file(engine(encoder), path, tmp_path / "out.npy", overwrite=True)
        assert np.load(tmp_path / "out.npy").shape == (1, 16)

    @pytest.mark.parametrize("link", [False, True])
    def test_the_input_is_never_replaced(self, encoder: ElasticEncoder, tmp_path: Path, link: bool) -> None:
        path = write_texts(tmp_path / "in.jsonl", ["a cat"])
        before = path.read_bytes()
        target = path
        if link:
            target = tmp_path / "link.jsonl"
            target.symlink_to(path)
        with pytest.raises(UserError, match="is the input itself"):
            encode_file(engine(encoder), path, target, overwrite=True)
        assert path.read_bytes() == before

    def test_the_folder_of_the_output_is_made(self, encoder: ElasticEncoder, tmp_path: Path) -> None:
        path = write_texts(tmp_path / "in.txt", ["a cat"])
        encode_file(engine(encoder), path, tmp_path / "new" / "deep" / "out.npy")
        assert (tmp_path / "new" / "deep" / "out.npy").is_file()


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet", "in.csv"])
def test_an_empty_text_keeps_its_row_and_is_noted(
    encoder: ElasticEncoder, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "in.csv":
        (tmp_path / name).write_text('id,text\n1,a cat\n2,""\n3,a dog\n')
    elif name == "in.parquet":
        pq.write_table(pa.table({"text": ["a cat", None, "a dog"]}), tmp_path / name)
    else:
        write_texts(tmp_path / name, ["a cat", "", "a dog"])
    assert encode_file(engine(encoder), tmp_path / name, tmp_path / "out.npy") == 3
    expected = encoder.encode(["a cat", "", "a dog"], size="3x16")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)
    place = "row 2" if name == "in.parquet" else "line 3" if name == "in.csv" else "line 2"
    assert f"note: 1 of 3 texts are empty, first {tmp_path / name}, {place}" in caplog.text


def test_a_title_is_put_before_the_text_unless_the_column_is_named(
    encoder: ElasticEncoder, tmp_path: Path
) -> None:
    path = write_texts(tmp_path / "in.jsonl", ["a cat", "a dog"], Title=["red house", None])
    for column, texts in ((None, ["red house a cat", "a dog"]), ("text", ["a cat", "a dog"])):
        encode_file(engine(encoder), path, tmp_path / "out.npy", column=column, overwrite=True)
        np.testing.assert_allclose(
            np.load(tmp_path / "out.npy"), encoder.encode(texts, size="3x16"), atol=1e-5
        )


def test_jsonl_has_no_nan(encoder: ElasticEncoder, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a cat"], "score": [float("nan")]}), tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text('{"text": "a cat", "more": [{"x": NaN}, -Infinity, 1.5]}\n')
    for name, column, value in (
        ("in.parquet", "score", None),
        ("in.jsonl", "more", [{"x": None}, None, 1.5]),
    ):
        encode_file(engine(encoder), tmp_path / name, tmp_path / "out.jsonl", overwrite=True)

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        row = json.loads((tmp_path / "out.jsonl").read_text(), parse_constant=refuse)
        assert row[column] == value


class TestMistakes:
    """Each is one line that names the place, and the output is untouched."""

    @pytest.fixture
    def refused(self, encoder: ElasticEncoder, tmp_path: Path) -> Callable[..., str]:
        def call(name: str, content: str | bytes, target: str = "out.npy", **options: Any) -> str:
            path = tmp_path / name
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            with pytest.raises(UserError) as raised:
                encode_file(engine(encoder), path, tmp_path / target, **options)
            assert {entry.name for entry in tmp_path.iterdir()} == {name}
            assert "\n" not in str(raised.value)
            return str(raised.value)

        return call

    def test_the_column_of_the_first_row_holds_for_all(
        self, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(encoding, "_CHUNK", 1)
        content = '{"text": "a"}\n{"sentence": "b"}\n'
        assert "line 2: there is no 'text'" in refused("in.jsonl", content)

    def test_an_empty_table(self, encoder: ElasticEncoder, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "in.parquet")
        with pytest.raises(UserError, match="is empty"):
            encode_file(engine(encoder), tmp_path / "in.parquet", tmp_path / "out.npy")

    def test_columns_that_change_their_kind_fit_into_json_but_not_into_parquet(
        self, refused: Callable[..., str]
    ) -> None:
        content = '{"text": "a", "id": 1}\n{"text": "b", "id": "two"}\n'
        assert "does not fit into Parquet" in refused("in.jsonl", content, "out.parquet")

    def test_an_empty_object_does_not_fit_into_parquet(self, refused: Callable[..., str]) -> None:
        content = '{"text": "a", "more": {}}\n'
        assert "does not fit into Parquet" in refused("in.jsonl", content, "out.parquet")

    def test_half_a_surrogate_pair_in_any_column(self, refused: Callable[..., str]) -> None:
        content = '{"text": "a"}\n{"text": "b", "note": "\\ud83d"}\n'
        assert "line 2: half a surrogate pair" in refused("in.jsonl", content, "out.jsonl")

    def test_a_whole_surrogate_pair_is_a_character(self, encoder: ElasticEncoder, tmp_path: Path) -> None:
        (tmp_path / "in.jsonl").write_text('{"text": "\\ud83d\\ude00"}\n')
        encode_file(engine(encoder), tmp_path / "in.jsonl", tmp_path / "out.jsonl")
        assert read_rows(tmp_path / "out.jsonl")[0]["text"] == "\U0001f600"

    def test_an_unknown_prompt(self, refused: Callable[..., str]) -> None:
        assert "Did you mean 'query'?" in refused("in.txt", "a cat\n", prompt_name="qurey")

    def test_a_hundred_thousand_brackets(self, refused: Callable[..., str]) -> None:
        assert "line 1: not JSON" in refused("in.jsonl", '{"text": ' + "[" * 100_000)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a \ud83d"], r"'a \\ud83d' holds half a surrogate pair"),
        (["a cat"] * 20 + ["x" * 100 + "\ud83d"], "half a surrogate pair"),
        (["a cat", None], "None is no text|NoneType"),
    ],
)
def test_what_is_no_text_is_one_line_in_python_too(
    encoder: ElasticEncoder, texts: list[Any], said: str
) -> None:
    for embed in (engine(encoder).embed, encoder.encode, encoder.exits):
        with pytest.raises(UserError, match=said) as raised:
            embed(texts)
        assert len(str(raised.value)) < 100


# --- encode: vectors in memory ------------------------------------------------------------------------


def test_encode_gives_what_the_engine_gives(encoder: ElasticEncoder) -> None:
    texts = ["a cat", "the rain", "a cat"]
    found = encode(encoder, texts, "2x8", prompt_name="query", precision="fp32")
    assert found.shape == (3, 8)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, engine(encoder).embed(texts, "2x8", prompt_name="query"))


def test_encode_reads_a_file_a_row_a_vector(encoder: ElasticEncoder, tmp_path: Path) -> None:
    source = write_texts(tmp_path / "in.jsonl", ["a cat", "the rain"])
    found = encode(encoder, source, precision="fp32")
    np.testing.assert_array_equal(found, engine(encoder).embed(["a cat", "the rain"]))


def test_encode_of_nothing_has_no_rows(encoder: ElasticEncoder) -> None:
    assert encode(encoder, [], "1x4", precision="fp32").shape == (0, 4)


def test_encode_says_that_a_file_is_missing(encoder: ElasticEncoder) -> None:
    with pytest.raises(UserError, match=r"no-such\.txt"):
        encode(encoder, "no-such.txt")
