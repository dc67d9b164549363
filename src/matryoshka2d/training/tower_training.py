"""Training a shallow tower to give the vectors of the full size: batches, loss, schedule, steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from matryoshka2d.encoder.elastic import ElasticEncoder, cut
from matryoshka2d.encoder.lengths import padded_slices
from matryoshka2d.errors import UserError
from matryoshka2d.losses.columns import run_columns

WARM_UP = 0.05
"""Share of the run in which the learning rate rises."""

CLIP = 1.0
"""Longest gradient of a step."""

_FEWEST, _MOST = 8, 256
_BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class TowerData:
    """Some of the texts and the vectors that a tower learns to give to them.

    Parameters
    ----------
    texts
        The texts.
    prompts
        What stands before each of them.
    targets
        Float32 [texts, width]: the vectors of the full size.
    lengths
        Int64 [texts]: how many tokens each text has.
    """

    texts: Sequence[str]
    prompts: Sequence[str]
    targets: NDArray[np.float32]
    lengths: NDArray[np.int64]

    def batches(self, tokens: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """Return the rows of batches that hold every text once: of one prompt and nearly one length.

        Parameters
        ----------
        tokens
            The most that a batch may have, padding included; eight texts may have more.
        rng
            Where the order comes from.

        Examples
        --------
        >>> lengths = np.full(20, 4)
        >>> data = TowerData([""] * 20, [""] * 20, np.zeros((20, 2), np.float32), lengths)
        >>> sorted(map(len, data.batches(40, np.random.default_rng(0))))
        [10, 10]
        """
        prompts = np.asarray(self.prompts)
        rows = rng.permutation(len(self.texts))
        found = []
        for prompt in sorted(set(self.prompts)):
            own = rows[prompts[rows] == prompt]
            ordered = own[np.argsort(self.lengths[own], kind="stable")]
            slices = padded_slices(self.lengths[ordered], tokens, fewest=_FEWEST, most=_MOST)
            found += [ordered[some] for some in slices]
        return [found[i] for i in rng.permutation(len(found))]


def cosine_loss(vectors: Mapping[int, Tensor], targets: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the mean over exits and prefixes of 1 - cosine to the targets.

    Parameters
    ----------
    vectors
        Exit → float [texts, width], of any length.
    targets
        Float [texts, width].
    dims
        The prefixes that are compared.

    Examples
    --------
    >>> targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> cosine_loss({1: targets * 2, 2: targets.flip(0)}, targets, [2]).item()
    0.5
    """
    distances = [
        1 - (cut(own, d) * cut(targets, d)).sum(dim=1).mean() for own in vectors.values() for d in dims
    ]
    return torch.stack(distances).mean()


def learning_rate_share(done: float) -> float:
    """Return the share of the highest learning rate after a share of the run: a short rise, a cosine down.

    >>> [round(learning_rate_share(done), 3) for done in (0.0, WARM_UP, (1 + WARM_UP) / 2, 1.0)]
    [0.0, 1.0, 0.5, 0.0]
    """
    if done < WARM_UP:
        return done / WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP)))


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    parts: int = 0
    queue: list[NDArray[np.int64]] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """How long is trained and how fast.

    Parameters
    ----------
    steps
        Steps of training.
    minutes
        Minutes in place of steps.
    learning_rate
        The highest.
    batch_tokens
        Tokens a step.
    dims
        The prefixes that are compared.
    seed
        Which texts come in which step.
    """

    steps: int
    minutes: float | None
    learning_rate: float
    batch_tokens: int
    dims: Sequence[int]
    seed: int

    def done(self, progress: Progress) -> float:
        """Return the share of the run that is over."""
        if self.minutes is not None:
            return progress.seconds / (60 * self.minutes)
        return progress.step / self.steps


class TowerTraining:
    """A run that trains a tower; its state goes into a checkpoint and comes back from it.

    Parameters
    ----------
    tower
        The shallow model. All of its weights but a rotation learn.
    part
        Number, from 0 without end → texts and targets that are learnt from next. A part is asked for when
        the one before is used up.
    schedule
        How long and how fast.
    """

    def __init__(self, tower: ElasticEncoder, part: Callable[[int], TowerData], schedule: Schedule) -> None:
        self.tower, self.part, self.schedule = tower, part, schedule
        self.data = part(0)
        self.progress = Progress()
        self.weights = [weight for weight in tower.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=schedule.learning_rate, betas=_BETAS, weight_decay=0.0, fused=True
        )

    def run(self, after_step: Callable[[Progress], None]) -> None:
        """Take all steps that are left, telling the caller after each.

        Raises
        ------
        UserError
            If the loss is no finite number.
        """
        self.tower.eval()  # no dropout: the targets have none
        while (done := self.schedule.done(self.progress)) < 1:
            start = time.monotonic()
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.learning_rate * max(learning_rate_share(done), 1e-3)
            self.progress.loss = self._step(self._next_rows())
            self.progress.step += 1
            self.progress.seconds += time.monotonic() - start
            after_step(self.progress)

    def _next_rows(self) -> NDArray[np.int64]:
        if not self.progress.queue:
            self.data = self.part(self.progress.parts)
            self.progress.parts += 1
            # The order hangs on the seed and the step alone, so that a run that goes on repeats it.
            rng = np.random.default_rng([self.schedule.seed, self.progress.step])
            self.progress.queue = self.data.batches(self.schedule.batch_tokens, rng)
        return self.progress.queue.pop()

    def _step(self, rows: NDArray[np.int64]) -> float:
        texts = [self.data.texts[row] for row in rows]
        features = self.tower.preprocess(texts, prompt=self.data.prompts[rows[0]] or None)
        device = self.tower.device
        features = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in features.items()}
        targets = torch.from_numpy(self.data.targets[rows]).to(device)
        exits = run_columns(self.tower, [features], range(1, self.tower.depth + 1))
        loss = cosine_loss({n: own for n, (own,) in exits.items()}, targets, self.schedule.dims)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.weights, CLIP)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                f"training diverged at step {self.progress.step + 1}: set a lower --learning-rate than "
                f"{self.schedule.learning_rate:g}"
            )
        self.optimizer.step()
        return value

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {
            "tower": self.tower.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.tower.load_state_dict(state["tower"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = state["progress"]
        self.data = self.part(self.progress.parts - 1)
