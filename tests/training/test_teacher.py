"""A teacher's vectors are computed once for a teacher and its texts, and looked up by row."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer

import matryoshka2d.training.finetuning as training_run
from matryoshka2d.data import format_of
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.losses.elastic_loss import ElasticLoss
from matryoshka2d.losses.strategies import STRATEGIES
from matryoshka2d.training.teacher import (
    LiveTeacher,
    cache_folder,
    columns_read,
    prompts_read,
    teacher_name,
    teacher_vectors,
    with_teacher,
)
from matryoshka2d.training.training_options import TrainingOptions
from matryoshka2d.training.training_run import resolve
from tests import tiny
from tests.training import small

ROWS = {"anchor": ["a cat", "red house", "the dog runs fast"], "positive": ["cat", "a cat", "red house"]}
COLUMNS = ["anchor", "positive"]


@pytest.fixture
def teacher(tmp_path: Path) -> SentenceTransformer:
    return SentenceTransformer(tiny.sentence_model(tmp_path / "teacher", normalize=False), device="cpu")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list in which every text is noted that any model encodes."""
    texts: list[str] = []
    encode = SentenceTransformer.encode

    def watched(self: SentenceTransformer, sentences: Any, *args: Any, **kwargs: Any) -> Any:
        texts.extend(sentences)
        return encode(self, sentences, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", watched)
    return texts


def test_rows_give_the_vectors_of_their_texts_in_the_order_of_the_columns(
    teacher: SentenceTransformer, cache: Path
) -> None:
    lookup = teacher_vectors(teacher, Dataset.from_dict(ROWS), COLUMNS, cache=cache)
    found = lookup(torch.tensor([2, 0]))
    expected = [[teacher.encode(ROWS[column][row]) for column in COLUMNS] for row in (2, 0)]
    assert found.shape == (2, 2, tiny.WIDTH)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), np.array(expected), atol=1e-5)


def test_every_text_is_encoded_once_and_never_again(
    teacher: SentenceTransformer, cache: Path, encoded: list[str]
) -> None:
    first = teacher_vectors(teacher, Dataset.from_dict(ROWS), COLUMNS, cache=cache)
    assert sorted(encoded) == ["a cat", "cat", "red house", "the dog runs fast"]
    encoded.clear()
    second = teacher_vectors(teacher, Dataset.from_dict(ROWS), COLUMNS, cache=cache)
    assert encoded == []
    rows = torch.arange(3)
    assert torch.equal(first(rows), second(rows))


