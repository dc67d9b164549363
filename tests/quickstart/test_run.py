"""The quickstart: its files, its numbers, and that nothing of an old run is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.quickstart import run
from matryoshka2d.quickstart.corpus import Corpus
from matryoshka2d.quickstart.run import QuickstartResult, quickstart
from matryoshka2d.size import Size
from tests import tiny

TEXTS = ["A man is playing a guitar.", "Return the median of data.", "x"]


@pytest.fixture(scope="module")
def small(corpus: Corpus) -> Corpus:
    """Return an eighth of the documentation: every part of it, in less time."""
    held_out = [passage for passage in corpus.passages if passage.module in corpus.held_out_modules]
    others = [passage for passage in corpus.passages if passage.module not in corpus.held_out_modules]
    return replace(corpus, held_out=corpus.held_out[::8], passages=(*held_out[::3], *others[::20]))


def run_it(output: Path, corpus: Corpus, model: str | None = None, **choices: object) -> QuickstartResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "python_documentation", lambda: corpus)
        if model is not None:
            patch.setattr(run, "default_model_path", lambda: model)
        return quickstart(output, **choices)  # type: ignore[arg-type]


class TestWithATinyModel:
    """Everything but the quality."""

    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return tiny.sentence_model(tmp_path_factory.mktemp("tiny"))

    @pytest.fixture(scope="class")
    def result(self, tmp_path_factory: pytest.TempPathFactory, small: Corpus, model: str) -> QuickstartResult:
        output = tmp_path_factory.mktemp("quickstart") / "out"
        return run_it(output, small, model, size="3x8", sentences=128, seed=1, quiet=True)

    def test_the_files_are_there(self, result: QuickstartResult) -> None:
        names = {path.name for path in result.output.iterdir()}
        assert {"model", "model-3x8", "report.html", "heatmap.png", "grids.json"} <= names
        assert (result.output / "heatmap.png").read_bytes().startswith(b"\x89PNG")
        assert "<html" in (result.output / "report.html").read_text(encoding="utf-8")
        assert [path.name for path in result.output.parent.iterdir()] == ["out"]

    def test_the_models_load_in_the_stock_library(self, result: QuickstartResult) -> None:
        full = SentenceTransformer(str(result.output / "model"), device="cpu")
        cut = SentenceTransformer(str(result.output / "model-3x8"), device="cpu")
        elastic = ElasticEncoder(str(result.output / "model"), device="cpu")
        np.testing.assert_allclose(full.encode(tiny.TEXTS), elastic.encode(tiny.TEXTS), atol=1e-5)
        np.testing.assert_allclose(cut.encode(tiny.TEXTS), elastic.encode(tiny.TEXTS, size="3x8"), atol=1e-5)

    def test_the_grids_are_those_of_the_result(self, result: QuickstartResult) -> None:
        written = json.loads((result.output / "grids.json").read_text())
        assert written == result.to_dict()
        for moment in ("before", "after"):
            assert list(written[moment]) == ["agreement", "retrieval"]
            for grid in written[moment].values():
                assert [str(size) for size in result.before["agreement"].sizes] == list(grid["grid"])
                assert all(-100 <= row["mean"] <= 100 for row in grid["grid"].values())

    def test_the_original_agrees_with_itself(self, result: QuickstartResult) -> None:
        assert result.before["agreement"].mean("4x32") == pytest.approx(100, abs=1e-3)
        assert 0 < result.drift <= 100

    def test_the_model_says_where_it_is_and_not_where_it_was_made(self, result: QuickstartResult) -> None:
        record = json.loads((result.output / "model" / "elastic.json").read_text())
        assert record["training"]["output"] == str(result.output / "model")
        card = (result.output / "model" / "README.md").read_text(encoding="utf-8")
        assert ".tmp-" not in card
        assert str(result.output / "model") in card

    def test_sts_files_add_a_grid(
        self, tmp_path: Path, small: Corpus, model: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "sts.tsv").write_text("score\tsentence1\tsentence2\n1\ta cat\ta dog\n2\tsun\train\n")
        output = tmp_path / "out"
        result = run_it(output, small, model, sts=str(tmp_path), size="1x8", sentences=64)
        assert list(result.after) == ["agreement", "retrieval", "sts"]
        assert (output / "heatmap-sts.png").is_file()
        said = " ".join(capfd.readouterr().out.split())
        assert "Searching" in said
        assert "Next: matryoshka2d encode" in said

    def test_quiet_prints_nothing(
        self, tmp_path: Path, small: Corpus, model: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run_it(tmp_path / "out", small, model, size="1x8", sentences=64, quiet=True)
        printed = capfd.readouterr()
        assert (printed.out, printed.err) == ("", "")

    def test_an_output_in_use_is_refused_before_any_work(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").touch()
        monkeypatch.setattr(run, "ElasticEncoder", None)
        with pytest.raises(UserError, match="exists already"):
            quickstart(tmp_path / "out")

    @pytest.mark.parametrize("choices", [{"size": "9x8"}, {"size": "1x999"}, {"sts": "no-such-folder"}])
    def test_a_mistake_leaves_nothing_behind(
        self, tmp_path: Path, small: Corpus, model: str, choices: dict[str, str]
    ) -> None:
        with pytest.raises(UserError):
            run_it(tmp_path / "out", small, model, quiet=True, **choices)
        assert list(tmp_path.iterdir()) == []

    def test_an_interrupted_run_keeps_the_old_one(
        self, tmp_path: Path, small: Corpus, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").write_text("old")
        monkeypatch.setattr(run, "_write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_it(tmp_path / "out", small, model, size="1x8", sentences=64, overwrite=True, quiet=True)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
class TestWithTheRealModel:
    """What a newcomer gets, from 256 sentences."""

    @pytest.fixture(scope="class")
    def result(self, tmp_path_factory: pytest.TempPathFactory, small: Corpus) -> QuickstartResult:
        output = tmp_path_factory.mktemp("real") / "out"
        return run_it(output, small, sentences=256, quiet=True)

    def test_the_cut_model_is_the_elastic_one_at_that_size(self, result: QuickstartResult) -> None:
        cut = SentenceTransformer(str(result.output / "model-3x128"), device="cpu")
        elastic = ElasticEncoder(str(result.output / "model"), device="cpu")
        np.testing.assert_allclose(cut.encode(TEXTS), elastic.encode(TEXTS, size="3x128"), atol=1e-5)

    def test_the_full_size_stays_near_the_original(self, result: QuickstartResult) -> None:
        assert result.before["agreement"].mean("6x384") == pytest.approx(100, abs=1e-3)
        assert result.after["agreement"].mean("6x384") > 80
        assert result.drift > 90

    def test_shallow_sizes_rise(self, result: QuickstartResult) -> None:
        for task in ("agreement", "retrieval"):
            before, after = result.before[task].values(), result.after[task].values()
            shallow = [size for size in before if size.layers <= 3]
            rise = np.mean([after[size] - before[size] for size in shallow])
            assert rise > 0.5, f"{task}: {rise:.2f}"

    def test_retrieval_finds_more_with_more_layers_and_dims(self, result: QuickstartResult) -> None:
        scores = result.after["retrieval"].values()
        assert scores[Size(6, 384)] > 50
        assert scores[Size(6, 384)] > scores[Size(3, 128)] > scores[Size(1, 8)] > 0
