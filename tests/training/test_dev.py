"""The dev set picks the best checkpoint, and the result is that checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.size import Size
from matryoshka2d.training.trainer import DevGrid, dev_grid
from tests.training import small


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, Tensor]]]:
    """Return the list in which step and weights of every look at dev are noted."""
    found: list[tuple[int, dict[str, Tensor]]] = []
    call = DevGrid.__call__

    def watched(self: DevGrid, model: Any, output_path: Any = None, epoch: int = -1, steps: int = -1) -> Any:
        found.append((steps, small.weights(model)))
        return call(self, model, output_path, epoch, steps)

    monkeypatch.setattr(DevGrid, "__call__", watched)
    return found


def score(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let the looks at dev find these scores, one after the other."""
    left = iter(scores)
    values = DevGrid.__call__

    def scored(self: DevGrid, *args: Any, **kwargs: Any) -> dict[str, float]:
        return {**values(self, *args, **kwargs), "dev_mean": next(left)}

    monkeypatch.setattr(DevGrid, "__call__", scored)


@pytest.mark.parametrize("best", range(4))
def test_the_result_is_the_checkpoint_with_the_best_mean(
    tmp_path: Path,
    model: str,
    looks: list[tuple[int, dict[str, Tensor]]],
    monkeypatch: pytest.MonkeyPatch,
    best: int,
) -> None:
    score(monkeypatch, [90.0 if look == best else 10.0 + look for look in range(4)])
    found = small.run(tmp_path, model, dev=small.dev_file(tmp_path), epochs=2, evaluations=4)
    assert [steps for steps, _ in looks] == [3, 6, 9, 12]
    expected = looks[best][1]
    assert any(not torch.equal(expected[name], looks[best - 1][1][name]) for name in expected)
    for weights in (small.weights(found), small.weights(small.load(tmp_path / "out"))):
        assert set(weights) == set(expected)
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not (tmp_path / "out.checkpoints").exists()


@pytest.mark.parametrize(
    ("evaluations", "expected"), [(1, [6]), (2, [3, 6]), (4, [2, 4, 6]), (100, [1, 2, 3, 4, 5, 6])]
)
def test_a_run_looks_at_dev_as_often_as_asked_and_always_at_its_end(
    tmp_path: Path,
    model: str,
    looks: list[tuple[int, dict[str, Tensor]]],
    evaluations: int,
    expected: list[int],
) -> None:
    small.run(tmp_path, model, dev=small.dev_file(tmp_path), evaluations=evaluations)
    assert [steps for steps, _ in looks] == expected


def test_rates_may_rise_over_the_whole_run(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    small.run(tmp_path, model, warmup=1.0, strategy="2dmse")
    np.testing.assert_allclose(rates, [1e-3 * n / 6 for n in range(6)], rtol=1e-6)


def test_dev_does_not_change_what_is_learnt(tmp_path: Path, model: str) -> None:
    without = small.weights(small.run(tmp_path, model, "without", strategy="2dmse"))
    dev = small.dev_file(tmp_path)
    # The last look alone: no choice between checkpoints.
    with_dev = small.weights(small.run(tmp_path, model, "with", strategy="2dmse", dev=dev, evaluations=1))
    assert all(torch.equal(without[name], with_dev[name]) for name in without)


def test_the_metric_is_the_mean_over_sizes_beside_the_smallest_and_the_largest(
    tmp_path: Path, model: str
) -> None:
    encoder = small.load(Path(model))
    grid = dev_grid(small.dev_file(tmp_path), "1x8 4x32 2x16")
    assert grid.sizes == (Size(1, 8), Size(2, 16), Size(4, 32))
    (dev,) = grid.sets
    assert len(dev) == 8
    values = grid.grid(encoder).values()
    assert grid(encoder) == {
        "dev_mean": pytest.approx(sum(values.values()) / 3),
        "dev_1x8": values[Size(1, 8)],
        "dev_4x32": values[Size(4, 32)],
    }
    assert grid.primary_metric == "dev_mean"


def test_the_sizes_that_are_trained_are_judged_unless_others_are_named(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[tuple[str, ...]] = []
    call = DevGrid.__call__

    def watched(self: DevGrid, *args: Any, **kwargs: Any) -> Any:
        judged.append(tuple(map(str, self.sizes)))
        return call(self, *args, **kwargs)

    monkeypatch.setattr(DevGrid, "__call__", watched)
    choices = {"strategy_options": {"sizes": "1x8 4x32"}, "dev": small.dev_file(tmp_path), "limit": 4}
    small.run(tmp_path, model, "a", **choices)
    small.run(tmp_path, model, "b", dev_sizes="2-3x16", **choices)
    assert set(judged[: len(judged) // 2]) == {("1x8", "4x32")}
    assert set(judged[len(judged) // 2 :]) == {("2x16", "3x16")}


class TestMistakes:
    """Each is one line, and no training happens."""

    @pytest.fixture(autouse=True)
    def nothing_is_trained(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forward(*_: Any, **__: Any) -> Any:
            raise AssertionError("the model ran")

        monkeypatch.setattr(SentenceTransformer, "forward", forward)
        monkeypatch.setattr(ElasticEncoder, "exit_vectors", forward)

    @pytest.mark.parametrize(
        ("choices", "words"),
        [
            ({"dev": "nothing.tsv"}, "nothing.tsv"),
            ({"dev_sizes": "9x8"}, "9x8 is too deep: the model has 4 layers"),
            ({"dev_sizes": "big"}, "'big' is not a grid of sizes"),
        ],
    )
    def test_wrong_dev_files_and_sizes(
        self, tmp_path: Path, model: str, choices: dict[str, str], words: str
    ) -> None:
        with pytest.raises(UserError, match=words) as raised:
            small.run(tmp_path, model, **{"dev": small.dev_file(tmp_path), **choices})
        assert "\n" not in str(raised.value)

    def test_sizes_without_a_dev_set(self, tmp_path: Path, model: str) -> None:
        with pytest.raises(UserError, match="dev_sizes without a dev set") as raised:
            small.run(tmp_path, model, dev_sizes="1x8")
        assert "\n" not in str(raised.value)
