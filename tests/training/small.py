"""Small models, data files and options with which a training run takes about a second."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from torch import Tensor

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.training import train
from tests import tiny

ROWS = 24
WORDS = sorted(set(tiny.WORDS.split()) - {":", "query", "passage"})


def text(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(2, 9)))


def rows(form: str, count: int = ROWS, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of one of the four forms, every text different from all others."""
    chance = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < 3 * count:
        texts[text(chance)] = None
    drawn = list(texts)
    names = {
        "texts": ["text"],
        "pairs": ["anchor", "positive"],
        "triplets": ["anchor", "positive", "negative"],
        "scored": ["sentence1", "sentence2"],
    }[form]
    made = [{name: drawn.pop() for name in names} for _ in range(count)]
    return [{**row, "score": round(chance.random(), 2)} for row in made] if form == "scored" else made


def data_file(folder: Path, form: str = "pairs", count: int = ROWS, seed: int = 0) -> str:
    path = folder / f"{form}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(form, count, seed)))
    return str(path)


def dev_file(folder: Path) -> str:
    """Write an STS file whose dev split differs from its test split."""
    lines = ["split\tscore\tsentence1\tsentence2"]
    for number, row in enumerate(rows("scored", 16, seed=9)):
        split = "test" if number % 2 else "dev"
        lines.append("\t".join([split, str(number), row["sentence1"], row["sentence2"]]))
    path = folder / "sts.tsv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def run(folder: Path, model: str, output: str = "out", **choices: Any) -> ElasticEncoder:
    """Train on pairs for six steps in one stage, unless told otherwise: the full size teaches the others.

    The space is left as training made it, so that weights can be compared: ask for `rotate`, or None for the
    default.
    """
    defaults: dict[str, Any] = {
        "data": None,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "device": "cpu",
        "precision": "fp32",
        "checkpoints": False,
        "rotate": False,
    }
    merged = {**defaults, **choices}
    merged["data"] = merged["data"] or [data_file(folder)]
    learns_from_labels = choices.get("objective") != "distillation" and "texts" not in merged["data"][0]
    if choices.get("strategy", "all-sizes") == "all-sizes" and learns_from_labels:
        merged.setdefault("teacher", "self")
    return train(model=model, output=str(folder / output), quiet=True, **merged)


def weights(model: ElasticEncoder) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def load(folder: Path) -> ElasticEncoder:
    return ElasticEncoder(str(folder), device="cpu")
