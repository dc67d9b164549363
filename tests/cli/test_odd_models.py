"""Models that say odd things of themselves, through every command: one outcome each, and no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from matryoshka2d.encoder.elastic import ElasticEncoder
from tests import tiny
from tests.cli.conftest import Run
from tests.encoder.test_tokenizer_settings import LONG, said, without_padding

COMMANDS = {
    "fit": "fit --model {model} --data more.txt --output out --device cpu",
    "distill": "distill --model {model} --data more.txt --output out --steps 2 --device cpu",
    "rotate": "rotate --model {model} --data more.txt --output out --device cpu",
    "train": "train --model {model} --data {pairs} --output out --teacher {model} --report-to none",
    "truncate": "truncate {model} 2x8 out",
    "export": "export {model} --size 2x32 --to out",
    "encode": "encode {model} more.txt out.npy --device cpu",
    "evaluate": "evaluate {model} --sts {sts} --sizes 2x8,32 --device cpu",
}
KINDS = ["cut", "cut wider than it is", "no padding token", "no limit"]


@pytest.fixture(scope="module", params=KINDS)
def odd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a model of 32 dims that says something odd of itself."""
    folder = tmp_path_factory.mktemp("odd")
    model = tiny.sentence_model(folder, "roberta" if request.param == "no limit" else "bert")
    if request.param == "no padding token":
        without_padding(model)
    elif request.param == "no limit":
        said(model, model_max_length=None)
    else:
        dims = 16 if request.param == "cut" else 64
        stated = SentenceTransformer(model, device="cpu", truncate_dim=dims)
        model = str(folder / "cut")
        stated.save(model, create_model_card=False)
        config = json.loads(Path(model, "config_sentence_transformers.json").read_text())
        assert config["truncate_dim"] == dims, "this must be in the config for the test to mean anything"
    return model


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works_at_the_models_own_width(
    run: Run, sandbox: Path, odd: str, pairs: Path, sts: Path, command: str
) -> None:
    (sandbox / "more.txt").write_text("".join(f"a cat saw {n} dogs\n" for n in range(40)) + LONG + "\n")
    words = COMMANDS[command].format(model=odd, pairs=pairs, sts=sts)
    done = run(*words.split())
    assert done.code == 0, done.err
    if command == "encode":
        assert np.load(sandbox / "out.npy").shape == (41, tiny.WIDTH)
    elif command in ("fit", "distill", "rotate", "train"):
        written = ElasticEncoder("out", device="cpu")
        assert written.width == tiny.WIDTH
        for size in ("2x32", "4x8"):
            vectors = written.encode([LONG, "a cat"], size=size)
            assert np.isfinite(vectors).all()
        assert SentenceTransformer("out", device="cpu").encode([LONG, "a cat"]).shape == (2, tiny.WIDTH)
    elif command in ("truncate", "export"):
        dims = 8 if command == "truncate" else 32
        assert SentenceTransformer("out", device="cpu").encode([LONG, "a cat"]).shape == (2, dims)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a model with one weight that is no number."""
    folder = tmp_path_factory.mktemp("nan")
    model = SentenceTransformer(tiny.sentence_model(folder), device="cpu")
    model[0].model.encoder.layer[3].output.dense.bias.data[0] = float("nan")
    model.save(str(folder / "spoilt"), create_model_card=False)
    return str(folder / "spoilt")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_weights_that_are_no_numbers(
    refused: Callable[..., str], sandbox: Path, spoilt: str, pairs: Path, sts: Path, command: str
) -> None:
    (sandbox / "more.txt").write_text("a cat\na dog\n")
    words = COMMANDS[command].format(model=spoilt, pairs=pairs, sts=sts)
    assert "holds weights that are not finite: 0.model.encoder.layer.3.output.dense.bias" in refused(
        *words.split(), *(["--quiet"] if command == "train" else [])
    )
    assert not list(sandbox.glob("out*"))
