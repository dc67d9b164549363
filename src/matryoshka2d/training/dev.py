"""The dev grid: the mean over sizes on held-out pairs picks the best checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from matryoshka2d.evaluation import Grid, StsSet, read_sts, sts_grid
from matryoshka2d.size import Size, parse_sizes


class DevGrid(SentenceEvaluator):
    """An evaluator for sentence-transformers' trainer: Spearman x100 on dev pairs, averaged over sizes.

    Parameters
    ----------
    sets
        Dev sets, from `matryoshka2d.evaluation.read_sts`.
    sizes
        The sizes that are judged; checkpoints are compared by their mean.
    """

    def __init__(self, sets: Iterable[StsSet], sizes: Iterable[Size]) -> None:
        super().__init__()
        self.primary_metric = "dev_mean"
        self.sets = list(sets)
        self.sizes = tuple(sizes)

    def grid(self, model: Any) -> Grid:
        """Return the whole dev grid of a model."""
        return sts_grid(model, self.sets, sizes=self.sizes, name="dev")

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return the mean over sizes, and the score of the smallest and of the largest size."""
        means = self.grid(model).values()
        ends = {f"dev_{size}": means[size] for size in (min(means), max(means))}
        return {self.primary_metric: sum(means.values()) / len(means), **ends}


def dev_grid(path: str, sizes: str | Iterable[Size]) -> DevGrid:
    """Read the dev split of an STS file or folder.

    Raises
    ------
    UserError
        If there is no such file or it has no dev split.
    """
    return DevGrid(read_sts(path, split="dev"), parse_sizes(sizes))
