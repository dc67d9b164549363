from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

from matryoshka2d.data.batch_sampler import (
    DistinctRowsBatchSampler,
    GroupDroppingCollator,
    fold,
    plan_batches,
    row_keys,
)
from matryoshka2d.data.readers import read_rows

Row = dict[str, Any]
Batches = list[list[int]]


def sampler(
    rows: list[Row], batch_size: int, *, drop_last: bool = False, seed: int = 0
) -> DistinctRowsBatchSampler:
    labels = ["label", "score"]
    return DistinctRowsBatchSampler(Dataset.from_list(rows), batch_size, drop_last, labels, seed=seed)


def epoch_of(source: DistinctRowsBatchSampler, epoch: int = 0) -> Batches:
    source.set_epoch(epoch)
    return list(source)


def held(row: Row) -> set[tuple[str, Any]]:
    """Return what the row may not share, by the plainest of definitions."""
    texts = {("text", fold(value)) for name, value in row.items() if name not in ("group", "score")}
    return texts | ({("group", row["group"])} if row.get("group") not in (None, -1) else set())


def assert_distinct(batches: Batches, rows: Sequence[Row]) -> None:
    for batch in batches:
        counts = Counter(key for index in batch for key in held(rows[index]))
        assert all(count == 1 for count in counts.values())


WORD = st.sampled_from(
    ["dog", "Dog", " dog", "cat", "a  cat", "a cat", "bird", "fish", "cow", "hen", "owl", "elk"]
)
ROW = st.fixed_dictionaries({"anchor": WORD, "positive": WORD, "group": st.sampled_from([-1, None, 1, 2, 3])})


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=40), batch_size=st.integers(1, 8), epoch=st.integers(0, 3))
def test_every_row_once_and_nothing_shared(rows: list[Row], batch_size: int, epoch: int) -> None:
    source = sampler(rows, batch_size)
    batches = epoch_of(source, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert len(source) == len(batches)
    assert_distinct(batches, rows)


@settings(max_examples=75, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=40), batch_size=st.integers(1, 8))
def test_drop_last_drops_the_batches_that_are_not_full_and_no_others(
    rows: list[Row], batch_size: int
) -> None:
    every, full = sampler(rows, batch_size), sampler(rows, batch_size, drop_last=True)
    assert list(full) == [batch for batch in every if len(batch) == batch_size]
    assert len(full) == len(list(full))


def grouped_rows(groups: int, size: int = 5) -> list[Row]:
    """Return chains of paraphrases: each positive is the anchor of the group's next row."""
    return [
        {"anchor": f"text {group} {place}", "positive": f"text {group} {place + 1}", "group": f"g{group}"}
        for group in range(groups)
        for place in range(size)
    ]


def test_batches_are_full_but_for_the_last() -> None:
    rows = grouped_rows(groups=201)
    source = sampler(rows, 64)
    for epoch in range(5):
        batches = epoch_of(source, epoch)
        assert [len(batch) for batch in batches] == [64] * 15 + [45]
        assert_distinct(batches, rows)
    assert len(sampler(rows, 64, drop_last=True)) == 15


def test_the_same_seed_and_epoch_give_the_same_batches_in_another_process() -> None:
    rows = grouped_rows(groups=30)
    first, resumed = sampler(rows, 8, seed=3), sampler(rows, 8, seed=3)
    for epoch in range(3):
        epoch_of(first, epoch)
    assert epoch_of(resumed, 2) == epoch_of(first, 2)


def test_epochs_and_seeds_differ() -> None:
    rows = grouped_rows(groups=30)
    source = sampler(rows, 8)
    assert epoch_of(source, 0) != epoch_of(source, 1)
    assert epoch_of(source, 0) == epoch_of(source, 0)
    assert epoch_of(source, 0) != epoch_of(sampler(rows, 8, seed=1), 0)
    # Neighbors change too, not only the order of the batches.
    assert set(map(frozenset, epoch_of(source, 0))).isdisjoint(map(frozenset, epoch_of(source, 1)))


