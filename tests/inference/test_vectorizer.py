"""A scikit-learn transformer like any other: cloned, pickled, named, searched over."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import estimator_checks as checks

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.inference.vectorizer import ElasticVectorizer
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.sentence_model(tmp_path_factory.mktemp("vectorizer"), prompts={"query": "query : "})


@pytest.fixture
def vectorizer(model: str) -> ElasticVectorizer:
    return ElasticVectorizer(model, size="2x16", device="cpu")


@pytest.mark.parametrize(("size", "prompt"), [("2x16", None), ("2x16", "query"), (None, None)])
def test_its_vectors_are_those_of_the_encoder(model: str, size: str | None, prompt: str | None) -> None:
    encoder = ElasticEncoder(model, device="cpu")
    expected = encoder.encode(tiny.TEXTS, size=size or encoder.size, prompt_name=prompt)
    found = ElasticVectorizer(model, size=size, prompt_name=prompt, device="cpu").fit_transform(tiny.TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "shape",
    [np.array, pd.Series, lambda texts: pd.DataFrame({"text": texts}), tuple, iter],
    ids=["array", "series", "frame", "tuple", "iterator"],
)
def test_texts_come_in_any_column(vectorizer: ElasticVectorizer, shape: object) -> None:
    expected = vectorizer.transform(tiny.TEXTS)
    np.testing.assert_array_equal(vectorizer.transform(shape(tiny.TEXTS)), expected)  # type: ignore[operator]


def test_no_texts_give_no_rows(vectorizer: ElasticVectorizer) -> None:
    assert vectorizer.transform([]).shape == (0, 16)


def test_a_clone_has_the_same_parameters(vectorizer: ElasticVectorizer, model: str) -> None:
    assert clone(vectorizer).get_params() == vectorizer.get_params()
    assert vectorizer.set_params(size="1x8").transform(["a cat"]).shape == (1, 8)


def test_a_pickle_holds_no_weights(vectorizer: ElasticVectorizer) -> None:
    expected = vectorizer.fit_transform(tiny.TEXTS)
    stored = pickle.dumps(vectorizer)
    assert len(stored) < 1000
    np.testing.assert_array_equal(pickle.loads(stored).transform(tiny.TEXTS), expected)


def test_features_have_names_and_a_frame_has_them_as_columns(vectorizer: ElasticVectorizer) -> None:
    names = [f"elasticvectorizer{i}" for i in range(16)]
    assert vectorizer.get_feature_names_out().tolist() == names
    series = pd.Series(tiny.TEXTS, index=list("abcde"))
    frame = vectorizer.set_output(transform="pandas").fit_transform(series)
    assert frame.columns.tolist() == names
    assert frame.index.tolist() == list("abcde")


def test_a_search_over_sizes_with_two_workers(model: str) -> None:
    texts = [f"a {color} {thing}" for color in ("red", "blue") for thing in tiny.WORDS.split()[:12]]
    labels = [text.split()[1] for text in texts]
    steps = [
        ("vectors", ElasticVectorizer(model, device="cpu")),
        ("classes", LogisticRegression(max_iter=500)),
    ]
    sizes = ["1x4", "2x16", "4x32"]
    search = GridSearchCV(Pipeline(steps), {"vectors__size": sizes}, cv=2, n_jobs=2, error_score="raise")
    search.fit(texts, labels)
    alone = GridSearchCV(Pipeline(steps), {"vectors__size": sizes}, cv=2, error_score="raise").fit(
        texts, labels
    )
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_params_["vectors__size"] in sizes
    assert set(search.predict(texts)) == {"red", "blue"}


# Those of scikit-learn's checks that make no numbers: it has none for estimators of texts.
OWN_CHECKS = (
    checks.check_estimator_cloneable,
    checks.check_estimator_repr,
    checks.check_estimator_tags_renamed,
    checks.check_get_params_invariance,
    checks.check_no_attributes_set_in_init,
    checks.check_parameters_default_constructible,
    checks.check_set_params,
    checks.check_valid_tag_types,
)


@pytest.mark.parametrize("check", OWN_CHECKS, ids=lambda check: check.__name__)
def test_scikit_learns_own_checks(vectorizer: ElasticVectorizer, check: Callable[..., None]) -> None:
    check("ElasticVectorizer", vectorizer)


def test_a_model_written_anew_is_loaded_anew(tmp_path: Path) -> None:
    folder = tiny.sentence_model(tmp_path)
    vectorizer = ElasticVectorizer(folder, size="1x8", device="cpu")
    before = vectorizer.transform(["a cat"])
    tiny.sentence_model(tmp_path, seed=1)
    listing = Path(folder) / "modules.json"
    listing.write_text(json.dumps(json.loads(listing.read_text())))
    assert np.abs(vectorizer.transform(["a cat"]) - before).max() > 1e-3


@pytest.mark.parametrize(
    ("choices", "texts", "said"),
    [
        ({}, "one text", r"expected a list of texts, got 'one text': write \[text\]"),
        ({}, ["a", 3], "row 1 is 3, expected a text"),
        (
            {},
            pd.DataFrame({"a": ["x"], "b": ["y"]}),
            r"row 0 is \['x', 'y'\], expected a text: select one column",
        ),
        ({"size": "9x8"}, ["a"], "too deep: the model has 4 layers"),
        ({"prompt_name": "qeury"}, ["a"], "Did you mean 'query'?"),
        ({"model": "./nothing"}, ["a"], "does not exist"),
    ],
)
def test_mistakes_are_one_line(model: str, choices: dict[str, str], texts: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ElasticVectorizer(**{"model": model, "device": "cpu", **choices}).fit(texts)
