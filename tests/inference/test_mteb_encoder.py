"""mteb takes a model at a size and keeps the results of sizes apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mteb as stock
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.cache import ResultCache
from scipy.stats import spearmanr

import matryoshka2d
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from tests import tiny

LEFT = [f"a {word} runs" for word in tiny.WORDS.split()[:12]]
RIGHT = [f"the {word} sat" for word in tiny.WORDS.split()[2:14]]
GOLD = [float(i % 5) for i in range(12)]


class TinySTS(AbsTaskSTS):
    """A task of twelve pairs that needs no network."""

    metadata = TaskMetadata(
        name="TinySTS",
        description="Twelve pairs.",
        dataset={"path": "local/tiny-sts", "revision": "1"},
        type="STS",
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
        date=("2026-01-01", "2026-01-02"),
        reference=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )
    min_score = 0
    max_score = 5

    def load_data(self, *_: Any, **__: Any) -> None:
        rows = {"sentence1": LEFT, "sentence2": RIGHT, "score": GOLD}
        self.dataset = DatasetDict({"test": Dataset.from_dict(rows)})
        self.data_loaded = True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.sentence_model(tmp_path_factory.mktemp("mteb"))


def evaluated(encoder: Any, cache: ResultCache) -> float:
    result = stock.evaluate(encoder, TinySTS(), cache=cache, show_progress_bar=False, co2_tracker=False)
    return float(result.task_results[0].scores["test"][0]["main_score"])


def expected(model: str, size: str) -> float:
    encoder = ElasticEncoder(model, device="cpu")
    left, right = (encoder.encode(texts, size=size) for texts in (LEFT, RIGHT))
    return float(spearmanr((left * right).sum(axis=1), GOLD).statistic)


def test_scores_are_those_of_the_size_and_results_lie_apart(model: str, tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    for size in ("1x8", "4x32"):
        found = evaluated(matryoshka2d.mteb(model, size, device="cpu"), cache)
        assert found == pytest.approx(expected(model, size), abs=1e-6)
    # Both are still there, each in a folder that says its size.
    results = sorted(tmp_path.rglob("TinySTS.json"))
    assert len(results) == 2
    assert ["1x8" in str(results[0]), "4x32" in str(results[1])] == [True, True]
    assert abs(expected(model, "1x8") - expected(model, "4x32")) > 1e-3


def test_a_loaded_encoder_will_do_and_other_weights_are_another_revision(model: str) -> None:
    encoder = ElasticEncoder(model, device="cpu")
    by_encoder = matryoshka2d.mteb(encoder, "2x16")
    by_name = matryoshka2d.mteb(model, "2x16", device="cpu")
    vectors = [one.model.encode(tiny.TEXTS) for one in (by_encoder, by_name)]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    meta = by_name.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.experiment_name) == ("local/model", 16, "size_2x16")
    next(encoder.parameters()).data.add_(1e-3)
    assert matryoshka2d.mteb(encoder, "2x16").mteb_model_meta.revision != by_encoder.mteb_model_meta.revision


def test_the_name_may_be_given(model: str) -> None:
    assert matryoshka2d.mteb(model, "1x8", name="me/mine").mteb_model_meta.name == "me/mine"


def test_the_default_model_has_its_name_on_the_hub() -> None:
    meta = matryoshka2d.mteb("default", "1x8", device="cpu").mteb_model_meta
    assert meta.name == "sentence-transformers/all-MiniLM-L6-v2"


def test_mistakes_are_one_line(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="too deep"):
        matryoshka2d.mteb(model, "9x8")
    monkeypatch.setattr("matryoshka2d.errors.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'matryoshka2d\[mteb\]'"):
        matryoshka2d.mteb(model, "1x8")
