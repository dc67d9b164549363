"""How often each data set of a mixture gives the batch, and in which order they take turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from matryoshka2d.errors import UserError, did_you_mean

FIXED, TEMPERATURE = "fixed", "temperature"
MIXES = (FIXED, TEMPERATURE)

USUAL_TEMPERATURE = 2.0
"""Shares by the square root of the rows."""


def fixed_shares(weights: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """Return what each data set's weight is of all weights.

    Raises
    ------
    UserError
        If a data set has no weight or no positive one, or a weight is of no data set.

    Examples
    --------
    >>> fixed_shares({"nli": 3, "qa": 1}, ["nli", "qa"])
    [0.75, 0.25]
    """
    check_names(weights, names, "mix_weights")
    missing = [name for name in names if name not in weights]
    if missing:
        raise UserError(f"mix_weights has none for '{missing[0]}': name all of {', '.join(names)}")
    for name in names:
        if not 0 < weights[name] < float("inf"):
            raise UserError(f"mix_weights of '{name}' is {weights[name]:g}: expected a number above 0")
    whole = sum(weights[name] for name in names)
    return [weights[name] / whole for name in names]


def temperature_shares(rows: Sequence[int], temperature: float = 1.0) -> list[float]:
    """Return shares in proportion to rows ** (1 / temperature): 1 by the rows, higher is more even.

    >>> temperature_shares([750, 250]), temperature_shares([900, 100], 2)
    ([0.75, 0.25], [0.75, 0.25])
    """
    # Relative to the largest, so that no power is out of range.
    powers = [(count / max(rows)) ** (1 / temperature) for count in rows]
    return [power / sum(powers) for power in powers]


def turns(shares: Sequence[float]) -> Iterator[int]:
    """Yield whose turn it is, without end: after any number of turns each has had its share, to within one.

    Of those that are behind their share, the one takes its turn that would fall behind by a whole turn first.
    Nothing is drawn, so that all processes and a resumed run agree.

    Parameters
    ----------
    shares
        Positive numbers that sum to 1.

    Examples
    --------
    >>> from itertools import islice
    >>> list(islice(turns([0.5, 0.25, 0.25]), 8))
    [0, 1, 0, 2, 0, 1, 0, 2]
    """
    had = [0] * len(shares)
    number = 0
    while True:
        number += 1
        behind = [place for place, share in enumerate(shares) if had[place] < share * number]
        place = min(behind, key=lambda place: (had[place] + 1) / shares[place])
        had[place] += 1
        yield place


def check_names(given: Mapping[str, object], names: Sequence[str], option: str) -> None:
    """Raise a `UserError` if an option names a data set that is not there."""
    for name in given:
        if name not in names:
            raise UserError(
                f"{option} names '{name}', but the data sets are {', '.join(names)}."
                f"{did_you_mean(name, names)}"
            )
