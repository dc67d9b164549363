"""How long a plan will take: from what earlier runs took, else from one measured step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matryoshka2d.encoder.loading import resolve_model
from matryoshka2d.encoder.precision import resolve_precision
from matryoshka2d.training.training_options import FitOptions
from matryoshka2d_reproduction import machine
from matryoshka2d_reproduction.plan import TRAINED_KINDS, Plan
from matryoshka2d_reproduction.results import Result
from matryoshka2d_reproduction.units import Unit, options_of
from matryoshka2d_reproduction.workshop import Workshop

_BATCH = 64
_TEXTS_A_ROW = 3
_WORDS = 16


@dataclass(frozen=True)
class Rates:
    """How fast this machine is: seconds a row of training, seconds a word of encoding, at some depth."""

    row: float
    word: float
    depth: int


class Expectation:
    """Guesses the seconds of a unit.

    Parameters
    ----------
    shop
        The workshop.
    earlier
        Results of the same plan: a run of the same method and size on the same machine is the best guess for
        another seed.
    test_words
        How many words the test sets hold.
    jobs
        How many runs go side by side; several have one thread each, and are guessed from such runs.
    """

    def __init__(self, shop: Workshop, earlier: Sequence[Result], test_words: int, jobs: int = 1) -> None:
        self.shop = shop
        self.test_words = test_words
        self.here = machine.facts() | ({"threads": 1} if jobs > 1 else {})
        self.seen: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
        self.rates: dict[str, Rates] = {}
        for result in earlier:
            self.learn(result)

    def learn(self, result: Result) -> None:
        """Take in what a run took, if it was this machine that it took it on."""
        if not all(self._is_here(result.facts.get(name)) for name in ("trained_on", "measured_on")):
            return
        cost = result.facts.get("cost", {})
        spent = float(cost.get("train_seconds", 0.0)), float(cost.get("evaluate_seconds", 0.0))
        self.seen.setdefault((result.method, result.backbone, result.data, result.size), []).append(spent)

    def seconds(self, unit: Unit, *, dev_words: int | None = None, is_made: bool | None = None) -> float:
        """Return the expected seconds of a unit.

        Parameters
        ----------
        unit
            The unit.
        dev_words
            How many words the dev sets hold, if it is tried there and not measured on the test sets.
        is_made
            Whether its model will be there already; None to look whether it is there now.
        """
        if is_made is None:
            is_made = self.shop.is_made(unit)
        known = self.seen.get((unit.method, unit.backbone, unit.data, str(unit.size or "")))
        if known and dev_words is None:
            return statistics.fmean(measuring + (0 if is_made else making) for making, measuring in known)
        rates = self._rates(unit.backbone)
        share = unit.size.layers / rates.depth if unit.size else 1.0
        spent = (self.test_words if dev_words is None else dev_words) * rates.word * share
        return spent if is_made else spent + self._making(unit, rates) * share

    def _making(self, unit: Unit, rates: Rates) -> float:
        """Return the expected seconds of making a model of full depth."""
        kind = self.shop.plan.methods[unit.method].kind
        if kind in ("fit", "rotate"):
            return FitOptions().texts * _WORDS * rates.word
        if kind not in TRAINED_KINDS:
            return 0.0
        epochs = float(options_of(self.shop.plan, unit).get("epochs", 1.0))
        return rows_of(self.shop, self.shop.plan, unit) * epochs * rates.row

    def _rates(self, backbone: str) -> Rates:
        if backbone not in self.rates:
            self.rates[backbone] = _measure(self.shop, backbone)
        return self.rates[backbone]

    def _is_here(self, other: Mapping[str, Any] | None) -> bool:
        """Return whether a result's machine is this one; what was not trained names none."""
        names = ("processor", "accelerator", "threads")
        return not other or all(other.get(name) == self.here.get(name) for name in names)


def rows_of(shop: Workshop, plan: Plan, unit: Unit) -> int:
    """Return how many rows a unit trains on, counted as lines of its files."""
    data = plan.data[unit.data]
    limit = unit.limit or data.limit
    counts = [_lines(Path(file)) for file in shop.files(data)]
    return sum(min(count, limit) if limit else count for count in counts)


def _lines(file: Path) -> int:
    with file.open("rb") as content:
        return sum(1 for _ in content)


def _measure(shop: Workshop, backbone: str) -> Rates:
    """Time one training step and one encoding of made-up text on a backbone, each in the plan's precision."""
    import torch

    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.inference.engine_exits import open_exits

    given = shop.plan.backbones[backbone]
    # A pruned backbone is as slow as its share of the whole: it need not be made to know that.
    encoder: Any = ElasticEncoder(resolve_model(given.model), pooling=given.pooling)
    depth = len(given.layers) or encoder.depth
    share = depth / encoder.depth
    # Each text once, since equal ones are encoded once.
    texts = [" ".join([str(number), *["word"] * (_WORDS - 1)]) for number in range(_BATCH)]
    exits = open_exits(encoder, shop.plan.precision)
    encoding = _seconds(lambda: exits.exits(texts)) / (_BATCH * _WORDS)
    encoder.train()
    features = {
        name: value.to(encoder.device) if isinstance(value, torch.Tensor) else value
        for name, value in encoder.preprocess(texts).items()
    }
    precision = resolve_precision(str(shop.plan.defaults.get("precision", "auto")), str(encoder.device))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision.name)

    def step() -> None:
        with torch.autocast(encoder.device.type, dtype, enabled=dtype is not None):
            encoder(dict(features))["sentence_embedding"].sum().backward()

    row = _seconds(step) / _BATCH * _TEXTS_A_ROW
    return Rates(row * share, encoding * share, depth)


def _seconds(call: Callable[[], object]) -> float:
    """Return the seconds of a second call: the first one sets things up."""
    call()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
