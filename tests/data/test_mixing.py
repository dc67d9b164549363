from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from matryoshka2d.data.mixture import read_mixture
from matryoshka2d.data.row_formats import POSITIVE_PAIRS, SCORED_PAIRS, TRIPLETS
from matryoshka2d.errors import UserError


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    (tmp_path / "more").mkdir()
    contents = {
        "qa.csv": "question,answer,group\nwho?,me,1\nhow?,so,2\n",
        "sts-b.v1.tsv": "score\tsentence1\tsentence2\n5\ta\tb\n0\tc\td\n",
        "more/qa.jsonl": '{"anchor": "a", "positive": "b", "negative": "c"}\n',
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return [tmp_path / name for name in contents]


def test_each_data_set_keeps_its_format(sources: list[Path]) -> None:
    mixture = read_mixture(sources)
    assert mixture.formats == {"qa": POSITIVE_PAIRS, "sts_b_v1": SCORED_PAIRS, "qa_2": TRIPLETS}
    assert list(mixture.datasets) == list(mixture.formats)
    assert mixture.datasets["qa"].column_names == ["anchor", "positive", "group"]
    assert mixture.datasets["sts_b_v1"]["score"][:] == [1.0, 0.0]


def test_options_hold_for_each(sources: list[Path]) -> None:
    mixture = read_mixture(sources, limit=1)
    assert [len(rows) for rows in mixture.datasets.values()] == [1, 1, 1]


def test_a_single_source_is_a_mixture_of_one(sources: list[Path]) -> None:
    assert list(read_mixture(str(sources[0])).datasets) == ["qa"]


def test_a_name_is_never_taken_twice(sources: list[Path], tmp_path: Path) -> None:
    (tmp_path / "qa_2.csv").write_text(sources[0].read_text())
    names = list(read_mixture([tmp_path / "qa_2.csv", sources[0], sources[0]]).datasets)
    assert names == ["qa_2", "qa", "qa_3"]


def test_hub_data_sets_are_named_after_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = datasets.Dataset.from_dict({"text": ["a"]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub)
    assert list(read_mixture(["owner/all-nli:pair", "owner/all-nli"]).datasets) == [
        "all_nli_pair",
        "all_nli",
    ]


def test_nothing_to_read_is_a_mistake() -> None:
    with pytest.raises(UserError, match="at least one"):
        read_mixture([])
