"""A whole run: what it writes, what it leaves out, and that a killed one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reproduction.tests.pretraining import small
from sentence_transformers import SentenceTransformer
from tests import tiny
from tests.training.small import data_file

from matryoshka2d import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.training import train
from matryoshka2d_reproduction.pretraining import PretrainingOptions, pretrain
from matryoshka2d_reproduction.pretraining.masking import TwoMaskedCopies
from matryoshka2d_reproduction.pretraining.order import SimilarLengths
from matryoshka2d_reproduction.pretraining.trainer import PretrainingTrainer

STEPS = 10


class KilledError(Exception):
    """Stands for the death of the process."""


def killed(folder: Path, model: str, output: str, step: int, **choices: Any) -> None:
    """Run until a step, and die there."""
    plain = PretrainingTrainer.training_step

    def dying(self: PretrainingTrainer, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step == step:
            raise KilledError
        return plain(self, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PretrainingTrainer, "training_step", dying)
        with pytest.raises(KilledError):
            small.run(folder, model, output, checkpoints=True, saves=5, **choices)
    assert not (folder / output).exists()


def test_the_output_is_an_ordinary_elastic_model_that_can_be_fine_tuned(tmp_path: Path, model: str) -> None:
    before = small.weights(ElasticEncoder(model, device="cpu"))
    made = small.run(tmp_path, model, report_to="tensorboard")
    assert set(small.weights(made)) == set(before)
    changed = [name for name, tensor in small.weights(made).items() if not torch.equal(tensor, before[name])]
    assert any("layer.0." in name for name in changed)
    assert any("layer.3." in name for name in changed)
    found = ElasticEncoder(str(tmp_path / "out"), device="cpu")
    small.assert_equal(small.weights(found), small.weights(made))
    assert [str(size) for size in found.sizes] == small.SIZES.split()
    record = json.loads((tmp_path / "out" / "elastic.json").read_text())["pretraining"]
    assert (record["method"], record["steps"], record["sizes"], record["mask"]) == (
        "SMAE",
        10,
        small.SIZES,
        0.3,
    )
    assert (tmp_path / "out" / "runs").is_dir()
    assert "matryoshka2d-reproduce pretrain --model" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out.checkpoints").exists()
    plain = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert plain.encode("a cat").tolist() == pytest.approx(made.encode("a cat").tolist(), abs=1e-6)
    tuned = train(
        model=str(tmp_path / "out"),
        data=data_file(tmp_path),
        output=str(tmp_path / "tuned"),
        strategy="starbucks",
        strategy_options={"sizes": small.SIZES},
        batch_size=8,
        device="cpu",
        precision="fp32",
        report_to="none",
        quiet=True,
    )
    assert tuned.record["pretraining"]["method"] == "SMAE"


def test_weights_come_back_in_the_type_that_they_came_in(tmp_path: Path) -> None:
    folder = tiny.sentence_model(tmp_path)
    half = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    half.save(str(tmp_path / "half"), create_model_card=False)
    made = small.run(tmp_path, str(tmp_path / "half"), epochs=1)
    assert made.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    tmp_path: Path, model: str, precision: str
) -> None:
    made = [
        small.weights(small.run(tmp_path, model, f"out-{i}", seed=seed, epochs=0.6, precision=precision))
        for i, seed in enumerate((3, 3, 4))
    ]
    small.assert_equal(made[0], made[1])
    assert any(not torch.equal(made[0][name], made[2][name]) for name in made[0])


@pytest.mark.parametrize(
    ("step", "choices"),
    [(5, {}), (8, {"predictions": 9}), (3, {"gradient_accumulation": 2, "epochs": 3})],
)
def test_a_killed_run_that_is_resumed_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path, model: str, step: int, choices: dict[str, Any]
) -> None:
    whole = small.weights(small.run(tmp_path, model, "whole", checkpoints=True, saves=5, **choices))
    killed(tmp_path, model, "broken", step, **choices)
    assert list((tmp_path / "broken.checkpoints").glob("checkpoint-*"))
    found = small.run(tmp_path, model, "broken", checkpoints=True, saves=5, resume=True, **choices)
    small.assert_equal(small.weights(found), whole)
    assert not (tmp_path / "broken.checkpoints").exists()


def test_with_overwrite_an_old_checkpoint_is_not_used(tmp_path: Path, model: str) -> None:
    whole = small.weights(small.run(tmp_path, model, "whole"))
    killed(tmp_path, model, "broken", 6, learning_rate=1e-2)
    small.assert_equal(small.weights(small.run(tmp_path, model, "broken", overwrite=True)), whole)


def test_batches_come_in_the_order_of_similar_lengths(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    collate = TwoMaskedCopies.__call__

    def noting(self: TwoMaskedCopies, rows: list[dict[str, Any]]) -> dict[str, Any]:
        seen.extend(row["text"] for row in rows)
        return collate(self, rows)

    monkeypatch.setattr(TwoMaskedCopies, "__call__", noting)
    small.run(tmp_path, model, seed=7)
    texts = small.texts()
    order = SimilarLengths(texts, 8, seed=7)
    expected = list(order)
    order.epoch = 1
    assert seen == [texts[row] for row in [*expected, *order]]


def test_pairs_are_so_many_texts(tmp_path: Path, model: str) -> None:
    made = small.run(tmp_path, model, data=[data_file(tmp_path, "pairs", 12)], epochs=1)
    # 24 texts in batches of 8.
    assert made.record["pretraining"]["steps"] == 3


def test_sizes_default_to_the_published_pattern(tmp_path: Path, model: str) -> None:
    made = small.run(tmp_path, model, sizes=None, epochs=0.2)
    assert made.record["sizes"] == ["1x8", "3x16", "4x32"]


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"sizes": "5x8"}, "size 5x8 is too deep: the model has 4 layers"),
        ({"sizes": "4x64"}, "size 4x64 is too wide: the model has 32 dims"),
        ({"sizes": "big"}, "'big' is not a grid of sizes"),
        ({"mask": 0}, "mask is 0: expected a number of at least 0.01 and of at most 0.99"),
        ({"decoder_mask": 1.1}, "decoder_mask is 1.1"),
        ({"predictions": 0}, "predictions is 0: expected a whole number above 0"),
        ({"report_to": "tensorbord"}, "report_to is 'tensorbord'"),
        ({"resume": True}, "nothing to resume"),
        ({"data": []}, "no texts to learn from"),
        ({"precision": "bf8"}, "Unknown precision"),
    ],
)
def test_mistakes_are_said_in_one_line_and_leave_nothing(
    tmp_path: Path, model: str, choices: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as raised:
        small.run(tmp_path, model, **choices)
    assert "\n" not in str(raised.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"texts.txt"}


def test_options_and_choices_together_are_refused() -> None:
    with pytest.raises(UserError, match="choices beside options: put seed into"):
        pretrain(PretrainingOptions(), seed=1)


def test_too_little_memory_is_said_with_what_lowers_it(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("matryoshka2d_reproduction.pretraining.objective.MaskedAutoencoding.forward", full)
    with pytest.raises(UserError, match="out of memory with batch size 8: lower --predictions"):
        small.run(tmp_path, model)
    assert not (tmp_path / "out.checkpoints").exists()
