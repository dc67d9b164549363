"""The model card: valid front matter, the dev grid, code that runs, and the command that repeats the run."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import matryoshka2d.training
from matryoshka2d.cli.app import app
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.evaluation import Grid
from matryoshka2d.size import Size
from matryoshka2d.training import TrainingOptions
from matryoshka2d.training.model_card import command_of, write_model_card
from matryoshka2d.training.trainer import DevGrid
from tests import tiny
from tests.training import small


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ElasticEncoder:
    return ElasticEncoder(tiny.sentence_model(tmp_path_factory.mktemp("card")), device="cpu")


@pytest.fixture(scope="module")
def grid(encoder: ElasticEncoder, tmp_path_factory: pytest.TempPathFactory) -> Grid:
    from matryoshka2d.training.trainer import dev_grid

    return dev_grid(small.dev_file(tmp_path_factory.mktemp("dev")), "1x8 2x16 4x32").grid(encoder)


def options(**choices: Any) -> TrainingOptions:
    return TrainingOptions(**{"data": ["a.jsonl"], "output": "some/where/my-model", **choices})


def card(folder: Path, encoder: ElasticEncoder, measured: Grid | None = None, **choices: Any) -> str:
    write_model_card(folder, encoder, options(**choices), measured, 17)
    return (folder / "README.md").read_text(encoding="utf-8")


def front_matter(text: str) -> dict[str, Any]:
    start, front, _ = text.split("---\n", maxsplit=2)
    assert start == ""
    loaded = yaml.safe_load(front)
    assert isinstance(loaded, dict)
    return loaded


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path, encoder: ElasticEncoder) -> None:
    front = front_matter(card(tmp_path, encoder, model="owner/name"))
    assert front["library_name"] == "sentence-transformers"
    assert front["pipeline_tag"] == "sentence-similarity"
    assert "matryoshka2d" in front["tags"]
    assert front["base_model"] == "owner/name"


@pytest.mark.parametrize("name", ["default", "all-MiniLM-L6-v2"])
def test_the_default_model_is_called_by_its_name_on_the_hub(
    tmp_path: Path, encoder: ElasticEncoder, name: str
) -> None:
    front = front_matter(card(tmp_path, encoder, model=name))
    assert front["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize("name", ["/some/folder", "./folder", "folder", "../a/b", "a/b/c"])
def test_a_folder_is_no_base_model_on_the_hub(tmp_path: Path, encoder: ElasticEncoder, name: str) -> None:
    assert "base_model" not in front_matter(card(tmp_path, encoder, model=name))


def test_it_says_how_it_was_made(tmp_path: Path, encoder: ElasticEncoder) -> None:
    text = card(tmp_path, encoder, strategy="2dmse", model="owner/name")
    assert "# my-model" in text
    assert "`4x32`" in text
    assert "`2dmse`" in text
    assert "17 steps" in text
    assert "`owner/name`" in text


def test_the_grid_shows_the_score_of_every_size(tmp_path: Path, encoder: ElasticEncoder, grid: Grid) -> None:
    text = card(tmp_path, encoder, grid)
    section = text.split("## Quality at every size")[1].split("## How")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) >= 2 + 3
    for size, value in grid.values().items():
        assert f"{value:.2f}" in section or f"{value:.1f}" in section, size
    assert "judge the model on" in section


def test_without_a_dev_set_there_is_no_grid(tmp_path: Path, encoder: ElasticEncoder) -> None:
    assert "Quality" not in card(tmp_path, encoder)


def test_the_code_of_the_card_runs(
    tmp_path: Path, encoder: ElasticEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder.save("my-model", create_model_card=False)
    write_model_card(tmp_path / "my-model", encoder, options(), None, 1)
    found = blocks((tmp_path / "my-model" / "README.md").read_text(), "python")
    assert len(found) == 2
    for block in found:
        exec(compile(block, "card", "exec"), {})
    (cut,) = (path for path in tmp_path.iterdir() if path.name.startswith("my-model-"))
    size = Size.parse(cut.name.removeprefix("my-model-"))
    assert size == Size(2, 10)


def test_a_run_writes_a_card_with_the_grid_of_its_result(tmp_path: Path, encoder: ElasticEncoder) -> None:
    base = tiny.sentence_model(tmp_path / "base")
    dev = small.dev_file(tmp_path)
    found = small.run(tmp_path, base, dev=dev, dev_sizes="1x8 4x32", limit=8)
    text = (tmp_path / "out" / "README.md").read_text()
    from matryoshka2d.evaluation import read_sts

    for value in DevGrid(read_sts(dev, split="dev"), [Size(1, 8), Size(4, 32)]).grid(found).values().values():
        assert f"{value:.1f}" in text or f"{value:.2f}" in text
    assert front_matter(text)
    assert "2 steps" in text


# --- the command --------------------------------------------------------------------------------


def parsed(command: str) -> TrainingOptions:
    """Return the options with which the command line would train."""
    words = shlex.split(command)
    assert words[:2] == ["matryoshka2d", "train"]
    caught: list[TrainingOptions] = []

    def train(found: TrainingOptions, **_: Any) -> Any:
        caught.append(found)
        raise SystemExit(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matryoshka2d.training, "train", train)
        result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, (command, result.output, result.exception)
    (found,) = caught
    return found


CHOICES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "names with spaces": {"data": ["my data/a b.jsonl", "c.csv"], "output": "o'clock/out", "model": "a b"},
    "columns": {"columns": {"anchor": "the question", "positive": "answer"}},
    "options": {
        "strategy": "2dmse",
        "strategy_options": {"dims": "8,16,32", "temperature": "0.5"},
        "objective": "angle",
        "objective_options": {"ibn_weight": "1"},
    },
    "sizes": {"strategy_options": {"sizes": "1-2x8,16 4x32"}, "dev": "sts.tsv", "dev_sizes": "1x8 4x32"},
    "typed options": {"strategy": "mrl", "strategy_options": {"dims": (8, 16)}},
    "heads": {"heads": True, "fit_heads": True},
    "no heads": {"heads": False},
    "heads from the identity": {"fit_heads": False},
    "rotated": {"rotate": True},
    "not rotated": {"rotate": False},
    "no checkpoints": {"checkpoints": False},
    "zero rates": {"learning_rate": 0.0, "dropout": 0.0},
    "numbers": {
        "limit": 10,
        "epochs": 0.5,
        "batch_size": 8,
        "learning_rate": 3e-4,
        "top_learning_rate": 1e-7,
        "head_learning_rate": 0.002,
        "warmup": 0.0,
        "weight_decay": 0.0,
        "max_length": 64,
        "dropout": 0.2,
        "gradient_accumulation": 3,
        "seed": 42,
        "evaluations": 2,
        "cross_exit": 0.5,
        "mini_batch_tokens": 4096,
        "workers": 2,
    },
    "translations": {"translations": True},
    "streams": {
        "data": ["a.csv", "b.csv"],
        "streaming": True,
        "shuffle_buffer": 500,
        "rows": {"a": "100", "b": "20"},
        "max_steps": 7,
        "score_range": "0,5",
        "mix": "fixed",
        "mix_weights": {"a": "2", "b": "1"},
    },
    "temperature": {"data": ["a.csv", "b.csv"], "mix": "temperature", "mix_temperature": 3.0},
    "decoder": {
        "lora": True,
        "lora_options": {"rank": "8", "targets": "q_proj,v_proj"},
        "gradient_checkpointing": True,
        "query_prompt": "Instruct: find it\nQuery: ",
        "document_prompt": "",
    },
    "words": {
        "pooling": "cls",
        "teacher": "self",
        "precision": "bf16",
        "device": "cpu",
        "report_to": "none",
    },
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_command_of_the_card_gives_the_same_options(
    tmp_path: Path, encoder: ElasticEncoder, name: str
) -> None:
    (command,) = blocks(card(tmp_path, encoder, **CHOICES[name]), "bash")
    assert parsed(command) == options(**CHOICES[name])


@given(
    seed=st.integers(0, 2**31),
    rate=st.floats(1e-9, 1.0),
    text=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1),
)
def test_any_number_and_name_survives_the_command(seed: int, rate: float, text: str) -> None:
    chosen = options(seed=seed, learning_rate=rate, data=[f"{text}.jsonl"], output=f"x{text}")
    assert parsed(command_of(chosen)) == chosen


def test_where_a_run_stood_and_where_it_is_sent_are_no_part_of_the_command() -> None:
    chosen = options(resume=True, overwrite=True, push_to_hub="owner/name")
    assert command_of(chosen) == command_of(options())


def test_every_field_is_either_in_the_command_or_left_out_on_purpose() -> None:
    left_out = {"resume", "overwrite", "push_to_hub"}
    covered = {field for choices in CHOICES.values() for field in choices} | {"data", "output"}
    assert covered | left_out == {field.name for field in dataclasses.fields(TrainingOptions)}
