"""Vectors that hold NaN or infinity are refused wherever they are read or written, and the text is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from matryoshka2d import ElasticEncoder, UserError
from matryoshka2d.cli import main
from matryoshka2d.encoder.finite import check_finite, first_not_finite, weight_not_finite
from matryoshka2d.evaluation.exits import PlainExits
from matryoshka2d.inference import open_engine
from matryoshka2d.inference.vectorizer import ElasticVectorizer
from matryoshka2d.training.teacher import LiveTeacher
from tests import tiny

WRONG = "the dog runs fast"
TEXTS = [text for text in tiny.TEXTS if "dog" not in text]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a model of finite weights whose numbers overflow for one word alone: `dog`."""
    folder = tmp_path_factory.mktemp("broken")
    encoder = ElasticEncoder(tiny.sentence_model(folder), device="cpu")
    huge = torch.finfo(torch.float32).max
    with torch.no_grad():
        row = encoder[0].model.embeddings.word_embeddings.weight[encoder.tokenizer.vocab["dog"]]
        row[::2], row[1::2] = huge, -huge
    encoder.save(str(folder / "nan"))
    return str(folder / "nan")


@given(
    st.lists(
        st.lists(st.sampled_from([0.5, -1e30, np.nan, np.inf, -np.inf]), min_size=3, max_size=3), max_size=9
    ),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_the_first_row_is_found(rows: list[list[float]], dtype: type) -> None:
    with np.errstate(over="ignore"):
        vectors = np.array(rows, dtype=dtype).reshape(-1, 3)
    expected = next((i for i, row in enumerate(vectors.tolist()) if not np.isfinite(row).all()), None)
    assert first_not_finite(vectors) == expected


def test_rows_are_counted_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matryoshka2d.encoder.finite._AT_ONCE", 2)
    vectors = np.zeros((7, 2))
    vectors[5, 1] = np.nan
    assert first_not_finite(vectors) == 5
    with pytest.raises(UserError, match=r"text 6 \('f'\) has a vector that holds NaN"):
        check_finite(vectors, list("abcdefg"), numbered=True)


def test_a_long_text_is_cut_in_the_line_that_names_it() -> None:
    with pytest.raises(UserError) as said:
        check_finite(np.array([[np.inf]]), ["word\n" * 1000])
    assert len(str(said.value)) < 300
    assert "\n" not in str(said.value)


def test_weights_are_named(broken: str) -> None:
    encoder = ElasticEncoder(broken, device="cpu")
    assert weight_not_finite(encoder) is None
    with torch.no_grad():
        encoder[0].model.embeddings.word_embeddings.weight[5] = torch.nan
    assert "word_embeddings" in str(weight_not_finite(encoder))


READERS: dict[str, Callable[[str, list[str]], Any]] = {
    "engine": lambda model, texts: open_engine(model, "torch", "fp32", "cpu").embed(texts),
    "exits": lambda model, texts: ElasticEncoder(model, device="cpu").exits(texts),
    "plain": lambda model, texts: PlainExits(SentenceTransformer(model, device="cpu")).exits(texts),
    "scikit-learn": lambda model, texts: ElasticVectorizer(model, device="cpu").fit_transform(texts),
    "live teacher": lambda model, texts: LiveTeacher(
        SentenceTransformer(model, device="cpu"), ["text"], {}
    ).taught([{"text": text} for text in texts]),
}


@pytest.mark.parametrize("reader", READERS)
def test_the_one_text_is_named_and_the_others_are_read(broken: str, reader: str) -> None:
    READERS[reader](broken, TEXTS)
    with pytest.raises(UserError, match=f"'{WRONG}'.* has a vector that holds NaN or infinity"):
        READERS[reader](broken, [*TEXTS, WRONG])


def test_every_exit_is_looked_at(tmp_path: Path) -> None:
    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    assert encoder.add_heads() is not None
    head = encoder.heads.at(2) if encoder.heads else None
    assert head is not None
    with torch.no_grad():
        head.linear.weight[0, 0] = torch.inf
    encoder.exits(TEXTS, layers=[1, 3, 4])
    with pytest.raises(UserError, match="NaN or infinity"):
        encoder.exits(TEXTS)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], broken: str
) -> Callable[[str], str]:
    """Run a command on the broken model and files of texts, and return the line that it ends with."""
    monkeypatch.chdir(tmp_path)
    texts = [*TEXTS, WRONG, *(f"a cat sat {word}" for word in tiny.WORDS.split() if word != "dog")]
    (tmp_path / "texts.txt").write_text("\n\n".join(texts) + "\n")
    rows = [f"test\t{number % 5}\t{text}\t{text} red\n" for number, text in enumerate(texts)]
    (tmp_path / "sts.tsv").write_text("split\tscore\tsentence1\tsentence2\n" + "".join(rows))
    there = {path.name for path in tmp_path.iterdir()}

    def call(words: str) -> str:
        monkeypatch.setattr("sys.argv", ["matryoshka2d", *words.format(model=broken).split()])
        with pytest.raises(SystemExit) as ended:
            main()
        last = capfd.readouterr().err.splitlines()[-1]
        assert ended.value.code == 2, last
        assert {path.name for path in tmp_path.iterdir()} == there, "something was written"
        return last

    return call


@pytest.mark.parametrize(
    "words",
    [
        "encode {model} texts.txt out.npy --precision fp32 -q",
        "encode {model} texts.txt out.jsonl --size 2x8 -q",
        "encode {model} texts.txt out.parquet --engine torch --json",
        "fit --model {model} --data texts.txt --output out",
        "rotate --model {model} --data texts.txt --output out",
        "evaluate {model} --sts sts.tsv --output out -q",
        "evaluate {model} --sts sts.tsv --precision bf16 --sizes 1-4x8 --json",
        "train --model {model} --data texts.txt --output out --device cpu -q --report-to none",
    ],
)
def test_commands_say_it_in_one_line_and_write_nothing(run: Callable[[str], str], words: str) -> None:
    line = run(words)
    assert line.startswith("error: ")
    assert " dog" in line
    assert "NaN or infinity" in line
    if words.startswith("encode"):
        assert f"text {len(TEXTS) + 1} ('{WRONG}')" in line


def test_a_text_is_counted_over_all_shards(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matryoshka2d.inference.shards import encode_shards

    monkeypatch.setattr("matryoshka2d.inference.encoding._CHUNK", 2)
    texts = [f"a cat {word}" for word in tiny.WORDS.split() if word != "dog"]
    texts[7] = WRONG
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    engine = open_engine(broken, "torch", "fp32", "cpu")
    with pytest.raises(UserError, match=rf"text 8 \('{WRONG}'\)"):
        encode_shards(engine, tmp_path / "texts.jsonl", tmp_path / "out", suffix=".npy", rows_per_shard=5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "part-00000.npy"]
