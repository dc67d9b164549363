"""Every export is whole, equal to its source, and stands without this package; or it is not there at all."""

from __future__ import annotations

import json
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.fingerprints import weights_fingerprint
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.record import stored_quality
from matryoshka2d.export import exporter as run_module
from matryoshka2d.export.check import TOLERANCES
from matryoshka2d.export.exporter import Export, export_model, parameters_at
from matryoshka2d.export.formats import FORMATS
from matryoshka2d.size import Size

SENTENCE = "A sentence to embed."
NAMES = list(FORMATS)


@pytest.mark.parametrize("name", NAMES)
def test_it_agrees_with_its_source_as_far_as_is_stated(exports: dict[str, Export], name: str) -> None:
    export = exports[name]
    for agreement in export.agreements.values():
        assert agreement.within(TOLERANCES[export.record["precision"]])
        # 16 texts without a prompt and with each of two.
        assert agreement.texts == 48


@pytest.mark.parametrize("name", NAMES)
def test_its_card_runs_where_this_package_is_not_installed(
    exports: dict[str, Export],
    elastic: ElasticEncoder,
    without_this_package: Callable[[str, Path], str],
    name: str,
    tmp_path: Path,
) -> None:
    export = exports[name]
    (code,) = re.findall(r"```python\n(.*?)```", (export.folder / "README.md").read_text(), re.DOTALL)
    without_this_package(
        f"{code}\nimport numpy\nnumpy.save(r'{tmp_path / 'found.npy'}', vectors)", export.folder.parent
    )
    expected = elastic.encode([SENTENCE], size=export.sizes[0])
    tolerance = 1e-5 if export.record["precision"] == "fp32" else 0.1
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_its_record_and_card_say_what_it_is(
    exports: dict[str, Export], elastic_model: str, name: str
) -> None:
    export = exports[name]
    record = json.loads((export.folder / "export.json").read_text())
    assert record == export.record
    assert record["format"] == name
    assert record["source"]["model"] == elastic_model
    assert record["source"]["full size"] == "3x32"
    assert list(record["sizes"]) == [str(size) for size in export.sizes]
    assert record["made by"]["matryoshka2d"]
    words = shlex.split(record["command"])
    assert words[:3] == ["matryoshka2d", "export", elastic_model]
    card = (export.folder / "README.md").read_text()
    assert record["command"] in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == name
    assert "base_model" not in front
    for size in export.sizes:
        assert f"| {size} |" in card
    if name == "sentence-transformers":
        assert record["reads with"] == {"sentence-transformers": "3.0", "transformers": "4.41"}
    else:
        assert record["opset"] == 20
        assert record["inputs"] == ["input_ids", "attention_mask", "prompt_length"]
    assert "\n\n\n" not in card


@pytest.mark.parametrize("name", NAMES)
def test_quality_and_cost_stand_in_record_and_card(
    exports: dict[str, Export], elastic: ElasticEncoder, name: str
) -> None:
    export = exports[name]
    quality = stored_quality(elastic.record, "float32", weights_fingerprint(elastic))
    assert quality is not None
    card = (export.folder / "README.md").read_text()
    for size in export.sizes:
        row = export.record["sizes"][str(size)]
        assert row["quality"]["score"] == pytest.approx(quality.score(size), abs=0.006)
        assert row["quality"]["share"] == pytest.approx(quality.kept(size), abs=6e-5)
        assert "{:.2f} [{:.2f}, {:.2f}]".format(*row["quality"]["score"]) in card
        assert 0 < row["cost"]["latency_p50"] <= row["cost"]["latency_p95"]
        assert f"{row['cost']['latency_p50'] * 1e3:.2f} ms" in card
    assert "on the pairs of toy (20)" in card


def test_quality_of_other_weights_is_not_shown(elastic_model: str, tmp_path: Path) -> None:
    encoder = ElasticEncoder(elastic_model, device="cpu")
    with torch.no_grad():
        next(encoder.parameters()).add_(1e-3)
    export = export_model(encoder, tmp_path / "out", size="1x8")
    assert export.record["quality"] is None
    assert "## Quality" not in (export.folder / "README.md").read_text()


def test_several_sizes_share_one_file_of_weights(exports: dict[str, Export]) -> None:
    folder = exports["onnx"].folder
    assert sorted(path.name for path in folder.glob("*.onnx")) == [
        "1x16.onnx",
        "1x8.onnx",
        "2x16.onnx",
        "2x8.onnx",
    ]
    assert [path.name for path in folder.glob("*.bin")] == ["weights.bin"]