def files(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def test_nothing_but_the_vectors_is_left_in_the_cache(teacher: SentenceTransformer, cache: Path) -> None:
    teacher_vectors(teacher, Dataset.from_dict(ROWS), COLUMNS, cache=cache)
    (name,) = files(cache)
    assert name.endswith(".npy")


def test_a_run_that_breaks_off_leaves_nothing_in_the_cache(
    teacher: SentenceTransformer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(teacher, "encode", fail)
    with pytest.raises(KeyboardInterrupt):
        teacher_vectors(teacher, Dataset.from_dict(ROWS), COLUMNS, cache=cache)
    assert files(cache) == set()


def pool_by_cls(teacher: SentenceTransformer) -> None:
    teacher[1].pooling_mode = "cls"


def change_a_weight(teacher: SentenceTransformer) -> None:
    with torch.no_grad():
        next(teacher.parameters())[5, 0] += 1e-3


def shorten(teacher: SentenceTransformer) -> None:
    teacher.max_seq_length = 3


def use_a_prompt(teacher: SentenceTransformer) -> None:
    teacher.prompts = {"query": "query : "}
    teacher.default_prompt_name = "query"


def use_another_prompt(teacher: SentenceTransformer) -> None:
    use_a_prompt(teacher)
    teacher.prompts = {"query": "passage : "}


def test_another_teacher_or_other_texts_have_a_file_of_their_own(
    teacher: SentenceTransformer, cache: Path
) -> None:
    def vectors(rows: dict[str, list[str]] = ROWS) -> torch.Tensor:
        return teacher_vectors(teacher, Dataset.from_dict(rows), COLUMNS, cache=cache)(torch.arange(3))

    found = [vectors(), vectors({**ROWS, "positive": ["cat", "a cat", "blue house"]})]
    for change in (change_a_weight, shorten, use_a_prompt, use_another_prompt, pool_by_cls):
        change(teacher)
        found.append(vectors())
        expected = torch.from_numpy(teacher.encode(ROWS["anchor"]))
        torch.testing.assert_close(found[-1][:, 0], expected, rtol=1e-4, atol=1e-5)
    assert len(files(cache)) == len(found)


def test_heads_that_have_no_part_in_the_full_size_do_not_make_another_teacher(
    model: str, cache: Path, encoded: list[str]
) -> None:
    encoder = small.load(Path(model))
    teacher_vectors(encoder, Dataset.from_dict(ROWS), COLUMNS, cache=cache)
    encoder.add_heads()
    teacher_vectors(encoder, Dataset.from_dict(ROWS), COLUMNS, cache=cache)
    assert len(files(cache)) == 1


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "teachers"
    monkeypatch.delenv("MATRYOSHKA2D_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "y"))
    assert cache_folder() == tmp_path / "y" / "matryoshka2d" / "teachers"


class TestInTraining:
    """The original, the model itself or another model may teach."""

    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(tmp_path / "cache"))

    @pytest.fixture
    def lookups(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Return the list in which the teacher of every loss is noted."""
        found: list[Any] = []

        class Watched(ElasticLoss):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                found.append(self.teacher)

        monkeypatch.setattr(training_run, "ElasticLoss", Watched)
        return found

    def run(self, folder: Path, model: str, output: str = "out", **choices: Any) -> ElasticEncoder:
        return small.run(folder, model, output, data=[small.data_file(folder, "texts")], **choices)

    @pytest.mark.parametrize("named", [None, "original"])
    def test_the_original_model_teaches_by_default(
        self, tmp_path: Path, model: str, lookups: list[Any], named: str | None
    ) -> None:
        self.run(tmp_path, model, teacher=named)
        texts = [row["text"] for row in small.rows("texts")]
        expected = SentenceTransformer(model, device="cpu").encode(texts)
        found = lookups[0](torch.arange(len(texts)))[:, 0]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)

    def test_a_second_run_does_not_ask_the_teacher_again(
        self, tmp_path: Path, model: str, encoded: list[str]
    ) -> None:
        first = small.weights(self.run(tmp_path, model))
        assert len(encoded) == small.ROWS
        encoded.clear()
        second = small.weights(self.run(tmp_path, model, "again"))
        assert encoded == []
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_the_model_may_teach_itself_as_it_is_trained(
        self, tmp_path: Path, model: str, lookups: list[Any], encoded: list[str]
    ) -> None:
        self.run(tmp_path, model, teacher="self")
        assert lookups == [None]
        assert encoded == []

    def test_another_model_of_another_width_may_teach(
        self, tmp_path: Path, model: str, lookups: list[Any]
    ) -> None:
        wide = tiny.sentence_model(tmp_path / "wide", hidden_size=48)
        self.run(tmp_path, model, teacher=wide)
        assert lookups[0](torch.arange(2)).shape == (2, 1, 48)

    def test_pairs_may_be_distilled_and_their_scores_are_left_out(
        self, tmp_path: Path, model: str, lookups: list[Any]
    ) -> None:
        data = [small.data_file(tmp_path, "scored")]
        small.run(tmp_path, model, data=data, objective="distillation")
        assert lookups[0](torch.arange(5)).shape == (5, 2, tiny.WIDTH)

    def test_a_teacher_that_is_not_there_is_one_line(self, tmp_path: Path, model: str) -> None:
        shutil.rmtree(tmp_path / "nowhere", ignore_errors=True)
        with pytest.raises(UserError, match="nowhere") as raised:
            self.run(tmp_path, model, teacher=str(tmp_path / "nowhere"))
        assert "\n" not in str(raised.value)

    def test_a_teacher_that_nothing_asks_for_is_one_line(self, tmp_path: Path, model: str) -> None:
        with pytest.raises(UserError, match=r"teacher .*all-sizes .*distillation") as raised:
            small.run(tmp_path, model, teacher="original", strategy="2dmse")
        assert "\n" not in str(raised.value)

    def test_a_fine_tune_cannot_teach_without_labels(self, tmp_path: Path, model: str) -> None:
        with pytest.raises(UserError, match=r"tuned.*labels") as raised:
            self.run(tmp_path, model, teacher="tuned")
        assert "\n" not in str(raised.value)


class TestTranslations:
    """The teacher reads the first text of a row, and its vector is the target of every translation."""

    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(tmp_path / "cache"))

    def run(self, folder: Path, model: str, **choices: Any) -> ElasticEncoder:
        options = {"match_vectors": "true", "similarity_weight": "0"}
        return small.run(
            folder, model, translations=True, teacher="original", objective_options=options, **choices
        )

    @pytest.mark.parametrize("streaming", [False, True])
    def test_a_translation_is_drawn_to_the_vector_of_what_it_translates(
        self, tmp_path: Path, model: str, streaming: bool
    ) -> None:
        more: dict[str, Any] = {"streaming": True, "rows": {"pairs": "24"}} if streaming else {}
        after = self.run(tmp_path, model, epochs=12, strategy="full", **more)
        rows = small.rows("pairs")
        teacher = SentenceTransformer(model, device="cpu")
        target = teacher.encode([row["anchor"] for row in rows])
        translated = [row["positive"] for row in rows]
        near, far = (
            (one.encode(translated, normalize_embeddings=True) * target).sum(axis=1)
            for one in (after, teacher)
        )
        assert (near > far).mean() > 0.9
        # The text that the teacher knows keeps its vector.
        kept = (after.encode([row["anchor"] for row in rows], normalize_embeddings=True) * target).sum(axis=1)
        assert kept.mean() > near.mean()

    def test_the_teacher_reads_no_translation(self, tmp_path: Path, model: str, encoded: list[str]) -> None:
        self.run(tmp_path, model)
        assert sorted(encoded) == sorted(row["anchor"] for row in small.rows("pairs"))

    @pytest.mark.parametrize("form", ["pairs", "triplets"])
    def test_every_column_has_the_vector_and_the_prompt_of_the_first(
        self, model: str, cache: Path, form: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(cache))
        teacher = SentenceTransformer(model, device="cpu")
        teacher.prompts = {"query": "query : ", "document": "passage : "}
        rows = Dataset.from_list(small.rows(form, 4))
        columns = columns_read(rows.column_names, translations=True)
        _, stored = with_teacher(rows, columns, teacher, form=format_of(rows[0]), quiet=True)
        expected = teacher.encode(rows["anchor"], prompt="query : ")
        live = LiveTeacher(teacher, columns, prompts_read(teacher, format_of(rows[0]), columns))
        taught = torch.stack([row["label"] for row in live.taught(rows.to_list())])
        for column in range(len(columns)):
            np.testing.assert_allclose(stored(torch.arange(4))[:, column], expected, atol=1e-5)
            np.testing.assert_allclose(taught[:, column], expected, atol=1e-5)

    def test_plain_texts_beside_them_are_taught_their_own_vectors(
        self, tmp_path: Path, model: str, encoded: list[str]
    ) -> None:
        self.run(tmp_path, model, data=[small.data_file(tmp_path, form) for form in ("pairs", "texts")])
        anchors = [row["anchor"] for row in small.rows("pairs")]
        assert sorted(encoded) == sorted([*anchors, *(row["text"] for row in small.rows("texts"))])

    def test_texts_alone_have_no_translations(self, tmp_path: Path, model: str) -> None:
        with pytest.raises(UserError, match="translations need two texts a row"):
            self.run(tmp_path, model, data=[small.data_file(tmp_path, "texts")])

    @pytest.mark.parametrize(
        ("choices", "message"),
        [
            ({"objective": "infonce"}, "not with objective 'infonce'"),
            ({"teacher": "self"}, "'self' changes while it teaches"),
            ({"teacher": "tuned"}, "'tuned' is fine-tuned on labels"),
        ],
    )
    def test_what_cannot_teach_them_is_one_line(
        self, tmp_path: Path, model: str, choices: dict[str, str], message: str
    ) -> None:
        with pytest.raises(UserError, match=message) as raised:
            small.run(tmp_path, model, translations=True, **choices)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "out").exists()


class TestTuned:
    """By default all-sizes learns from a plain fine-tune on the same data."""

    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(tmp_path / "cache"))

    @pytest.mark.parametrize("form", ["pairs", "triplets", "scored"])
    def test_equals_a_plain_run_whose_model_is_named_as_teacher(
        self, tmp_path: Path, model: str, form: str
    ) -> None:
        data = [small.data_file(tmp_path, form)]
        tuned = small.weights(small.run(tmp_path, model, "tuned", data=data, seed=3, teacher="tuned"))
        small.run(tmp_path, model, "plain", data=data, seed=3, strategy="full", learning_rate=None)
        named = small.run(tmp_path, model, "named", data=data, seed=3, teacher=str(tmp_path / "plain"))
        assert all(torch.equal(tensor, tuned[name]) for name, tensor in small.weights(named).items())

    def test_nothing_is_left_of_the_teacher(self, tmp_path: Path, model: str) -> None:
        small.run(tmp_path, model, teacher="tuned")
        assert not (tmp_path / "out.checkpoints").exists()

    def test_is_the_default_of_all_sizes_alone(self) -> None:
        usual = [resolve(TrainingOptions(strategy=s)).teacher for s in STRATEGIES]
        names = [teacher_name(None, one, distils=False, takes=True) for one in usual]
        assert dict(zip(STRATEGIES, names, strict=True)) == {
            **dict.fromkeys(STRATEGIES),
            "all-sizes": "tuned",
        }
        assert teacher_name(None, "tuned", distils=False, takes=False) is None
        assert teacher_name(None, "tuned", distils=True, takes=True) == "original"

    def test_its_own_full_size_may_teach_instead(
        self, tmp_path: Path, model: str, encoded: list[str]
    ) -> None:
        small.run(tmp_path, model, teacher="self")
        assert encoded == []

    def test_a_run_killed_after_its_teacher_goes_on_without_training_it_again(
        self, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        choices = {"checkpoints": True, "teacher": "tuned"}
        unbroken = small.weights(small.run(tmp_path, model, "unbroken", **choices))

        def die(*args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training_run, "with_teacher", die)
            with pytest.raises(KeyboardInterrupt):
                small.run(tmp_path, model, "killed", **choices)
        plans: list[str] = []
        monkeypatch.setattr(training_run, "train", lambda *args, **kwargs: plans.append("trained again"))
        resumed = small.weights(small.run(tmp_path, model, "killed", resume=True, **choices))
        assert plans == []
        assert all(torch.equal(tensor, unbroken[name]) for name, tensor in resumed.items())
