"""Where a run is logged to: TensorBoard's files hold the loss of every size and end up with the model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import matryoshka2d.training.finetuning as training_run
from matryoshka2d.errors import UserError
from matryoshka2d.losses.loss_meter import SizeLosses
from matryoshka2d.training.run_logs import trackers
from tests.training import small


def scalars(folder: Path) -> dict[str, list[float]]:
    """Return tag → values of the only event file below a folder, read by TensorBoard itself."""
    (file,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_run_leaves_the_loss_of_every_size_beside_the_model(tmp_path: Path, model: str) -> None:
    found = small.run(tmp_path, model, strategy="all-sizes", cross_exit=1.0)
    logged = scalars(tmp_path / "out")
    inner = [str(size) for size in found.sizes if size.layers < found.depth]
    assert inner
    for size in inner:
        for kind in ("loss", "alignment", "cross_exit_loss", "cross_exit_alignment"):
            values = logged[f"train/{kind}/{size}"]
            assert values and all(math.isfinite(value) for value in values), (kind, size)
    assert f"train/loss/{found.size}" in logged
    assert len(logged["train/loss"]) == len(logged[f"train/loss/{inner[0]}"])
    assert not (tmp_path / "out.checkpoints").exists()


def test_the_losses_of_the_sizes_add_up_to_the_loss(tmp_path: Path, model: str) -> None:
    small.run(tmp_path, model, strategy="mrl", strategy_options={"dims": "8,32"})
    logged = scalars(tmp_path / "out")
    sums = [a + b for a, b in zip(logged["train/loss/4x8"], logged["train/loss/4x32"], strict=True)]
    assert logged["train/loss"] == pytest.approx(sums, rel=1e-3)


def test_a_mixture_is_told_apart_by_data_set(tmp_path: Path, model: str) -> None:
    data = [small.data_file(tmp_path, form, seed=i) for i, form in enumerate(("pairs", "scored"))]
    small.run(tmp_path, model, data=data, strategy="full")
    logged = scalars(tmp_path / "out")
    assert {"train/pairs/loss/4x32", "train/scored/loss/4x32"} <= set(logged)


def test_none_logs_nothing(tmp_path: Path, model: str) -> None:
    small.run(tmp_path, model, report_to="none")
    assert not list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_that_fails_at_its_first_step_leaves_nothing(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopError(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise StopError

    monkeypatch.setattr(training_run.ElasticLoss, "forward", stop)
    with pytest.raises(StopError):
        small.run(tmp_path, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl"]


@pytest.mark.parametrize("name", ["tensorbord", "wandb"])
def test_an_unknown_or_absent_tracker_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transformers.integrations.integration_utils.get_available_reporting_integrations",
        lambda: ["tensorboard"],
    )
    with pytest.raises(UserError, match=f"report_to is '{name}'") as raised:
        trackers(name)
    assert "\n" not in str(raised.value)


def test_the_names_that_the_trainer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transformers.integrations.integration_utils.get_available_reporting_integrations",
        lambda: ["tensorboard", "wandb"],
    )
    assert trackers("tensorboard, wandb") == trackers("all") == ["tensorboard", "wandb"]
    assert trackers("none") == trackers("") == []


def test_means_are_over_the_steps_that_had_a_size() -> None:
    import torch

    losses = SizeLosses()
    for step in range(6):
        names = ["loss/2x8", f"loss/1x{step % 2}"]
        losses.add(names, [torch.tensor(float(step)), torch.tensor(10.0 + step, requires_grad=True)])
    assert losses.take() == {"loss/2x8": 2.5, "loss/1x0": 12.0, "loss/1x1": 13.0}


def test_the_state_of_a_checkpoint_has_them_too(tmp_path: Path, model: str) -> None:
    seen: list[dict[str, float]] = []

    class Looks(training_run.ElasticTrainer):
        def _save_checkpoint(self, model: object, trial: object) -> None:
            super()._save_checkpoint(model, trial)
            state = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / "trainer_state.json"
            seen.extend(json.loads(state.read_text())["log_history"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "ElasticTrainer", Looks)
        small.run(tmp_path, model, strategy="full", checkpoints=True)
    assert any("loss/4x32" in entry for entry in seen)
