"""The commands at work: what scripts may rely on, byte by byte and key by key."""

from __future__ import annotations

import csv
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from sentence_transformers import SentenceTransformer

from matryoshka2d import open_engine
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.evaluation import Grid, read_retrieval, read_sts, retrieval_grid, sts_grid
from tests import tiny
from tests.cli.conftest import Outcome, Run
from tests.cli.test_app import SCRIPT

QUICK = ("--batch-size", 8, "--no-checkpoints", "--precision", "fp32", "--device", "cpu", "--max-length", 16)


def folder_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestTrain:
    def train(self, run: Run, model: str, *arguments: object) -> Outcome:
        outcome = run("train", "--model", model, *QUICK, *arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def options(self, folder: Path) -> dict[str, object]:
        record = json.loads((folder / "elastic.json").read_text())
        options: dict[str, object] = record["training"]
        return options

    def test_the_form_that_scripts_use(self, run: Run, model: str, pairs: Path, tmp_path: Path) -> None:
        output = tmp_path / "out"
        words = ["--data", pairs, "--strategy", "2dmse", "--output", output, "--seed", 3]
        outcome = self.train(run, model, *words)
        assert f"Wrote {output}: full size 4x32" in outcome.out
        assert folder_names(tmp_path) == ["out"]
        options = self.options(output)
        assert (options["strategy"], options["seed"]) == ("2dmse", 3)
        assert SentenceTransformer(str(output), device="cpu").encode("a cat").shape == (32,)

    def test_json_is_all_there_is_on_stdout(self, run: Run, model: str, pairs: Path, tmp_path: Path) -> None:
        outcome = self.train(run, model, "--data", pairs, "--output", tmp_path / "out", "--json")
        assert outcome.err == ""
        assert outcome.json["output"] == str(tmp_path / "out")
        assert outcome.json["full_size"] == "4x32"
        assert {"1x8", "4x32"} <= set(outcome.json["sizes"])

    def test_quiet_says_nothing(self, run: Run, model: str, pairs: Path, tmp_path: Path) -> None:
        outcome = self.train(run, model, "--data", pairs, "--output", tmp_path / "out", "-q")
        assert (outcome.out, outcome.err) == ("", "")

    def test_the_seed_decides_the_weights(self, run: Run, model: str, pairs: Path, tmp_path: Path) -> None:
        vectors = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            words = [
                "--data",
                pairs,
                "--strategy",
                "2dmse",
                "--output",
                tmp_path / name,
                "--seed",
                seed,
                "-q",
            ]
            self.train(run, model, *words)
            vectors.append(ElasticEncoder(str(tmp_path / name), device="cpu").encode(tiny.TEXTS))
        np.testing.assert_array_equal(vectors[0], vectors[1])
        assert np.abs(vectors[0] - vectors[2]).max() > 1e-6

    def test_flags_win_over_the_file_of_options(
        self, run: Run, model: str, pairs: Path, tmp_path: Path
    ) -> None:
        config = tmp_path / "run.yaml"
        content = {
            "data": str(pairs),
            "output": str(tmp_path / "from-file"),
            "seed": 1,
            "learning-rate": "3e-4",
            "warmup": 0.2,
            "strategy": "2dmse",
            "strategy-options": {"layers_per_step": 2},
        }
        config.write_text(yaml.safe_dump(content))
        self.train(run, model, "--config", config, "--seed", 7, "--output", tmp_path / "from-flag", "-q")
        assert not (tmp_path / "from-file").exists()
        options = self.options(tmp_path / "from-flag")
        assert (options["seed"], options["warmup"], options["learning_rate"]) == (7, 0.2, 3e-4)
        assert options["strategy_options"] == {"layers_per_step": "2"}

    def test_a_flag_wins_even_with_the_value_that_is_the_default(
        self, run: Run, model: str, pairs: Path, tmp_path: Path
    ) -> None:
        config = tmp_path / "run.yaml"
        config.write_text(yaml.safe_dump({"data": [str(pairs)], "seed": 5, "strategy": "mrl"}))
        self.train(run, model, "--config", config, "--seed", 0, "--output", tmp_path / "out", "-q")
        assert self.options(tmp_path / "out")["seed"] == 0

    def test_options_of_the_strategy_may_hold_commas(
        self, run: Run, model: str, pairs: Path, tmp_path: Path
    ) -> None:
        words = ["--strategy", "2dmse", "--strategy-options", "layers_per_step=2,dims=8,16"]
        self.train(run, model, "--data", pairs, "--output", tmp_path / "out", *words, "-q")
        assert self.options(tmp_path / "out")["strategy_options"] == {
            "layers_per_step": "2",
            "dims": "8,16",
        }

    def test_repeated_data_is_mixed(
        self, run: Run, model: str, pairs: Path, texts: Path, tmp_path: Path
    ) -> None:
        words = ["--data", pairs, "--data", texts, "--strategy", "2dmse", "--output", tmp_path / "out"]
        self.train(run, model, *words, "-q")
        assert self.options(tmp_path / "out")["data"] == [str(pairs), str(texts)]

    def test_columns_may_be_named(self, run: Run, model: str, tmp_path: Path) -> None:
        data = tmp_path / "odd.csv"
        data.write_text("left,right\na cat,a dog\nred house,blue house\nthe sun,the rain\n")
        words = ["--columns", "anchor=left,positive=right", "--output", tmp_path / "out", "-q"]
        self.train(run, model, "--data", data, *words)
        assert (tmp_path / "out" / "elastic.json").is_file()

    def test_rows_too_alike_for_one_whole_batch_still_train(
        self, run: Run, model: str, tmp_path: Path
    ) -> None:
        data = tmp_path / "alike.csv"
        data.write_text("anchor,positive\n" + "a cat,a dog\nred house,blue house\n" * 6)
        self.train(run, model, "--data", data, "--output", tmp_path / "out", "-q")
        assert (tmp_path / "out" / "elastic.json").is_file()

    def test_a_dev_set_picks_the_checkpoint(
        self, run: Run, model: str, pairs: Path, sts: Path, tmp_path: Path
    ) -> None:
        words = ["--data", pairs, "--dev", sts, "--dev-sizes", "1-4x8,32", "--evaluations", 2]
        outcome = self.train(run, model, *words, "--output", tmp_path / "out", "--json")
        assert outcome.json["full_size"] == "4x32"
        assert folder_names(tmp_path) == ["out"]

    def test_overwrite_replaces_the_old_model(
        self, run: Run, model: str, pairs: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "old").touch()
        self.train(run, model, "--data", pairs, "--output", tmp_path / "out", "--overwrite", "-q")
        assert not (tmp_path / "out" / "old").exists()


class TestEvaluate:
    def evaluate(self, run: Run, model: str, *arguments: object) -> Outcome:
        outcome = run("evaluate", model, "--device", "cpu", *arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def test_json_is_the_grid_and_nothing_else(self, run: Run, model: str, sts: Path) -> None:
        outcome = self.evaluate(run, model, "--sts", sts, "--sizes", "1-4x8,16,32", "--json")
        assert outcome.err == ""
        assert outcome.out.count("\n") == 1
        grid = outcome.json["grid"]
        assert list(grid) == [f"{n}x{d}" for n in range(1, 5) for d in (8, 16, 32)]
        for row in grid.values():
            assert list(row) == ["mean", "sts12", "stsb-de"]
            assert row["mean"] == pytest.approx((row["sts12"] + row["stsb-de"]) / 2, abs=1e-3)

    def test_json_from_a_real_process(self, model: str, sts: Path) -> None:
        command = [*SCRIPT, "evaluate", model, "--sts", str(sts), "--sizes", "1,4x8", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert list(json.loads(done.stdout)["grid"]) == ["1x8", "4x8"]
        assert done.stderr == ""

    def test_the_scores_are_those_of_the_library(self, run: Run, model: str, sts: Path) -> None:
        outcome = self.evaluate(run, model, "--sts", sts, "--sizes", "2,4x8,32", "--json")
        encoder = ElasticEncoder(model, device="cpu")
        expected = sts_grid(encoder, read_sts(sts), sizes="2,4x8,32").to_dict()["grid"]
        assert outcome.json["grid"] == expected

    def test_bf16_scores_are_near_those_of_fp32(self, run: Run, minilm: str, sts: Path, beir: Path) -> None:
        words = ["--sts", sts, "--retrieval", beir, "--sizes", "2,6x64,384", "--json"]
        exact = self.evaluate(run, minilm, *words).json
        near = self.evaluate(run, minilm, *words, "--precision", "bf16").json
        for size, row in exact["grid"].items():
            assert near["grid"][size]["mean"] == pytest.approx(row["mean"], abs=5)
        assert list(near["retrieval"]["prefix"]["grid"]) == list(exact["retrieval"]["prefix"]["grid"])

    def test_bf16_is_what_is_run(self, run: Run, model: str, sts: Path) -> None:
        # A random model's cosines lie so near each other that rounding swaps ranks.
        words = ["--sts", sts, "--sizes", "2,4x8,32", "--json"]
        exact, near = (self.evaluate(run, model, *words, "--precision", p).json for p in ("fp32", "bf16"))
        assert near["grid"] != exact["grid"]

    def test_without_sizes_those_of_the_model_are_shown(self, run: Run, model: str, sts: Path) -> None:
        outcome = self.evaluate(run, model, "--sts", sts, "--json")
        encoder = ElasticEncoder(model, device="cpu")
        assert list(outcome.json["grid"]) == [str(size) for size in encoder.sizes]

    def test_people_see_a_table(self, run: Run, model: str, sts: Path) -> None:
        outcome = self.evaluate(run, model, "--sts", sts, "--sizes", "1-2x8,16", "-q")
        assert "mean over 4 sizes: " in outcome.out
        assert outcome.err == ""

    def test_split_and_metric_change_what_is_measured(self, run: Run, model: str, sts: Path) -> None:
        words = ["--sts", sts, "--sizes", "4x32", "--json"]
        test = self.evaluate(run, model, *words)
        dev = self.evaluate(run, model, *words, "--split", "dev")
        pearson = self.evaluate(run, model, *words, "--metric", "pearson")
        assert pearson.json["metric"] == "pearson"
        values = {outcome.json["grid"]["4x32"]["mean"] for outcome in (test, dev, pearson)}
        assert len(values) == 3

    def test_files_may_be_named_one_by_one(self, run: Run, model: str, sts: Path) -> None:
        words = ["--sts", sts / "stsb-de.tsv", "--sts", sts / "sts12.tsv", "--sizes", "1x8", "--json"]
        outcome = self.evaluate(run, model, *words)
        assert list(outcome.json["grid"]["1x8"]) == ["mean", "stsb-de", "sts12"]

    def test_other_cuts_stand_beside_the_prefix(self, run: Run, model: str, sts: Path) -> None:
        words = ["--sts", sts, "--sizes", "4x8,32", "--cut", "pca", "--cut", "random", "--json"]
        outcome = self.evaluate(run, model, *words)
        assert list(outcome.json["cuts"]) == ["pca", "random"]
        assert outcome.json["cut"] == "prefix"
        for cut in outcome.json["cuts"].values():
            assert cut["grid"]["4x32"]["mean"] == pytest.approx(
                outcome.json["grid"]["4x32"]["mean"], abs=0.01
            )

    def test_retrieval_alone_is_the_grid_and_beside_sts_it_has_a_key(
        self, run: Run, model: str, sts: Path, beir: Path
    ) -> None:
        alone = self.evaluate(run, model, "--retrieval", beir, "--sizes", "1,4x8", "--json").json
        assert alone["metric"] == "ndcg@10"
        assert list(alone["grid"]["4x8"]) == ["mean", "toy"]
        both = self.evaluate(run, model, "--sts", sts, "--retrieval", beir, "--sizes", "1,4x8", "--json").json
        assert both["metric"] == "spearman"
        assert both["retrieval"]["prefix"]["grid"] == alone["grid"]

    def test_queries_of_several_sizes_over_documents_of_one(
        self, run: Run, model: str, beir: Path, tmp_path: Path
    ) -> None:
        words = ["--retrieval", beir, "--query-size", "1-4x8", "--document-size", "4x8"]
        outcome = self.evaluate(run, model, *words, "--output", tmp_path / "out", "--json")
        encoder = ElasticEncoder(model, device="cpu")
        sides = {"query_sizes": "1-4x8", "document_size": "4x8"}
        expected = retrieval_grid(encoder, [read_retrieval(beir)], **sides).to_dict()
        assert outcome.json["grid"] == expected["grid"]
        assert outcome.json["details"]["document_sizes"] == ["4x8"]
        assert json.loads((tmp_path / "out" / "grid.json").read_text()) == outcome.json
        shown = self.evaluate(run, model, *words, "-q")
        assert "queries over documents at 4x8" in " ".join(shown.out.split())

    def test_the_documents_are_at_full_depth_unless_said(self, run: Run, model: str, beir: Path) -> None:
        grids = [
            self.evaluate(run, model, "--retrieval", beir, *words, "--json").json
            for words in (["--query-size", "1-4x8"], ["--document-size", "4x8"])
        ]
        assert grids[0] == grids[1]

    def test_the_folder_holds_grid_table_picture_and_report(
        self, run: Run, model: str, sts: Path, beir: Path, tmp_path: Path
    ) -> None:
        words = ["--sts", sts, "--retrieval", beir, "--sizes", "1,4x8,32", "--cut", "pca"]
        output = tmp_path / "report here"
        outcome = self.evaluate(run, model, *words, "--output", output, "--json")
        assert {"grid.json", "grid.csv", "heatmap.png", "report.html"} <= set(folder_names(output))
        assert {"grid-retrieval.csv", "heatmap-retrieval.png", "report-retrieval.html"} <= set(
            folder_names(output)
        )
        assert json.loads((output / "grid.json").read_text()) == outcome.json
        assert Grid.load(output / "grid.json").mean("4x32") == pytest.approx(
            outcome.json["grid"]["4x32"]["mean"], abs=1e-3
        )
        with (output / "grid.csv").open() as lines:
            rows = list(csv.DictReader(lines))
        assert [row["size"] for row in rows] == ["1x8", "1x32", "4x8", "4x32"]
        assert (output / "heatmap.png").read_bytes().startswith(b"\x89PNG")
        page = (output / "report.html").read_text(encoding="utf-8")
        assert "matryoshka2d evaluate" in page
        assert "report here&#39;" in page or "report here'" in page
        assert folder_names(tmp_path) == ["report here"]

    def test_an_unknown_architecture_has_its_full_depth_only(
        self, run: Run, unknown_model: str, sts: Path
    ) -> None:
        outcome = self.evaluate(run, unknown_model, "--sts", sts, "--json")
        assert outcome.err.startswith("note: architecture 'albert' is not known")
        assert outcome.err.endswith("Only its full depth is evaluated.\n")
        assert outcome.err.count("\n") == 1
        assert list(outcome.json["grid"]) == ["4x8", "4x16", "4x32"]
        plain = SentenceTransformer(unknown_model, device="cpu")
        expected = sts_grid(plain, read_sts(sts), sizes="4x32").mean("4x32")
        assert outcome.json["grid"]["4x32"]["mean"] == pytest.approx(expected, abs=1e-3)

    def test_quiet_keeps_the_note_away(self, run: Run, unknown_model: str, sts: Path) -> None:
        assert self.evaluate(run, unknown_model, "--sts", sts, "--json", "-q").err == ""

    def test_a_prompt_of_the_model_is_put_before_every_text(self, run: Run, model: str, sts: Path) -> None:
        words = ["--sts", sts, "--sizes", "4x32", "--json"]
        plain = self.evaluate(run, model, *words).json["grid"]["4x32"]["mean"]
        prompted = self.evaluate(run, model, *words, "--prompt-name", "query").json["grid"]["4x32"]["mean"]
        assert plain != prompted

    def test_the_default_model_has_its_name_and_its_known_quality(self, run: Run, tmp_path: Path) -> None:
        sentences = ["A man plays a guitar.", "Someone plays the guitar.", "The market fell.", "Rain in May."]
        lines = ["score\tsentence1\tsentence2"]
        lines += [
            f"{score}\t{sentences[0]}\t{other}" for score, other in zip((5, 1, 0), sentences[1:], strict=True)
        ]
        (tmp_path / "toy.tsv").write_text("\n".join(lines) + "\n")
        outcome = self.evaluate(run, "default", "--sts", tmp_path, "--sizes", "6x384", "--json")
        assert not math.isnan(outcome.json["grid"]["6x384"]["mean"])
        assert outcome.json["name"] == "default"


class TestTruncate:
    def test_the_cut_model_is_plain_and_equal(self, run: Run, model: str, tmp_path: Path) -> None:
        outcome = run("truncate", model, "2x16", tmp_path / "small", "--device", "cpu")
        assert outcome.code == 0, outcome.err
        assert outcome.out.startswith(f"Wrote {tmp_path / 'small'}: 2x16, ")
        small = SentenceTransformer(str(tmp_path / "small"), device="cpu")
        expected = ElasticEncoder(model, device="cpu").encode(tiny.TEXTS, size="2x16")
        np.testing.assert_allclose(small.encode(tiny.TEXTS), expected, atol=1e-5)
        assert folder_names(tmp_path) == ["small"]

    def test_json_names_output_size_and_parameters(self, run: Run, model: str, tmp_path: Path) -> None:
        outcome = run("truncate", model, "2x16", tmp_path / "small", "--json")
        assert outcome.err == ""
        assert outcome.json["output"] == str(tmp_path / "small")
        assert outcome.json["size"] == "2x16"
        assert outcome.json["parameters"]["cut"] < outcome.json["parameters"]["full"]

    def test_quiet_says_nothing(self, run: Run, model: str, tmp_path: Path) -> None:
        assert run("truncate", model, "2x16", tmp_path / "small", "-q") == Outcome(0, "", "")

    def test_overwrite_replaces_the_old_one(self, run: Run, model: str, tmp_path: Path) -> None:
        run("truncate", model, "2x16", tmp_path / "small", "-q")
        outcome = run("truncate", model, "1x8", tmp_path / "small", "--overwrite", "-q")
        assert outcome == Outcome(0, "", "")
        assert SentenceTransformer(str(tmp_path / "small"), device="cpu").encode("a").shape == (8,)

    def test_a_plain_checkpoint_is_pooled_as_asked(self, run: Run, tmp_path: Path) -> None:
        checkpoint = tiny.checkpoint(tmp_path / "checkpoint")
        outcome = run("truncate", checkpoint, "2x16", tmp_path / "small", "--pooling", "cls", "-q")
        assert outcome == Outcome(0, "", "")
        small = SentenceTransformer(str(tmp_path / "small"), device="cpu")
        expected = ElasticEncoder(checkpoint, pooling="cls", device="cpu").encode(tiny.TEXTS, size="2x16")
        np.testing.assert_allclose(small.encode(tiny.TEXTS), expected, atol=1e-5)


class TestEncode:
    def test_a_file_becomes_vectors_of_the_size(
        self, run: Run, model: str, texts: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "vectors.npy"
        outcome = run("encode", model, texts, output, "--size", "3x16", "--precision", "fp32", "-q")
        assert outcome == Outcome(0, "", "")
        expected = ElasticEncoder(model, device="cpu").encode(tiny.TEXTS, size="3x16")
        np.testing.assert_allclose(np.load(output), expected, atol=1e-5)

    def test_it_says_what_it_wrote(self, run: Run, model: str, texts: Path, tmp_path: Path) -> None:
        outcome = run("encode", model, texts, tmp_path / "vectors.npy", "--size", "3x16")
        assert outcome.out == f"Wrote {tmp_path / 'vectors.npy'}: 5 vectors of 16 dims at size 3x16.\n"

    def test_json_is_all_there_is_on_stdout(self, run: Run, model: str, texts: Path, tmp_path: Path) -> None:
        outcome = run("encode", model, texts, tmp_path / "vectors.jsonl", "--json")
        written = {"output": str(tmp_path / "vectors.jsonl"), "rows": 5, "size": "4x32", "engine": "torch"}
        assert outcome.json == {**written, "precision": open_engine(model, device="cpu").precision}
        assert outcome.err == ""

    def test_a_prompt_is_put_before_every_text(
        self, run: Run, model: str, texts: Path, tmp_path: Path
    ) -> None:
        words = ["--size", "3x16", "--prompt-name", "query", "--precision", "fp32", "-q"]
        assert run("encode", model, texts, tmp_path / "v.npy", *words).code == 0
        encoder = ElasticEncoder(model, device="cpu")
        expected = encoder.encode(tiny.TEXTS, size="3x16", prompt_name="query")
        np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-5)