def test_every_pair_of_groups_may_meet() -> None:
    """Dealing is no fixed arrangement: each row meets nearly every row of the other groups."""
    rows = grouped_rows(groups=10, size=4)
    source = sampler(rows, 8)
    met: dict[int, set[int]] = {row: set() for row in range(len(rows))}
    for epoch in range(200):
        for batch in epoch_of(source, epoch):
            for row in batch:
                met[row].update(batch)
    assert min(len(others) for others in met.values()) == 1 + 36


def test_a_batch_may_be_changed_by_its_consumer() -> None:
    source = sampler(grouped_rows(4), 4)
    before = [list(batch) for batch in source]
    for batch in source:
        batch.clear()
    assert list(source) == before


def test_a_row_that_repeats_its_own_text_is_kept() -> None:
    rows = [{"anchor": f"text {n}", "positive": f"TEXT  {n}"} for n in range(10)]
    assert [len(batch) for batch in sampler(rows, 4)] == [4, 4, 2]


def test_a_group_is_no_text_and_scores_are_not_compared() -> None:
    rows = [
        {"anchor": "a", "positive": "b", "group": "1", "score": 0.5},
        {"anchor": "1", "positive": "c", "group": None, "score": 0.5},
        {"anchor": "d", "positive": "e", "group": None, "score": 0.5},
    ]
    assert [len(batch) for batch in sampler(rows, 3)] == [3]


def test_one_text_in_every_row_ends_in_batches_of_one() -> None:
    rows = [{"anchor": "the same", "positive": f"text {n}"} for n in range(50)]
    source = sampler(rows, 8)
    assert [len(batch) for batch in source] == [1] * 50
    assert len(sampler(rows, 8, drop_last=True)) == 0


def test_a_text_in_too_many_rows_leaves_as_many_full_batches_as_there_can_be() -> None:
    rows = [{"text": "the same"}] * 20 + [{"text": f"text {n}"} for n in range(80)]
    lengths = [len(batch) for batch in sampler(rows, 10)]
    # Eight batches take one of the twenty each and 72 others; a ninth would need ten more distinct rows.
    assert lengths[:8] == [10] * 8
    assert len(lengths) == 20
    assert len(sampler(rows, 10, drop_last=True)) == 8


def test_rows_without_texts_are_shuffled() -> None:
    batches = plan_batches(np.empty((5, 0), dtype=np.int64), 2, np.random.default_rng(0))
    assert sorted(row for batch in batches for row in batch) == list(range(5))


def test_keys_number_what_rows_share() -> None:
    rows = Dataset.from_list(
        [
            {"anchor": "a dog", "positive": "A  Dog", "group": "g"},
            {"anchor": "a cat", "positive": "a dog ", "group": None},
            {"anchor": "a hen", "positive": "an owl", "group": "g"},
        ]
    )
    keys = row_keys(rows)
    assert keys.shape == (3, 3)
    shared = [{key for key in row if key >= 0} for row in keys.tolist()]
    assert [len(row) for row in shared] == [2, 1, 1]
    assert shared[1] | shared[2] == shared[0]


def test_an_epoch_of_150_000_rows_is_quick() -> None:
    rows = Dataset.from_list(grouped_rows(groups=30_000))
    started = time.process_time()
    source = DistinctRowsBatchSampler(rows, 64, False, ["score"])
    lengths = {len(batch) for batch in source}
    assert time.process_time() - started < 5  # about 1 on one slow core
    assert lengths == {64, 150_000 % 64}


@pytest.mark.parametrize("groups", [1, 40])
def test_repeats_in_thousands_of_rows_are_quick(groups: int) -> None:
    keys = np.random.default_rng(0).integers(0, groups, (30_000, 1))
    started = time.process_time()
    batches = plan_batches(keys, 64, np.random.default_rng(0))
    assert time.process_time() - started < 5  # about 1 on one slow core
    assert sum(map(len, batches)) == 30_000


# With the trainer


@pytest.fixture
def model(tmp_path: Path) -> SentenceTransformer:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "text",
        *map(str, range(10)),
        *(f"##{n}" for n in range(10)),
    ]
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    transformer = Transformer(str(folder))
    return SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")


