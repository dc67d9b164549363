"""What intervals are read from, one file a run beside its result, small enough to publish.

The pairs of a resample are the same for every run (`matryoshka2d.evaluation.bootstrap`), so that the scores
of a run on each resample are all that a comparison needs of it: whoever has two runs' files can compare them,
without their models and without the score of every pair. A new method is compared with a published one by
running the new one alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.bootstrap import Replicates, bootstrap_means, bootstrap_spearman
from matryoshka2d.files import staged_file
from matryoshka2d_reproduction.measuring import STS
from matryoshka2d_reproduction.results import Result, read_scores, scores_file

RESAMPLES = 1000

_MEAN = "mean of sets"


def replicates_file(folder: str | Path, result: Result) -> Path:
    """Return where the replicates of a run are kept: beside its result."""
    return (Path(folder) / result.file).with_suffix(".npz")


def has_replicates(result: Result, folder: str | Path, cache: str | Path, resamples: int = RESAMPLES) -> bool:
    """Return whether `replicates_of_run` has something to read."""
    return scores_file(cache, result.key).is_file() or _kept(folder, result) >= resamples


def replicates_of_run(
    result: Result, task: str, folder: str | Path, cache: str | Path, resamples: int = RESAMPLES
) -> Replicates:
    """Return the scores of one run, one seed, on all pairs and on every resample: means over the sets.

    Parameters
    ----------
    result
        The run.
    task
        One of its tasks.
    folder
        The results of its plan. Replicates that are not there yet are written.
    cache
        Where `reproduce` keeps the score of every pair; read if the file lacks so many resamples.
    resamples
        How often pairs are drawn. The first hundred of a thousand are those that a hundred would be.

    Raises
    ------
    UserError
        If neither the replicates nor the scores of the run are there.
    """
    if _kept(folder, result) < resamples:
        keep_replicates(result, folder, cache, resamples)
    with np.load(replicates_file(folder, result)) as arrays:
        score = arrays[f"{task}/score"]
        draws = score + arrays[f"{task}/deviation"][:resamples].astype(np.float64)
    return Replicates({_MEAN: score[None]}, {_MEAN: draws[:, None]})


def keep_replicates(
    result: Result, folder: str | Path, cache: str | Path, resamples: int = RESAMPLES
) -> None:
    """Resample the scores of a run, and write what came out beside its result.

    A resample's distance from the score is kept in half precision: it is rounded by less than 0.001 points.
    """
    path = scores_file(cache, result.key)
    if not path.is_file():
        raise UserError(
            f"the scores of {result.file} are not in {cache}: run `matryoshka2d reproduce` again, "
            f"or ask for no more resamples than were published"
        )
    arrays: dict[str, Any] = {"key": np.array(result.key), "resamples": np.array(resamples)}
    for task in result.grids:
        scores, gold = read_scores(path, task)
        made = (
            bootstrap_spearman(scores, gold, resamples=resamples)
            if task == STS
            else bootstrap_means(scores, resamples=resamples)
        )
        score, draws = made.of()
        arrays[f"{task}/score"] = score[0]
        arrays[f"{task}/deviation"] = (draws - score)[:, 0].astype(np.float16)
    with staged_file(replicates_file(folder, result)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def joined(parts: Iterable[Iterable[Replicates]]) -> Replicates:
    """Return seeds x sizes from replicates of single runs: for each seed those that hold its sizes."""
    scores, draws = [], []
    for part in parts:
        runs = [one.of() for one in part]
        scores.append(np.concatenate([score for score, _ in runs], axis=1))
        draws.append(np.concatenate([drawn for _, drawn in runs], axis=2))
    return Replicates({_MEAN: np.concatenate(scores)}, {_MEAN: np.concatenate(draws, axis=1)})


def _kept(folder: str | Path, result: Result) -> int:
    """Return how many resamples of a run are kept; those of an earlier run of the same name are none."""
    path = replicates_file(folder, result)
    if not path.is_file():
        return 0
    with np.load(path) as arrays:
        return int(arrays["resamples"]) if str(arrays["key"]) == result.key else 0
