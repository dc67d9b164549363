"""ElasticLoss: one pass a step, stock trainers, nothing replaced, plans fixed by seed and step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.losses.elastic_loss import ElasticLoss, loss_parts, sum_of
from matryoshka2d.losses.objectives import CoSENT, Distillation, InfoNCE, Objective
from matryoshka2d.losses.objectives.distillation import batch_similarity_kl
from matryoshka2d.losses.strategies import (
    DEFAULT_STRATEGY,
    STRATEGIES,
    AllSizes,
    Full,
    Shape,
    TwoDMSE,
    make_strategy,
)
from matryoshka2d.losses.strategies.alignment import PcaTarget, SimilarityKL
from matryoshka2d.losses.strategies.base import Pull, StepPlan, StepRandom, Term
from matryoshka2d.losses.strategies.cross_exit import with_cross_exit
from matryoshka2d.size import Size
from matryoshka2d.training.teacher import TeacherVectors
from tests import tiny

ANCHORS = tiny.TEXTS
POSITIVES = ["the cat", "a dog runs", "the red house", "a river runs slowly", "a cat sat"]
NEGATIVES = ["the sun", "a tree", "a blue cat", "rain", "the dog on the mat"]
DATA = {
    "pairs": {"anchor": ANCHORS, "positive": POSITIVES},
    "triplets": {"anchor": ANCHORS, "positive": POSITIVES, "negative": NEGATIVES},
    "scored": {"sentence1": ANCHORS, "sentence2": POSITIVES, "score": [0.1, 0.9, 0.4, 0.5, 1.0]},
}
OBJECTIVES = {"pairs": "infonce", "triplets": "angle", "scored": "cosent"}


@pytest.fixture
def encoder(tmp_path: Path) -> ElasticEncoder:
    return ElasticEncoder(tiny.sentence_model(tmp_path), device="cpu")


@pytest.fixture
def still(tmp_path: Path) -> ElasticEncoder:
    """Return an encoder without dropout."""
    folder = tiny.sentence_model(tmp_path, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return ElasticEncoder(folder, device="cpu")


def columns_of(model: SentenceTransformer, *columns: list[str]) -> list[dict[str, Any]]:
    return [model.preprocess(column) for column in columns]


class TestOnePass:
    """Neither layers nor dims cost a pass of their own."""

    @pytest.mark.parametrize("name", STRATEGIES)
    @pytest.mark.parametrize(("rows_per_group", "groups"), [(48, 1), (5, 3), (4, 4)])
    def test_each_group_of_texts_runs_once_through_the_first_layer(
        self, encoder: ElasticEncoder, name: str, rows_per_group: int, groups: int
    ) -> None:
        ran: list[int] = []
        for layer, module in enumerate(encoder.base.encoder.layer, start=1):
            module.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        loss = ElasticLoss(encoder, "infonce", name, rows_per_group=rows_per_group)
        loss(columns_of(encoder, ANCHORS, POSITIVES, NEGATIVES)).backward()
        assert ran == [1, 2, 3, 4] * groups

    def test_layers_above_the_deepest_of_the_plan_do_not_run(self, encoder: ElasticEncoder) -> None:
        class Shallow(Full):
            def plan(self, shape: Any, rng: Any) -> Any:
                return super().plan(type(shape)(2, 8), rng)

        ran: list[int] = []
        for layer, module in enumerate(encoder.base.encoder.layer, start=1):
            module.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        ElasticLoss(encoder, "infonce", Shallow())(columns_of(encoder, ANCHORS, POSITIVES))
        assert ran == [1, 2]


class WatchedInfoNCE(InfoNCE):
    """Notes which modules have a replaced `forward` while the loss is computed."""

    def __call__(self, columns: Any, labels: Tensor | None = None) -> Tensor:
        replaced.extend(name for name, module in watched.named_modules() if "forward" in vars(module))
        calls.append(len(columns))
        return super().__call__(columns, labels)


watched: nn.Module
replaced: list[str] = []
calls: list[int] = []


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_forward_is_ever_replaced(encoder: ElasticEncoder, name: str) -> None:
    global watched  # noqa: PLW0603
    watched = encoder
    replaced.clear()
    calls.clear()
    inside: list[str] = []
    for module in encoder.modules():
        module.register_forward_pre_hook(lambda m, _: inside.extend(["x"] * ("forward" in vars(m))))
    before = {name: type(module) for name, module in encoder.named_modules()}
    ElasticLoss(encoder, WatchedInfoNCE(), name)(columns_of(encoder, ANCHORS, POSITIVES)).backward()
    assert calls
    assert replaced == inside == []
    assert {name: type(module) for name, module in encoder.named_modules()} == before
    assert not any("forward" in vars(module) for module in encoder.modules())


class TestStockTrainer:
    """A plain script with sentence-transformers' own trainer works."""

    def train(
        self, model: ElasticEncoder, tmp_path: Path, dataset: Any, loss: Any, **arguments: Any
    ) -> SentenceTransformerTrainer:
        args = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=2,
            per_device_train_batch_size=3,
            learning_rate=1e-3,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            use_cpu=True,
            **arguments,
        )
        trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=dataset, loss=loss)
        trainer.train()
        return trainer

    def assert_trained(self, trainer: SentenceTransformerTrainer, before: dict[str, Tensor]) -> None:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert len(losses) == 2
        assert all(math.isfinite(loss) and loss > 0 for loss in losses)
        assert any(not torch.equal(now, before[name]) for name, now in trainer.model.state_dict().items())

    @pytest.mark.parametrize("form", DATA)
    def test_two_steps(self, encoder: ElasticEncoder, tmp_path: Path, form: str) -> None:
        before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        loss = ElasticLoss(encoder, OBJECTIVES[form])
        trainer = self.train(encoder, tmp_path, Dataset.from_dict(DATA[form]), loss)
        self.assert_trained(trainer, before)
        assert loss.step == 2

    def test_several_data_sets_with_a_loss_each(self, encoder: ElasticEncoder, tmp_path: Path) -> None:
        before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        datasets = {form: Dataset.from_dict(rows) for form, rows in DATA.items()}
        losses = {form: ElasticLoss(encoder, OBJECTIVES[form], "2dmse") for form in DATA}
        trainer = self.train(encoder, tmp_path, datasets, losses, multi_dataset_batch_sampler="round_robin")
        self.assert_trained(trainer, before)
        assert [losses[form].step for form in DATA] == [1, 1, 0]

    def test_the_trainers_own_model_card_and_checkpoint_can_be_written(
        self, encoder: ElasticEncoder, tmp_path: Path
    ) -> None:
        trainer = self.train(encoder, tmp_path, Dataset.from_dict(DATA["pairs"]), ElasticLoss(encoder))
        trainer.save_model(str(tmp_path / "saved"))
        card = (tmp_path / "saved" / "README.md").read_text()
        assert "ElasticLoss" in card
        assert "2402.14776" in card
        assert ElasticEncoder(str(tmp_path / "saved"), device="cpu").depth == tiny.LAYERS

    def test_prompts_by_column(self, encoder: ElasticEncoder, tmp_path: Path) -> None:
        encoder.set_pooling_include_prompt(False)
        before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        prompts = {"anchor": "query : ", "positive": "passage : the "}
        dataset = Dataset.from_dict(DATA["pairs"])
        trainer = self.train(encoder, tmp_path, dataset, ElasticLoss(encoder), prompts=prompts)
        self.assert_trained(trainer, before)


