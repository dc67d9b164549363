"""A saved default is used on this machine for this model, and only there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from matryoshka2d.inference import engine as defaults
from matryoshka2d.inference import engine as opening
from matryoshka2d.inference import open_engine
from matryoshka2d.inference.engine import save_default, saved_default

pytestmark = pytest.mark.usefixtures("graphs")


@pytest.fixture
def own(model: str, tmp_path: Path) -> Path:
    """Return a copy of the model that nothing is saved for yet."""
    return Path(shutil.copytree(model, tmp_path / "own"))


def test_without_one_it_is_torch(own: Path) -> None:
    assert saved_default(own) is None
    assert open_engine(own).name == "torch"


def test_what_was_saved_is_opened(own: Path) -> None:
    save_default(own, "onnx", "fp32", 1234.56)
    saved = saved_default(own)
    assert saved is not None
    assert (saved.engine, saved.precision, saved.texts_per_second) == ("onnx", "fp32", 1234.6)
    engine = open_engine(own)
    assert (engine.name, engine.precision) == ("onnx", "fp32")


def test_what_the_caller_names_wins(own: Path) -> None:
    save_default(own, "onnx", "int8", 1.0)
    assert open_engine(own, "torch", "fp32").name == "torch"
    # Another precision than the saved one is no longer what was measured.
    assert open_engine(own, precision="fp32").name == "torch"


def test_it_is_void_for_new_weights_on_another_processor_and_without_the_library(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_default(own, "onnx", "fp32", 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(defaults, "processor", lambda: "another")
        assert saved_default(own) is None
    with monkeypatch.context() as patch:
        patch.setattr(opening, "find_spec", lambda name: None)
        assert open_engine(own).name == "torch"
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert saved_default(own) is None


def test_a_broken_file_is_no_default(own: Path) -> None:
    save_default(own, "onnx", "fp32", 1.0).write_text("{")
    assert saved_default(own) is None
