"""How long a run over streams is, and which of them gives which batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matryoshka2d.data.mixture import Mixture
from matryoshka2d.data.shares import FIXED, USUAL_TEMPERATURE, fixed_shares, temperature_shares
from matryoshka2d.data.stream_batch_sampler import StreamBatchSampler
from matryoshka2d.data.streams import Stream
from matryoshka2d.errors import UserError
from matryoshka2d.training.training_options import TrainingOptions


def mixture_shares(rows: Mapping[str, int | None], options: TrainingOptions) -> list[float]:
    """Return how large a part of the batches comes from each data set.

    Parameters
    ----------
    rows
        Name → how many rows, or None where that is not known.
    options
        The choices of the run.

    Raises
    ------
    UserError
        If a weight or a number of rows is missing.

    Examples
    --------
    >>> mixture_shares({"nli": 900, "qa": 100}, TrainingOptions(mix="temperature", mix_temperature=2))
    [0.75, 0.25]
    """
    names = list(rows)
    if options.mix == FIXED:
        return fixed_shares(options.weights(), names)
    if len(names) == 1:
        return [1.0]
    known = [count for count in rows.values() if count is not None]
    if len(known) < len(names):
        raise UserError(
            f"the rows of {_unknown(rows)} are not known, by which the data sets are mixed: say how many, as "
            f"--rows {_unknown(rows)}=100000, or choose --mix fixed"
        )
    if options.mix is None:
        return temperature_shares(known)
    return temperature_shares(known, options.mix_temperature or USUAL_TEMPERATURE)


def batches_of_run(rows: Mapping[str, int | None], options: TrainingOptions) -> int:
    """Return how many batches a run over streams has.

    >>> batches_of_run({"nli": 900, "qa": None}, TrainingOptions(batch_size=64, max_steps=7))
    7
    >>> batches_of_run({"nli": 900}, TrainingOptions(batch_size=64, epochs=2))
    28
    """
    if options.max_steps is not None:
        return options.max_steps * options.gradient_accumulation
    if _unknown(rows):
        raise UserError(
            f"the length of {_unknown(rows)} is not known: say how many steps to train, as --max-steps 1000, "
            f"or how many rows it has, as --rows {_unknown(rows)}=100000"
        )
    batches = sum(math.floor(options.epochs * (count or 0) / options.batch_size) for count in rows.values())
    if not batches:
        held = sum(count or 0 for count in rows.values())
        raise UserError(f"{held} rows fill no batch of {options.batch_size}: lower --batch-size")
    return batches


def stream_batches(mixture: Mixture[Stream], options: TrainingOptions) -> StreamBatchSampler:
    """Return the batches of a run over streams."""
    return StreamBatchSampler(
        mixture.datasets,
        mixture_shares(mixture.rows, options),
        batch_size=options.batch_size,
        length=batches_of_run(mixture.rows, options),
        buffer=options.buffer,
        seed=options.seed,
    )


def _unknown(rows: Mapping[str, int | None]) -> str | None:
    return next((name for name, count in rows.items() if count is None), None)