@dataclass
class RecordingCollator(GroupDroppingCollator):
    """Keep the rows of each batch, and the names of what the model gets."""

    seen: list[tuple[list[Row], set[str]]] = field(default_factory=list)

    def __call__(self, features: list[Row]) -> dict[str, Any]:
        batch = super().__call__(features)
        self.seen.append((features, set(batch)))
        return batch


def arguments(folder: Path, **options: Any) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder / "out"),
        batch_sampler=DistinctRowsBatchSampler,
        per_device_train_batch_size=8,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=5,
        **options,
    )


def test_the_trainer_takes_the_sampler_and_the_model_sees_no_group(
    tmp_path: Path, model: SentenceTransformer
) -> None:
    rows = Dataset.from_list(grouped_rows(groups=12))
    collator = RecordingCollator(preprocess_fn=model.preprocess)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments(tmp_path, max_steps=2),
        train_dataset=rows,
        loss=MultipleNegativesRankingLoss(model),
        data_collator=collator,
    )
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    result = trainer.train()
    assert result.global_step == 2
    assert np.isfinite(result.training_loss)
    assert any(not torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    expected = list(DistinctRowsBatchSampler(rows, 8, False, seed=5))
    for (batch, names), planned in zip(collator.seen, expected, strict=False):
        assert batch == [rows[row] for row in planned]
        assert len({row["group"] for row in batch}) == len(batch)
        assert not any("group" in name for name in names)
        assert any(name.startswith("positive_") for name in names)


def test_epochs_of_the_trainer_follow_those_of_the_sampler(
    tmp_path: Path, model: SentenceTransformer
) -> None:
    rows = Dataset.from_list(grouped_rows(groups=12))
    collator = RecordingCollator(preprocess_fn=model.preprocess)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments(tmp_path, num_train_epochs=2),
        train_dataset=rows,
        loss=MultipleNegativesRankingLoss(model),
        data_collator=collator,
    )
    assert trainer.train().global_step == 16
    source = DistinctRowsBatchSampler(rows, 8, False, seed=5)
    planned = epoch_of(source, 0) + epoch_of(source, 1)
    assert [batch for batch, _ in collator.seen] == [[rows[row] for row in batch] for batch in planned]


def test_groups_stay_out_of_the_examples_of_the_model_card(
    tmp_path: Path, model: SentenceTransformer
) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [row | ({"group": None} if row["group"] == "g0" else {}) for row in grouped_rows(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_rows = read_rows(path)
    assert train_rows[0]["group"] == -1
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments(tmp_path, max_steps=1, per_device_eval_batch_size=8),
        train_dataset=train_rows,
        eval_dataset=train_rows,
        loss=MultipleNegativesRankingLoss(model),
        data_collator=GroupDroppingCollator(preprocess_fn=model.preprocess),
    )
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    card = model.model_card_data
    examples = [text for widget in card.widget for text in [widget["source_sentence"], *widget["sentences"]]]
    assert examples
    assert all(text.startswith("text ") for text in examples)


def test_a_mixture_with_a_loss_for_each_data_set_is_trained(
    tmp_path: Path, model: SentenceTransformer
) -> None:
    pairs = Dataset.from_list(grouped_rows(groups=8))
    scored = Dataset.from_list(
        [{"sentence1": f"text {n}", "sentence2": f"text 1 {n}", "score": n / 40} for n in range(40)]
    )
    collator = RecordingCollator(preprocess_fn=model.preprocess)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments(tmp_path, num_train_epochs=1),
        train_dataset={"pairs": pairs, "scored": scored},
        loss={"pairs": MultipleNegativesRankingLoss(model), "scored": CoSENTLoss(model)},
        data_collator=collator,
    )
    assert trainer.train().global_step == 10
    assert sum(len(batch) for batch, _ in collator.seen) == 80
    assert not any("group" in name for _, names in collator.seen for name in names)
    assert sum("label" in names for _, names in collator.seen) == 5
