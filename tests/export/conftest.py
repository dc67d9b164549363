"""A tiny elastic model with heads and prompts, and one export of it in every format."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.fingerprints import weights_fingerprint
from matryoshka2d.evaluation import StsSet
from matryoshka2d.evaluation.quality import sts_quality
from matryoshka2d.evaluation.record import store_quality
from matryoshka2d.export.exporter import Export, export_model
from tests import tiny

CHOICES: Mapping[str, Mapping[str, str]] = {
    "sentence-transformers": {"size": "2x8"},
    "onnx": {"sizes": "1-2x8,16"},
    "openvino": {"size": "2x8", "precision": "int8"},
}


@pytest.fixture(scope="package")
def elastic_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a saved model of 3 layers whose heads are far from the identity."""
    folder = tmp_path_factory.mktemp("elastic")
    prompts = {"query": "query : ", "document": "passage : "}
    plain = tiny.sentence_model(folder, num_hidden_layers=3, prompts=prompts, include_prompt=False)
    encoder = ElasticEncoder(plain, device="cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.add_heads().parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    saved = str(folder / "elastic")
    encoder.save(saved, create_model_card=False)
    words = tiny.WORDS.split()[:20]
    gold = np.random.default_rng(0).random(20)
    pairs = StsSet("toy", words, words[1:] + words[:1], gold)
    store_quality(saved, [sts_quality(encoder, [pairs], resamples=50)], weights_fingerprint(encoder))
    return saved


@pytest.fixture(scope="package")
def elastic(elastic_model: str) -> ElasticEncoder:
    return ElasticEncoder(elastic_model, device="cpu")


@pytest.fixture(scope="package")
def exports(elastic_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Export]:
    """Return format → an export in it."""
    folder = tmp_path_factory.mktemp("exports")
    return {
        name: export_model(elastic_model, folder / name, format=name, **choices)
        for name, choices in CHOICES.items()
    }


@pytest.fixture(scope="session")
def without_this_package() -> Callable[[str, Path], str]:
    """Run code in a process in which this package cannot be imported; return what it printed."""

    def run(code: str, folder: Path) -> str:
        blocked = f"import sys\nsys.modules['matryoshka2d'] = None\n{code}"
        environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", blocked],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
