"""benchmark, quantize, and encode into shards, as a newcomer runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from matryoshka2d.inference.engine import saved_default
from tests.cli.conftest import Run


class TestBenchmark:
    @pytest.fixture(autouse=True)
    def cache_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keep the default that is saved here from the tests that open the same model later."""
        monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(tmp_path / "cache"))

    def test_a_table_and_a_default(self, run: Run, model: str, texts: Path, sts: Path) -> None:
        words = ["--texts", texts, "--sizes", "4x32 1x8", "--engines", "torch", "--rounds", "1", "--sts", sts]
        outcome = run("benchmark", model, *words, "--save", "--json")
        assert outcome.code == 0, outcome.err
        rows = outcome.json["rows"]
        assert {(row["engine"], row["size"]) for row in rows} == {("torch", "4x32"), ("torch", "1x8")}
        assert all(row["texts_per_second"] > 0 and 0.99 < row["lowest_cosine"] <= 1.0001 for row in rows)
        exact = [row for row in rows if row["precision"] == "fp32"]
        assert all(abs(row["spearman"]) < 1e-6 and row["lowest_cosine"] > 0.99999 for row in exact)
        saved = saved_default(model)
        assert saved is not None
        assert {"engine": saved.engine, "precision": saved.precision} == outcome.json["saved"]

    def test_it_is_shown_in_a_terminal(self, run: Run, model: str, texts: Path) -> None:
        outcome = run(
            "benchmark",
            model,
            "--texts",
            texts,
            "--precisions",
            "fp32,int8",
            "--engines",
            "torch",
            "--rounds",
            "1",
        )
        assert outcome.code == 0
        assert "texts/s" in outcome.out
        assert "4x32" in outcome.out

    def test_mistakes(self, refused: Callable[..., str], model: str, texts: Path) -> None:
        assert "Did you mean 'torch'" in refused("benchmark", model, "--engines", "troch")
        assert "Did you mean 'fp32'" in refused("benchmark", model, "--precisions", "fp31")
        assert "too deep" in refused("benchmark", model, "--sizes", "9x8", "--texts", texts, "-q")
        assert "there is no file" in refused("benchmark", model, "--texts", "no.txt")


class TestQuantize:
    @pytest.fixture
    def vectors(self, tmp_path: Path) -> Path:
        values = np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32)
        np.save(tmp_path / "vectors.npy", values / np.linalg.norm(values, axis=1, keepdims=True))
        return tmp_path / "vectors.npy"

    @pytest.mark.parametrize(("precision", "width"), [("int8", 32), ("ubinary", 4)])
    def test_codes_ranges_and_what_is_lost(
        self, run: Run, vectors: Path, tmp_path: Path, precision: str, width: int
    ) -> None:
        outcome = run("quantize", vectors, tmp_path / "codes.npy", "--precision", precision, "--json")
        assert np.load(tmp_path / "codes.npy").shape == (200, width)
        assert np.load(tmp_path / "codes.ranges.npy").shape == (2, 32)
        assert 0.1 < outcome.json["recall"] <= 1
        assert (outcome.json["bytes_per_vector"], outcome.json["exact_bytes_per_vector"]) == (width, 128)

    def test_it_says_what_it_wrote(self, run: Run, vectors: Path, tmp_path: Path) -> None:
        outcome = run("quantize", vectors, tmp_path / "codes.npy")
        assert "200 vectors of 32 bytes, int8 (float32: 128)" in outcome.out

    def test_mistakes(self, refused: Callable[..., str], vectors: Path, tmp_path: Path) -> None:
        out = tmp_path / "codes.npy"
        assert "does not exist" in refused("quantize", tmp_path / "no.npy", out)
        assert "Did you mean 'int8'" in refused("quantize", vectors, out, "--precision", "int7")
        (tmp_path / "text.npy").write_text("text")
        np.savez(tmp_path / "several.npz", a=np.ones((4, 8)))
        np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
        (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 and no more")
        (tmp_path / "empty.npy").touch()
        (tmp_path / "short.npy").write_bytes(vectors.read_bytes()[:300])
        for name in ("text.npy", "several.npz", "object.npy", "zip.npy", "empty.npy", "short.npy"):
            said = refused("quantize", tmp_path / name, out)
            assert "is not a .npy file of vectors: expected a float array" in said
        np.save(tmp_path / "other.npy", np.ones((4, 8), dtype=np.float32))
        assert "8 dims, but those to write have 32" in refused(
            "quantize", vectors, out, "--queries", tmp_path / "other.npy"
        )
        assert not out.exists()


class TestCodes:
    """`encode --codes` is `encode` and `quantize` in one."""

    @pytest.mark.parametrize("codes", ["int8", "ubinary"])
    def test_they_are_those_of_the_two_commands(
        self, run: Run, model: str, texts: Path, tmp_path: Path, codes: str
    ) -> None:
        words = ["encode", model, texts]
        run(*words, tmp_path / "vectors.npy", "--size", "3x16", "--precision", "fp32")
        apart = run("quantize", tmp_path / "vectors.npy", tmp_path / "a.npy", "--precision", codes, "--json")
        done = run(
            *words, tmp_path / "b.npy", "--size", "3x16", "--precision", "fp32", "--codes", codes, "--json"
        )
        for name in (".npy", ".ranges.npy"):
            assert (tmp_path / f"a{name}").read_bytes() == (tmp_path / f"b{name}").read_bytes()
        assert {key: done.json[key] for key in ("rows", "recall", "bytes_per_vector")} == {
            key: apart.json[key] for key in ("rows", "recall", "bytes_per_vector")
        }
        assert len(list(tmp_path.iterdir())) == 5
        again = run(*words, tmp_path / "b.npy", "--size", "3x16", "--codes", codes, "--overwrite")
        assert f"bytes, {codes} (float32: 64)" in again.out

    @pytest.mark.usefixtures("no_model_is_loaded")
    def test_mistakes(self, refused: Callable[..., str], model: str, texts: Path, tmp_path: Path) -> None:
        words = ["encode", model, texts]
        assert "Did you mean 'int8'" in refused(*words, tmp_path / "c.npy", "--codes", "int7")
        assert "ends in .npy" in refused(*words, tmp_path / "c.jsonl", "--codes", "int8")
        assert "ends in .npy" in refused(*words, tmp_path / "folder", "--codes", "int8")
        (tmp_path / "c.ranges.npy").touch()
        assert "c.ranges.npy exists already" in refused(*words, tmp_path / "c.npy", "--codes", "int8")


class TestShards:
    def test_a_folder_is_resumed(self, run: Run, model: str, texts: Path, tmp_path: Path) -> None:
        words = ["encode", model, texts, tmp_path / "out", "--shard-rows", "2", "--precision", "fp32"]
        said = "5 vectors of 32 dims at size 4x32 in 3 shards, 0 of them from before."
        assert run(*words).out == f"Wrote {tmp_path / 'out'}: {said}\n"
        assert run(*words, "--json").json["found"] == 3

    def test_mistakes(self, refused: Callable[..., str], model: str, texts: Path, tmp_path: Path) -> None:
        assert "name a folder" in refused("encode", model, texts, tmp_path / "v.npy", "--shard-rows", "2")
        assert "shards cannot end in '.csv'" in refused(
            "encode", model, texts, tmp_path / "out", "--shard-format", "csv"
        )
        assert not (tmp_path / "out").exists()