@pytest.mark.parametrize("name", NAMES)
def test_servers_find_what_they_look_for(exports: dict[str, Export], name: str) -> None:
    folder = exports[name].folder
    config = json.loads((folder / "config.json").read_text())
    assert config["is_matryoshka"] is True
    assert config["matryoshka_dimensions"][0] == 8
    assert config["num_hidden_layers"] == 2
    raw = json.loads((folder / "tokenizer.json").read_text())
    assert raw["truncation"]["max_length"] == 64
    assert raw["padding"]["strategy"] == "BatchLongest"
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 64


def test_without_a_size_the_full_one_is_exported_and_an_encoder_will_do(
    elastic: ElasticEncoder, tmp_path: Path
) -> None:
    export = export_model(elastic, tmp_path / "full")
    assert export.sizes == (Size(3, 32),)
    assert export.bytes == sum(path.stat().st_size for path in export.folder.rglob("*") if path.is_file())


@given(layers=st.integers(1, 3), dims=st.integers(1, 32))
def test_parameters_are_counted_without_cutting(elastic: ElasticEncoder, layers: int, dims: int) -> None:
    size = Size(layers, dims)
    cut = elastic.truncate(size)
    assert parameters_at(elastic, size) == sum(p.numel() for p in cut.parameters())


def test_an_export_that_disagrees_is_refused_and_nothing_is_left(
    elastic: ElasticEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run_module.compare
    monkeypatch.setattr(
        run_module, "compare", lambda source, size, export: real(source, Size(1, size.dims), export)
    )
    with pytest.raises(
        UserError, match=r"the export of 2x8 disagrees with its source and was not kept: 48 texts"
    ):
        export_model(elastic, tmp_path / "wrong", size="2x8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"size": "4x8"}, "size 4x8 is too deep: the model has 3"),
        ({"size": "2x33"}, "size 2x33 is too wide"),
        ({"size": "2by8"}, "'2by8' is not a size"),
        ({"size": "2x8", "format": "onxn"}, "format 'onxn' is not known: .* Did you mean 'onnx'?"),
        ({"size": "2x8", "precision": "int8"}, "sentence-transformers does not come in precision 'int8'"),
        ({"size": "2x8", "precision": "bf16", "format": "onnx"}, "onnx does not come in precision 'bf16'"),
        ({"sizes": "1-2x8"}, "holds one size: .*--format onnx"),
        ({"sizes": "1-2x8", "format": "openvino"}, "holds one size"),
        ({"sizes": "1-2x8", "size": "1x8", "format": "onnx"}, "not both"),
    ],
)
def test_what_is_not_possible_is_said_in_one_line(
    elastic: ElasticEncoder, tmp_path: Path, choices: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as raised:
        export_model(elastic, tmp_path / "out", **choices)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_it_may_be_replaced(
    elastic: ElasticEncoder, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match=r"exists already: .*--overwrite"):
        export_model(elastic, tmp_path / "out", size="1x8")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    export_model(elastic, tmp_path / "out", size="1x8", overwrite=True)
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_code_of_its_own_is_not_written_as_sentence_transformers(elastic_model: str, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    class OwnPooling(Pooling):
        pass

    encoder = ElasticEncoder(elastic_model, device="cpu")
    encoder[1].__class__ = OwnPooling
    with pytest.raises(UserError, match=r"module OwnPooling is code of its own .*--format onnx"):
        export_model(encoder, tmp_path / "out", size="1x8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "sentence-transformers",
        pytest.param("onnx", marks=pytest.mark.slow),
        pytest.param("openvino", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(elastic_model: str, tmp_path: Path, name: str) -> None:
    words = ["export", elastic_model, "--size", "2x16", "--to", "out", "--format", name]
    code = f"import sys; sys.argv = {['matryoshka2d', *words]!r}; from matryoshka2d.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        # A limit on the size of files fails in the middle of a write, as a full disk does.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot write out: no room on the disk")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"), [(name, one) for name, form in FORMATS.items() for one in form.precisions]
)
def test_minilm_in_every_format_and_precision(tmp_path: Path, name: str, precision: str) -> None:
    export = export_model("default", tmp_path / "out", size="3x128", format=name, precision=precision)
    full = export.record["bytes"]["full model"]
    halves = {"fp32": 1, "bf16": 2, "fp16": 2, "int8": 4}[precision]
    # Three of six layers of a model half of whose weights are words.
    assert export.bytes < 0.8 * full / halves + 1_000_000
    assert "sentence-transformers/all-MiniLM-L6-v2" in (export.folder / "README.md").read_text()
