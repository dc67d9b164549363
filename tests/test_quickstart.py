"""The quickstart runs from its first line to its last; a tiny model stands in for the real one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from matryoshka2d import fit
from tests import tiny

pytest.importorskip("matryoshka2d.search")
pytest.importorskip("faiss")
EXAMPLE = Path(__file__).parent.parent / "examples" / "quickstart.py"


@pytest.fixture
def quickstart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quickstart_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_passages_are_prose_and_none_is_both_learned_from_and_held_out(
    quickstart: ModuleType, tmp_path: Path
) -> None:
    texts, held_out = quickstart.write_texts(tmp_path)
    known = Path(texts).read_text(encoding="utf-8")
    passages = (tmp_path / "passages.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(passages) > 800
    assert 0.15 < len(held_out) / len(passages) < 0.25
    assert "::=" not in known
    assert not any(text in known for text in held_out)


def test_it_runs_to_the_end(
    quickstart: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = tiny.sentence_model(tmp_path / "tiny", num_hidden_layers=6, hidden_size=96, num_attention_heads=4)
    topics = dict(list(quickstart.pydoc_data.topics.topics.items())[:6])
    monkeypatch.setattr(quickstart.pydoc_data.topics, "topics", topics)
    monkeypatch.setattr(quickstart, "default_model_path", lambda: small)
    monkeypatch.setattr(quickstart, "fit", lambda **options: fit(**{**options, "model": small}))
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--output", str(tmp_path / "out")])
    quickstart.main()
    printed = capsys.readouterr().out
    assert "Spearman x100" in printed
    assert all(question in printed for question in quickstart.QUESTIONS)
    assert (tmp_path / "out" / "report.html").exists()
    assert "prefix of 64 dims, rescored" in printed