class TestPlans:
    """Which sizes a step trains follows from the seed and the step number alone."""

    def plans(self, model: ElasticEncoder, seed: int, steps: range = range(8)) -> list[Any]:
        loss = ElasticLoss(model, strategy="2dmse", seed=seed)
        found = []
        for step in steps:
            loss.step = step
            found.append(loss.plan())
        return found

    def test_the_same_seed_gives_the_same_plans_whatever_else_is_drawn(self, encoder: ElasticEncoder) -> None:
        first = self.plans(encoder, 5)
        torch.rand(3)
        assert self.plans(encoder, 5) == first
        assert self.plans(encoder, 5, range(4, 8)) == first[4:]

    def test_another_seed_or_step_gives_other_plans(self, encoder: ElasticEncoder) -> None:
        assert self.plans(encoder, 5) != self.plans(encoder, 6)
        assert len(set(self.plans(encoder, 5))) > 2

    def test_a_training_step_counts_and_an_evaluation_does_not(self, encoder: ElasticEncoder) -> None:
        loss = ElasticLoss(encoder)
        columns = columns_of(encoder, ANCHORS, POSITIVES)
        loss.train()(columns)
        loss.eval()(columns)
        loss.train()(columns)
        assert loss.step == 2


class TestDistillation:
    """The full size, or vectors looked up by row number, teach the other sizes."""

    def test_the_full_size_teaches_and_is_not_taught(self, still: ElasticEncoder) -> None:
        strategy = TwoDMSE(alignment="none", layers_per_step=-1, dims=(8,))
        columns = columns_of(still, ANCHORS, POSITIVES)
        found = ElasticLoss(still, Distillation(), strategy)(columns)
        exits = {n: [still.exit_vectors(column, [n])[n] for column in columns] for n in range(1, 5)}
        teacher = torch.stack(exits[4], dim=1).detach()
        expected = sum(
            term.weight * Distillation()([column[:, : term.dims] for column in exits[term.layers]], teacher)
            for term in ElasticLoss(still, Distillation(), strategy).plan().terms
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert found > 0.01

    def test_without_a_teacher_the_full_size_alone_has_nothing_to_learn(self, still: ElasticEncoder) -> None:
        found = ElasticLoss(still, Distillation(), "full")(columns_of(still, ANCHORS))
        assert found.abs() < 1e-6
        found.backward()
        assert all(p.grad is None or p.grad.abs().max() < 1e-5 for p in still.parameters())

    def test_a_lookup_gets_the_labels_and_its_vectors_are_the_target(self, still: ElasticEncoder) -> None:
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(9, 20, generator=generator)
        text_of = torch.arange(10).reshape(5, 2) % 9
        lookup = TeacherVectors(vectors.numpy(), text_of.numpy())
        columns = columns_of(still, ANCHORS[:3], POSITIVES[:3])
        loss = ElasticLoss(still, Distillation(), Full(), teacher=lookup)
        rows = torch.tensor([4, 0, 2])
        full = [still.exit_vectors(column, [4])[4] for column in columns]
        expected = Distillation()(full, vectors[text_of[rows]])
        torch.testing.assert_close(loss(columns, rows), expected, rtol=1e-4, atol=1e-5)
        assert (loss(columns, rows.flip(0)) - expected).abs() > 1e-3

    def test_labels_of_other_objectives_are_handed_on(self, still: ElasticEncoder) -> None:
        loss = ElasticLoss(still, "cosent", "full")
        columns = columns_of(still, ANCHORS, POSITIVES)
        scores = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
        assert (loss(columns, scores) - loss(columns, scores.flip(0))).abs() > 1e-3


def test_heads_of_inner_exits_are_trained_and_the_full_size_has_none(encoder: ElasticEncoder) -> None:
    heads = encoder.add_heads()
    ElasticLoss(encoder, "infonce", AllSizes())(columns_of(encoder, ANCHORS, POSITIVES)).backward()
    assert heads.layers() == [1, 2, 3]
    for layer in heads.layers():
        grad = heads.dense[str(layer)].linear.weight.grad
        assert grad is not None
        assert grad.abs().max() > 0


def test_the_model_card_is_told_objective_strategy_and_seed(encoder: ElasticEncoder) -> None:
    loss = ElasticLoss(encoder, "infonce", "mrl", seed=7)
    assert loss.get_config_dict() == {
        "objective": repr(loss.objective),
        "strategy": repr(make_strategy("mrl")),
        "seed": 7,
    }


class TestMistakes:
    """Each is one line that says what was wrong and how to mend it."""

    def check(self, raised: pytest.ExceptionInfo[UserError], *words: str) -> None:
        message = str(raised.value)
        assert "\n" not in message
        assert all(word in message for word in words), message

    def test_a_plain_model(self, minilm: str) -> None:
        with pytest.raises(UserError) as raised:
            ElasticLoss(SentenceTransformer(minilm, device="cpu"))  # type: ignore[arg-type]
        self.check(raised, "ElasticEncoder", "SentenceTransformer")

    def test_an_unknown_objective_or_strategy(self, encoder: ElasticEncoder) -> None:
        with pytest.raises(UserError) as raised:
            ElasticLoss(encoder, "infonec")
        self.check(raised, "infonec", "Did you mean 'infonce'?")
        with pytest.raises(UserError) as raised:
            ElasticLoss(encoder, strategy="2dsme")
        self.check(raised, "2dsme", "Did you mean '2dmse'?")

    def test_an_objective_that_does_not_fit_the_data(self, encoder: ElasticEncoder) -> None:
        with pytest.raises(UserError) as raised:
            ElasticLoss(encoder, "cosent")(columns_of(encoder, ANCHORS, POSITIVES))
        self.check(raised, "cosent", "2 text columns", "no labels")

    def test_sizes_that_the_model_lacks(self, encoder: ElasticEncoder) -> None:
        with pytest.raises(UserError) as raised:
            ElasticLoss(encoder, strategy=make_strategy("all-sizes", sizes="9x8")).plan()
        self.check(raised, "9x8", "too deep", "4 layers")

    def test_a_teacher_without_row_numbers(self, encoder: ElasticEncoder) -> None:
        lookup = TeacherVectors(torch.zeros(1, 8).numpy(), torch.zeros(5, 1, dtype=torch.int64).numpy())
        with pytest.raises(UserError) as raised:
            ElasticLoss(encoder, "distillation", teacher=lookup)(columns_of(encoder, ANCHORS))
        self.check(raised, "row numbers")

    def test_a_teacher_that_no_objective_asks_for(self, encoder: ElasticEncoder) -> None:
        with pytest.raises(UserError) as raised:
            ElasticLoss(encoder, "infonce", "2dmse", teacher=lambda rows: rows)
        self.check(raised, "teacher", "all-sizes", "InfoNCE", "TwoDMSE")

    def test_a_frozen_teacher_without_row_numbers(self, encoder: ElasticEncoder) -> None:
        lookup = TeacherVectors(np.zeros((5, 4), dtype=np.float32), np.zeros((5, 2), dtype=np.int64))
        with pytest.raises(UserError) as raised:
            ElasticLoss(encoder, "infonce", "all-sizes", teacher=lookup)(
                columns_of(encoder, ANCHORS, POSITIVES)
            )
        self.check(raised, "row numbers")


class TestFrozenTeacher:
    """A strategy may learn from the vectors of a model that is not trained."""

    def teacher(self, columns: int) -> TeacherVectors:
        vectors = np.random.default_rng(0).normal(size=(5 * columns, 7)).astype(np.float32)
        return TeacherVectors(vectors, np.arange(5 * columns).reshape(5, columns))

    @pytest.mark.parametrize("scored", [False, True])
    def test_equals_labels_at_every_size_plus_the_similarities_of_the_teacher(
        self, still: ElasticEncoder, scored: bool
    ) -> None:
        rows = torch.tensor([3, 0, 4, 1, 2])
        scores = torch.tensor(DATA["scored"]["score"])
        columns = columns_of(still, ANCHORS, POSITIVES)
        teacher = self.teacher(2)
        strategy = AllSizes(sizes=(Size(1, 8), Size(4, 8)), inner_weight=2)
        objective = CoSENT() if scored else InfoNCE()
        labels = torch.stack([scores, rows.float()], dim=1) if scored else rows
        found = ElasticLoss(still, objective, strategy, teacher=teacher)(columns, labels)

        exits = {n: [still.exit_vectors(column, [n])[n] for column in columns] for n in (1, 4)}
        theirs = torch.cat(list(teacher(rows).unbind(1)))

        def terms(layers: int, dims: int) -> tuple[Tensor, Tensor]:
            cut = [column[:, :dims] for column in exits[layers]]
            kl = batch_similarity_kl(torch.cat(cut), theirs, 0.05)
            return objective(cut, scores if scored else None), kl

        full, full_kl = terms(4, tiny.WIDTH)
        inner = [terms(1, 8), terms(4, 8)]
        expected = full + 3 * full_kl + 2 * sum(0.1 * label + 3 * kl for label, kl in inner) / 2
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_the_teacher_gets_no_gradient_and_every_exit_does(self, still: ElasticEncoder) -> None:
        loss = ElasticLoss(still, "infonce", "all-sizes", teacher=self.teacher(2))
        loss(columns_of(still, ANCHORS, POSITIVES), torch.arange(5)).backward()
        assert all(p.grad is not None for p in still.base.encoder.parameters())


class Kernels(TorchDispatchMode):
    """Counts the operations that reach the device."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return function(*args, **(kwargs or {}))


class TestTogether:
    """What differs in its exit alone may be computed at once: the same loss, from fewer parts."""

    OBJECTIVES: ClassVar[dict[str, tuple[Objective, bool]]] = {
        "triplets": (InfoNCE(), False),
        "triplets with a teacher": (InfoNCE(), True),
        "texts": (Distillation(match_vectors=True), False),
    }

    @pytest.mark.parametrize("name", STRATEGIES)
    @pytest.mark.parametrize("case", OBJECTIVES)
    def test_the_values_and_gradients_are_those_of_one_by_one(self, name: str, case: str) -> None:
        objective, has_teacher = self.OBJECTIVES[case]
        strategy = make_strategy(name, **({"sizes": "1x8 2x16 3x32"} if name == "starbucks" else {}))
        chance = torch.Generator().manual_seed(1)
        taught = [torch.randn(6, 24, generator=chance) for _ in range(3)] if has_teacher else None
        labels = torch.randn(6, 3, 40, generator=chance) if objective.needs_teacher else None
        plan = with_cross_exit(strategy.plan(Shape(3, 32, has_teacher), StepRandom(0, 0)), Shape(3, 32), 0.5)

        def computed(together: bool) -> tuple[dict[str, float], Tensor, int]:
            torch.manual_seed(2)  # ESE draws
            exits = {n: [torch.randn(6, 32, requires_grad=True) for _ in range(3)] for n in range(4)}
            parts = list(loss_parts(plan, exits, objective, labels, True, taught, together=together))
            sum_of(part.total() for part in parts).backward()
            values = {n: v for part in parts for n, v in zip(part.names, part.values.tolist(), strict=True)}
            grads = [torch.zeros(6, 32) if c.grad is None else c.grad for e in exits.values() for c in e]
            return values, torch.stack(grads), len(parts)

        values, grads, parts = computed(together=False)
        at_once, grads_at_once, fewer = computed(together=True)
        assert at_once == pytest.approx(values, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(grads_at_once, grads, rtol=1e-4, atol=1e-5 * float(grads.abs().max()))
        assert fewer < parts if name == DEFAULT_STRATEGY else fewer <= parts

    def test_what_cannot_be_stacked_goes_by_itself_beside_what_can(self) -> None:
        exits = {n: [torch.randn(4, 8) for _ in range(2)] for n in (1, 2, 3)}
        similar, odd = SimilarityKL(), PcaTarget(exact=True)
        pulls = (
            *(Pull((n, 4), (3, 8), similar) for n in (1, 2)),
            *(Pull((n, 4), (3, 8), odd) for n in (1, 2)),
        )
        parts = list(loss_parts(StepPlan((Term(3, 8),), pulls), exits, InfoNCE(), None, False, together=True))
        assert [len(part.names) for part in parts] == [1, 2, 1, 1]

    def test_a_step_of_all_sizes_asks_for_a_fraction_of_the_kernels(self) -> None:
        plan = AllSizes().plan(Shape(6, 384), StepRandom(0, 0))

        def kernels(together: bool) -> int:
            exits = {n: [torch.randn(4, 384, requires_grad=True) for _ in range(3)] for n in range(1, 7)}
            with Kernels() as counted:
                parts = loss_parts(plan, exits, InfoNCE(), None, True, together=together)
                sum_of(part.total() for part in parts).backward()
            return counted.number

        assert 4 * kernels(together=True) < kernels(together=False)

    def test_large_batches_and_cached_gradients_go_one_by_one(
        self, encoder: ElasticEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[int, ...]] = []
        vmapped = torch.vmap

        def counted(function: Any) -> Any:
            calls.append(())
            return vmapped(function)

        monkeypatch.setattr(torch, "vmap", counted)
        columns = columns_of(encoder, ANCHORS, POSITIVES)
        ElasticLoss(encoder, "infonce", "all-sizes")(columns)
        assert calls
        calls.clear()
        ElasticLoss(encoder, "infonce", "all-sizes", mini_batch_tokens=64)(columns)
        monkeypatch.setattr("matryoshka2d.losses.elastic_loss.TEXTS_AT_ONCE", 4)
        ElasticLoss(encoder, "infonce", "all-sizes")(columns)
        assert not calls
