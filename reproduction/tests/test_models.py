"""How the kinds of methods make their models: each against what it is said to be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reproduction.tests.conftest import request_of
from sentence_transformers import SentenceTransformer
from tests import tiny

from matryoshka2d import ElasticEncoder, Size, UserError
from matryoshka2d.training import train
from matryoshka2d.training.checkpoints import Elapsed
from matryoshka2d.training.rotation import Search
from matryoshka2d.training.trainer import ElasticTrainer
from matryoshka2d_reproduction.models import ModelStore, PeerTrainer, average_models, keep_layers
from matryoshka2d_reproduction.plan import Backbone
from matryoshka2d_reproduction.runs import Run, effective_options


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    request = request_of(tmp_path_factory.mktemp("making"))
    return ModelStore(request.plan, request.data_folder, request.cache)


def run(method: str, size: str | None = None, seed: int = 0) -> Run:
    return Run(method, "tiny", "toy", seed, Size.parse(size) if size else None)


def weights(path: str) -> dict[str, torch.Tensor]:
    return ElasticEncoder(path, device="cpu").state_dict()


class Captured(Exception):  # noqa: N818 - not an error, a way out of a training run
    """Carries the batches that a trainer would have trained on."""


def batches(store: ModelStore, method: str, trainer: type[Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the token ids of every batch of a method's training, column by column."""

    def capture(self: Any, **_: Any) -> None:
        rows = [
            {key: value.tolist() for key, value in batch.items() if key.endswith("input_ids")}
            for batch in self.get_train_dataloader()
        ]
        raise Captured(rows)

    monkeypatch.setattr(trainer, "train", capture)
    with pytest.raises(Captured) as captured:
        store.model(run(method, seed=3))
    monkeypatch.undo()
    return list(captured.value.args[0])


