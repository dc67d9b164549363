"""How long a plan will take: from what earlier runs took, else from one measured step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matryoshka2d.default_model import resolve_model
from matryoshka2d.experiments.plan import TRAINED_KINDS, Plan
from matryoshka2d.experiments.results import Result
from matryoshka2d.experiments.units import Unit, options_of
from matryoshka2d.experiments.workshop import Workshop
from matryoshka2d.training.fit_options import FitOptions

_BATCH = 64
_TEXTS_A_ROW = 3
_WORDS = 16


class Expectation:
    """Guesses the seconds of a unit.

    Parameters
    ----------
    shop
        The workshop.
    earlier
        Results of the same plan: a run of the same method and size is the best guess for another seed.
    test_texts
        How many texts the test sets hold.
    """

    def __init__(self, shop: Workshop, earlier: Sequence[Result], test_texts: int) -> None:
        self.shop = shop
        self.test_texts = test_texts
        self.seen: dict[tuple[str, str, str, str], list[float]] = {}
        self.rates: dict[str, tuple[float, float, int]] = {}
        for result in earlier:
            self.learn(result)

    def learn(self, result: Result) -> None:
        """Take in what a run took."""
        cost = result.facts.get("cost", {})
        seconds = float(cost.get("train_seconds", 0.0)) + float(cost.get("evaluate_seconds", 0.0))
        self.seen.setdefault((result.method, result.backbone, result.data, result.size), []).append(seconds)

    def seconds(self, unit: Unit, *, trial: bool = False) -> float:
        """Return the expected seconds of a unit."""
        known = self.seen.get((unit.method, unit.backbone, unit.data, str(unit.size or "")))
        if known and not trial:
            return sum(known) / len(known)
        step, text, depth = self._rates(unit.backbone)
        share = unit.size.layers / depth if unit.size else 1.0
        evaluating = 0.1 if trial else 1.0
        spent = self.test_texts * text * share * evaluating
        if self.shop.plan.methods[unit.method].kind in TRAINED_KINDS:
            options = options_of(self.shop.plan, unit)
            epochs = float(options.get("epochs", 1.0))
            spent += rows_of(self.shop, self.shop.plan, unit) * epochs * step * share
        elif self.shop.plan.methods[unit.method].kind == "fit":
            spent += FitOptions().texts * text
        return spent

    def _rates(self, backbone: str) -> tuple[float, float, int]:
        """Return seconds a row of training, seconds a text of encoding, and the depth, measured once."""
        if backbone not in self.rates:
            self.rates[backbone] = _measure(self.shop, backbone)
        return self.rates[backbone]


def rows_of(shop: Workshop, plan: Plan, unit: Unit) -> int:
    """Return how many rows a unit trains on, counted as lines of its files."""
    data = plan.data[unit.data]
    limit = unit.limit or data.limit
    counts = [_lines(Path(file)) for file in shop.files(data)]
    return sum(min(count, limit) if limit else count for count in counts)


def _lines(file: Path) -> int:
    with file.open("rb") as content:
        return sum(1 for _ in content)


def _measure(shop: Workshop, backbone: str) -> tuple[float, float, int]:
    """Time one training step and one encoding of made-up text on a backbone."""
    import torch

    from matryoshka2d.encoder import ElasticEncoder

    given = shop.plan.backbones[backbone]
    # A pruned backbone is as slow as its share of the whole: it need not be made to know that.
    encoder: Any = ElasticEncoder(resolve_model(given.model), pooling=given.pooling)
    depth = len(given.layers) or encoder.depth
    share = depth / encoder.depth
    texts = [" ".join(["word"] * _WORDS)] * _BATCH
    encoder.exits(texts[:8])
    started = time.perf_counter()
    encoder.exits(texts)
    encoding = (time.perf_counter() - started) / _BATCH
    encoder.train()
    features = {
        name: value.to(encoder.device) if isinstance(value, torch.Tensor) else value
        for name, value in encoder.preprocess(texts).items()
    }
    started = time.perf_counter()
    encoder(features)["sentence_embedding"].sum().backward()
    step = (time.perf_counter() - started) / _BATCH
    return step * _TEXTS_A_ROW * share, encoding * share, depth
