"""ONNX Runtime without torch: exports, and graphs that an earlier opening left in the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from matryoshka2d.encoder import fingerprints
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.fingerprints import file_sha256, files_fingerprint
from matryoshka2d.errors import UserError
from matryoshka2d.export.exporter import export_model
from matryoshka2d.files import user_cache
from matryoshka2d.inference import encode, open_engine
from matryoshka2d.inference.onnx_engine import OnnxEngine
from tests import tiny

HEAVY = ("torch", "transformers", "sentence_transformers", "onnx", "onnxscript", "scipy", "pyarrow", "pandas")
TEXTS = [*tiny.TEXTS, "", "cat " * 200, "A CAT in Überlingen!"]


def use_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Have graphs and notes kept in a folder; other tests share one for the session: see `graphs`."""
    monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(folder))
    for module in ("graphs", "ready_graphs"):
        monkeypatch.setattr(f"matryoshka2d.inference.{module}.user_cache", user_cache)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_cache(monkeypatch, tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return tiny.sentence_model(tmp_path / "model", prompts={"query": "query : "})


@pytest.fixture(scope="module")
def opened_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model and the cache that its first opening left; making graphs takes seconds."""
    home = tmp_path_factory.mktemp("opened")
    with pytest.MonkeyPatch.context() as patched:
        use_cache(patched, home / "cache")
        open_engine(tiny.sentence_model(home / "model", prompts={"query": "query : "}), "onnx", "fp32")
    return home


@pytest.fixture
def known(opened_once: Path, tmp_path: Path, cache: Path) -> str:
    """Return a copy of a model whose graphs are in the cache."""
    shutil.copytree(opened_once / "cache", cache)
    shutil.copytree(opened_once / "model", tmp_path / "known")
    return str(tmp_path / "known" / "model")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("export")
    model = tiny.sentence_model(home / "model", prompts={"query": "query : "})
    export_model(model, home / "onnx", sizes="1x8,2x16,4x32", format="onnx")
    return str(home / "onnx")


def imported_by(code: str) -> list[str]:
    """Return which heavy libraries a fresh process has imported after some code."""
    code += f"\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def change_a_weight(folder: str) -> None:
    path = Path(folder, "model.safetensors")
    weights = load_file(path)
    weights[min(weights)] += 0.5
    save_file(weights, path, metadata={"format": "pt"})


# --- graphs in the cache ---------------------------------------------------------------------------


def test_a_second_opening_gives_the_same_bits_for_every_size_and_prompt(folder: str) -> None:
    full, ready = (open_engine(folder, "onnx", "fp32") for _ in range(2))
    assert not isinstance(full, OnnxEngine)
    assert isinstance(ready, OnnxEngine)
    assert (ready.shape, ready.precision) == (full.shape, full.precision)  # type: ignore[attr-defined]
    for size in ("1x8", "3x32", None):
        for prompt in (None, "query"):
            mine, its = (engine.embed(TEXTS, size, prompt_name=prompt) for engine in (ready, full))
            assert np.array_equal(mine, its)
    for name in ("prompts", "default_prompt_name", "limit", "fill", "vocabulary"):
        assert getattr(ready.tokenizer, name) == getattr(full.tokenizer, name), name  # type: ignore[attr-defined]


def test_a_prompt_that_pooling_leaves_out_is_left_out(tmp_path: Path) -> None:
    folder = tiny.sentence_model(tmp_path / "model", prompts={"query": "query : "}, num_hidden_layers=1)
    file = Path(folder, "1_Pooling", "config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "include_prompt": False}))
    open_engine(folder, "onnx", "fp32")
    ready = open_engine(folder, "onnx", "fp32")
    assert isinstance(ready, OnnxEngine)
    found = ready.embed(TEXTS[:5], prompt_name="query")
    expected = ElasticEncoder(folder, device="cpu").encode(TEXTS[:5], prompt_name="query")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_size_of_a_model_is_noted_by_itself(known: str) -> None:
    shallow = [open_engine(known, "onnx", "fp32", size="2x16") for _ in range(2)]
    assert [(one.depth, str(one.size)) for one in shallow] == [(2, "2x16")] * 2
    assert isinstance(shallow[1], OnnxEngine)
    assert open_engine(known, "onnx", "fp32").depth == 4


def test_a_changed_weight_is_seen(known: str) -> None:
    before = open_engine(known, "onnx", "fp32").embed(TEXTS)
    change_a_weight(known)
    again = open_engine(known, "onnx", "fp32")
    assert not isinstance(again, OnnxEngine)
    assert not np.allclose(again.embed(TEXTS), before, atol=1e-4)


@pytest.mark.parametrize("damage", ["{", "{}", '{"graphs": 1}'])
def test_notes_that_are_damaged_are_made_again(known: str, cache: Path, damage: str) -> None:
    assert isinstance(open_engine(known, "onnx", "fp32"), OnnxEngine)
    (note,) = cache.glob("starts/*/start.json")
    note.write_text(damage)
    assert not isinstance(open_engine(known, "onnx", "fp32"), OnnxEngine)
    assert isinstance(open_engine(known, "onnx", "fp32"), OnnxEngine)


def test_graphs_that_are_gone_are_made_again(known: str, cache: Path) -> None:
    next(cache.glob("graphs/*/4x32.onnx")).unlink()
    assert open_engine(known, "onnx", "fp32").embed(["a cat"]).shape == (1, 32)
    assert isinstance(open_engine(known, "onnx", "fp32"), OnnxEngine)


def test_a_cache_that_cannot_be_written_costs_time_only(known: str, cache: Path) -> None:
    for note in cache.glob("starts/*/*"):
        note.unlink()
    next(cache.glob("starts/*")).rmdir()
    (cache / "starts").rmdir()
    (cache / "starts").write_text("in the way")
    assert open_engine(known, "onnx", "fp32").embed(["a cat"]).shape == (1, 32)


def test_a_model_in_another_place_has_the_same_graphs(known: str, tmp_path: Path, cache: Path) -> None:
    shutil.copytree(known, tmp_path / "moved")
    before = {path: path.stat().st_mtime_ns for path in cache.glob("graphs/*/*")}
    shutil.rmtree(cache / "starts")
    assert not isinstance(open_engine(tmp_path / "moved", "onnx", "fp32"), OnnxEngine)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("graphs/*/*")} == before


# --- what a fresh process imports ------------------------------------------------------------------


def test_a_first_vector_from_the_cache_imports_no_torch(known: str) -> None:
    code = f"""
from matryoshka2d import open_engine
engine = open_engine({known!r}, "onnx", "fp32")
engine.embed(["a cat"], "2x8")
engine.memory()
"""
    assert imported_by(code) == []


@pytest.mark.parametrize("where", ["cache", "export"])
def test_a_file_is_encoded_without_torch(tmp_path: Path, known: str, export: str, where: str) -> None:
    model = known if where == "cache" else export
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\na dog\n")
    expected = encode(model, ["a cat", "a dog"], engine="onnx", precision="fp32")
    arguments = ["encode", model, str(texts), str(tmp_path / "vectors.npy"), "--engine", "onnx", "-q"]
    code = f"from matryoshka2d.cli.app import app\napp({arguments}, standalone_mode=False)"
    assert imported_by(code) == []
    assert np.array_equal(np.load(tmp_path / "vectors.npy"), expected)


def test_a_first_vector_from_an_export_imports_no_torch(export: str) -> None:
    code = f"from matryoshka2d import open_engine\nopen_engine({export!r}).embed(['a cat'])"
    assert imported_by(code) == []


# --- exports ---------------------------------------------------------------------------------------


def test_an_export_gives_its_sizes_and_fewer_dims_of_them(export: str) -> None:
    source = ElasticEncoder(str(Path(export).parent / "model" / "model"), device="cpu")
    engine = open_engine(export)
    assert (engine.name, engine.precision, engine.device) == ("onnx", "fp32", "cpu")
    assert (engine.depth, engine.width, str(engine.size)) == (4, 32, "4x32")
    assert list(map(str, engine.sizes)) == ["1x8", "2x16", "4x32"]
    for size in ("1x8", "2x16", "2x4", "4x32", "4x16"):
        for prompt in (None, "query"):
            expected = source.encode(TEXTS, size=size, prompt_name=prompt)
            np.testing.assert_allclose(engine.embed(TEXTS, size, prompt_name=prompt), expected, atol=1e-5)
    assert open_engine(export, size="2x8").embed(["a cat"]).shape == (1, 8)


@pytest.mark.parametrize("size", ["3x8", "2x32", "1x16"])
def test_a_size_that_an_export_lacks_is_said(export: str, size: str) -> None:
    for ask in (lambda: open_engine(export, size=size), lambda: open_engine(export).embed(["a cat"], size)):
        with pytest.raises(UserError, match=rf"no {size}: expected 1x8, 2x16, 4x32, or fewer dims"):
            ask()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"engine": "torch"}, "open it with the engine onnx"),
        ({"engine": "onnx", "precision": "int8"}, "is an export in fp32"),
        ({"engine": "onnx", "pooling": "cls"}, "leave them out"),
        ({"engine": "onnx", "device": "cuda"}, "the onnx engine runs on the cpu"),
    ],
)
def test_what_an_export_cannot_be_is_said(export: str, choice: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_engine(export, **choice)


def test_an_export_without_a_graph_is_said(export: str, tmp_path: Path) -> None:
    for name in ("export.json", "tokenizer.json", "1x8.onnx"):
        (tmp_path / name).write_bytes(Path(export, name).read_bytes())
    with pytest.raises(UserError, match=r"without 2x16\.onnx: export the model again"):
        open_engine(tmp_path)


# --- names of contents -----------------------------------------------------------------------------


def test_every_file_counts_but_notes_for_people(folder: str) -> None:
    before = files_fingerprint(Path(folder))
    Path(folder, "README.md").write_text("other")
    Path(folder, ".hidden").write_text("other")
    assert files_fingerprint(Path(folder)) == before
    for file in ("tokenizer.json", "1_Pooling/config.json", "modules.json"):
        path = Path(folder, file)
        path.write_text(path.read_text() + " ")
        after = files_fingerprint(Path(folder))
        assert after != before
        before = after
    Path(folder, "1_Pooling").rename(Path(folder).parent / "pooling")
    Path(folder, "1_Pooling").symlink_to(Path(folder).parent / "pooling")
    assert files_fingerprint(Path(folder)) is None


def test_a_large_file_is_read_once_and_again_when_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "_LARGE", 0)
    monkeypatch.setattr(fingerprints, "_SETTLED", -1e9)
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = file_sha256(file)
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    read = fingerprints._sha256
    monkeypatch.setattr(fingerprints, "_sha256", lambda _: pytest.fail("read again"))
    assert file_sha256(file) == first
    fingerprints._kept_sha256.cache_clear()
    assert file_sha256(file) == first
    monkeypatch.setattr(fingerprints, "_sha256", read)
    # As many bytes, and the old time put back.
    file.write_bytes(b"two")
    os.utime(file, ns=times)
    assert file_sha256(file) != first


def test_a_file_that_was_just_written_is_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(fingerprints, "_LARGE", 0)
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    file_sha256(file)
    assert not (cache / "digests").exists()