def test_the_peer_sees_the_same_batches_in_the_same_order(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = batches(store, "ours", ElasticTrainer, monkeypatch)
    theirs = batches(store, "theirs", PeerTrainer, monkeypatch)
    assert len(ours) == 4
    assert ours == theirs


def test_the_peer_trains_the_librarys_own_loss(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers.sentence_transformer import losses

    seen: list[Any] = []

    def note(trainer: Any) -> None:
        seen.append(trainer)

    monkeypatch.setattr(PeerTrainer, "train", note)
    store.model(run("theirs", seed=4))
    (trainer,) = seen
    assert type(trainer.loss) is losses.Matryoshka2dLoss
    assert type(trainer.loss.loss) is losses.MatryoshkaLoss
    assert type(trainer.loss.loss.loss) is losses.MultipleNegativesRankingLoss
    assert (trainer.args.warmup_steps, trainer.args.weight_decay) == (0.1, 0.01)
    assert trainer.args.learning_rate == 1e-3


def test_the_seconds_of_a_killed_run_count_where_it_goes_on(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = dataclasses.replace(
        store.plan, defaults={**store.plan.defaults, "checkpoints": True, "evaluations": 4}
    )
    ahead = dataclasses.replace(store.plan, defaults={**store.plan.defaults, "workers": 2})
    assert ModelStore(ahead, store.data_folder, store.cache).key(run("plain")) == store.key(run("plain"))
    lasting = ModelStore(goes_on, store.data_folder, store.cache)
    assert lasting.key(run("plain", seed=5)) == store.key(run("plain", seed=5))

    def die(self: Elapsed, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise Captured

    monkeypatch.setattr(Elapsed, "on_step_end", die)
    with pytest.raises(Captured):
        lasting.model(run("plain", seed=5))
    monkeypatch.undo()
    state = max((store.cache / "models").rglob("trainer_state.json"))
    assert state.parent.name == "checkpoint-2"
    kept = json.loads(state.read_text())
    kept["stateful_callbacks"]["Elapsed"]["args"]["before"] = 500.0
    state.write_text(json.dumps(kept))
    assert 500 < lasting.model(run("plain", seed=5)).cost["train_seconds"] < 600


def test_a_separate_model_is_cut_before_it_is_trained_and_trained_at_its_width(store: ModelStore) -> None:
    made = store.model(run("separate", "1x8"))
    encoder = ElasticEncoder(made.path, device="cpu")
    assert (encoder.depth, encoder.width) == (1, 16)
    assert [str(size) for size in encoder.sizes] == ["1x8"]
    assert made.cost["train_seconds"] > 0
    # The same training by hand.
    whole = ElasticEncoder(store.backbone("tiny"), device="cpu")
    folder = Path(made.path).parent / "by-hand"
    whole.truncate("1x16").save(str(folder / "start"))
    by_hand = train(
        model=str(folder / "start"),
        data=store.files(store.plan.data["toy"]),
        limit=16,
        output=str(folder / "end"),
        strategy="full",
        strategy_options={"dims": 8},
        batch_size=4,
        precision="fp32",
        checkpoints=False,
        quiet=True,
    )
    for name, tensor in weights(made.path).items():
        torch.testing.assert_close(tensor, by_hand.state_dict()[name])


def test_dims_that_are_cut_off_get_no_gradient_from_full(tmp_path: Path) -> None:
    from matryoshka2d.losses.elastic_loss import ElasticLoss
    from matryoshka2d.losses.strategies import make_strategy

    encoder = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
    loss = ElasticLoss(encoder, "infonce", make_strategy("full", dims=8))
    features = [encoder.preprocess([t, u]) for t, u in (tiny.TEXTS[:2], tiny.TEXTS[2:4])]
    loss(features).backward()
    last = encoder.base.encoder.layer[-1].output.LayerNorm.bias.grad
    assert last is not None
    assert (last[:8] != 0).any()
    assert (last[8:] == 0).all()
    with pytest.raises(UserError, match="too wide"):
        ElasticLoss(encoder, "infonce", make_strategy("full", dims=99)).plan()


def test_an_average_is_that_of_the_weights_and_a_missing_head_is_the_identity(tmp_path: Path) -> None:
    base = tiny.sentence_model(tmp_path)
    plain, headed = ElasticEncoder(base, device="cpu"), ElasticEncoder(base, device="cpu")
    with torch.no_grad():
        plain.base.encoder.layer[0].output.dense.weight.add_(1.0)
        headed.add_heads().at(1).linear.weight.mul_(3.0)
    for name, encoder in (("plain", plain), ("headed", headed)):
        encoder.save(str(tmp_path / name), create_model_card=False)
    paths = [str(tmp_path / "plain"), str(tmp_path / "headed")]
    average_models(paths, [1.0, 3.0], tmp_path / "both")
    both = ElasticEncoder(str(tmp_path / "both"), device="cpu")
    own = headed.base.encoder.layer[0].output.dense.weight
    torch.testing.assert_close(both.base.encoder.layer[0].output.dense.weight, own + 0.25)
    assert both.heads is not None
    expected = torch.eye(tiny.WIDTH) * (0.25 + 0.75 * 3.0)
    torch.testing.assert_close(both.heads.at(1).linear.weight, expected)


@pytest.mark.parametrize("shares", [[0.0, 0.0], [1.0, -1.0]])
def test_weights_that_sum_to_nothing_are_refused(tmp_path: Path, shares: list[float]) -> None:
    model = tiny.sentence_model(tmp_path)
    with pytest.raises(UserError, match="expected more than 0"):
        average_models([model, model], shares, tmp_path / "out")


def test_a_turned_model_is_not_averaged(tmp_path: Path) -> None:
    model = tiny.sentence_model(tmp_path / "m")
    encoder = ElasticEncoder(model, device="cpu")
    encoder.rotate(np.eye(encoder.width))
    encoder.save(str(tmp_path / "turned"), create_model_card=False)
    with pytest.raises(UserError, match=r"a rotated model cannot be averaged: .*rotate: false"):
        average_models([model, str(tmp_path / "turned")], [1.0, 1.0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rotation_turns_the_model_of_the_method_that_it_is_of(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A toy's steps are few, so that each goes far.
    monkeypatch.setattr(Search.__init__, "__defaults__", ((1,), 8, 20, 0.05, 0.05))
    assert Search().rate == 0.05
    turned = ElasticEncoder(store.model(run("turned")).path, device="cpu")
    of = ElasticEncoder(store.model(run("ours")).path, device="cpu")
    rotation = turned.state_dict()["rotation.linear.weight"].numpy().T
    assert np.abs(rotation - np.eye(turned.width)).max() > 1e-2
    for n, vectors in of.exits(tiny.TEXTS).items():
        np.testing.assert_allclose(turned.exits(tiny.TEXTS)[n], vectors @ rotation, atol=1e-5)


def test_models_of_other_depth_are_not_averaged(tmp_path: Path) -> None:
    models = [tiny.sentence_model(tmp_path / str(n), num_hidden_layers=n) for n in (2, 3)]
    with pytest.raises(UserError, match="one architecture and depth"):
        average_models(models, [1.0, 1.0], tmp_path / "out")


def test_a_teacher_or_start_that_is_a_method_is_its_model_of_the_same_seed(store: ModelStore) -> None:
    options = store.training(run("taught", seed=1), Path("out"))
    assert options.teacher == store.model(run("plain", seed=1)).path
    assert options.model == store.plan.backbones["tiny"].model


@pytest.mark.parametrize(
    ("method", "strategy"), [("separate", "full"), ("theirs", "matryoshka2d"), ("fitted", "full")]
)
def test_what_is_said_of_a_kind_with_a_way_of_its_own_is_not_the_default_strategy(
    store: ModelStore, method: str, strategy: str
) -> None:
    said = effective_options(store.plan, run(method))
    assert said["strategy"] == strategy
    assert not {"heads", "fit_heads", "teacher"} & set(said)
    assert said["top_share"] == 1.0


def test_no_dropout_is_another_model_than_the_dropout_that_the_model_brings(store: ModelStore) -> None:
    def key(**options: Any) -> str:
        methods = dict(store.plan.methods)
        methods["plain"] = dataclasses.replace(
            methods["plain"], options={**methods["plain"].options, **options}
        )
        plan = dataclasses.replace(store.plan, methods=methods)
        assert effective_options(plan, run("plain")).get("dropout") == options.get("dropout")
        return ModelStore(plan, store.data_folder, store.cache).key(run("plain"))

    assert len({key(), key(dropout=0), key(dropout=0.1)}) == 3


class TestPruning:
    def test_the_layers_that_are_kept_are_those_that_were_named(self, tmp_path: Path) -> None:
        whole = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
        pruned = keep_layers(whole, [1, 4])
        layers = pruned[0].model.encoder.layer
        assert len(layers) == 2
        for layer, number in zip(layers, (1, 4), strict=True):
            source = whole.base.encoder.layer[number - 1].state_dict()
            assert all(torch.equal(tensor, source[name]) for name, tensor in layer.state_dict().items())
        pruned.save(str(tmp_path / "pruned"))
        assert (
            SentenceTransformer(str(tmp_path / "pruned"), device="cpu")[0].model.config.num_hidden_layers == 2
        )

    @pytest.mark.parametrize("layers", [[], [0, 1], [2, 1], [1, 1], [5]])
    def test_layers_that_do_not_exist_are_refused(self, tmp_path: Path, layers: list[int]) -> None:
        whole = ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")
        with pytest.raises(UserError, match="expected ascending numbers from 1 to 4"):
            keep_layers(whole, layers)

    def test_a_pruned_backbone_is_taught_by_the_whole_before_anything_else(self, tmp_path: Path) -> None:
        request = request_of(tmp_path, backbones={"tiny": {"model": "replaced", "layers": [1, 3]}})
        backbone: Backbone = request.plan.backbones["tiny"]
        taught = dataclasses.replace(
            backbone, distill={"data": "toy", "batch_size": 4, "learning_rate": 1e-2}
        )
        stores = [
            ModelStore(
                dataclasses.replace(request.plan, backbones={"tiny": one}), request.data_folder, request.cache
            )
            for one in (backbone, taught)
        ]
        first, second = (ElasticEncoder(store.backbone("tiny"), device="cpu") for store in stores)
        assert first.depth == second.depth == 2
        assert not torch.equal(
            first.base.encoder.layer[0].output.dense.weight, second.base.encoder.layer[0].output.dense.weight
        )
        assert stores[0].key(run("plain")) != stores[1].key(run("plain"))
