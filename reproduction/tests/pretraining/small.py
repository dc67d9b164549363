"""A tiny encoder with its head and decoder, and texts for it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tests import tiny
from torch import Tensor

from matryoshka2d import ElasticEncoder
from matryoshka2d.size import parse_sizes
from matryoshka2d_reproduction.pretraining import pretrain
from matryoshka2d_reproduction.pretraining.decoder import Decoder
from matryoshka2d_reproduction.pretraining.masking import TwoMaskedCopies
from matryoshka2d_reproduction.pretraining.objective import MaskedAutoencoding
from matryoshka2d_reproduction.pretraining.vocabulary import load_head

WORDS = sorted(set(tiny.WORDS.split()) - {":"})
SIZES = "1x8 2x16 4x32"


def texts(count: int = 40, seed: int = 0) -> list[str]:
    """Return texts that all differ."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choices(WORDS, k=rng.randint(3, 9)))] = None
    return list(found)


def text_file(folder: Path, count: int = 40) -> str:
    path = folder / "texts.txt"
    path.write_text("\n".join(texts(count)) + "\n")
    return str(path)


def objective(model: str, sizes: str = SIZES, seed: int = 0, **choices: Any) -> MaskedAutoencoding:
    """Return the objective over a model, without dropout."""
    torch.manual_seed(seed)
    encoder = ElasticEncoder(model, device="cpu", **choices)
    head, _ = load_head(model, encoder)
    return MaskedAutoencoding(encoder, head, Decoder(encoder), parse_sizes(sizes)).eval()


def collator(encoder: ElasticEncoder, **choices: Any) -> TwoMaskedCopies:
    chosen = {"light": 0.3, "heavy": 0.5, "predictions": 512, "seed": 0, **choices}
    return TwoMaskedCopies(encoder.preprocess, encoder.tokenizer, **chosen)


def batch(encoder: ElasticEncoder, given: Sequence[str] | None = None, **choices: Any) -> dict[str, Any]:
    return collator(encoder, **choices)([{"text": text} for text in given or texts(8)])


def run(folder: Path, model: str, output: str = "out", **choices: Any) -> ElasticEncoder:
    """Pretrain for ten steps in two epochs, unless told otherwise."""
    defaults: dict[str, Any] = {
        "data": text_file(folder),
        "sizes": SIZES,
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 1e-3,
        "device": "cpu",
        "precision": "fp32",
        "report_to": "none",
        "checkpoints": False,
    }
    return pretrain(model=model, output=str(folder / output), quiet=True, **{**defaults, **choices})


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
