"""The grid: one score for every size, the thing that reports, plans and statistics read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from matryoshka2d.errors import UserError
from matryoshka2d.size import Size

MEAN = "mean"
"""The column that stands for the mean over sets."""

_DIGITS = 4


@dataclass(frozen=True)
class Inversion:
    """A size that is worse than a smaller one: more work for less.

    Parameters
    ----------
    size
        The size that should have been at least as good.
    smaller
        Its neighbor in the grid, one step shallower or one step narrower.
    loss
        By how many points the size is worse.
    """

    size: Size
    smaller: Size
    loss: float

    def __str__(self) -> str:
        return f"{self.size} is {self.loss:.2f} below {self.smaller}"


@dataclass(frozen=True)
class Grid:
    """Scores of a model at many sizes on one or more sets.

    Parameters
    ----------
    sizes
        The sizes, ascending.
    scores
        Set name → one score per size, in the order of `sizes`, times 100; nan where it is not defined
        (a correlation of cosines that are all the same).
    metric
        What was measured: ``"spearman"``, ``"pearson"``, ``"ndcg@10"`` …
    cut
        How the dims were chosen: ``"prefix"``, ``"pca"`` or ``"random"``.
    name
        What was measured on: the name of the model, shown in titles.
    details
        Anything else worth keeping beside the numbers: split, numbers of pairs, versions. JSON values only.

    Raises
    ------
    UserError
        If there is no size or no set, sizes are not ascending, lengths differ, or a set is called "mean".

    Examples
    --------
    >>> grid = Grid((Size(1, 8), Size(2, 8)), {"stsb": (60.0, 50.0), "sickr": (50.0, 58.0)})
    >>> grid.mean(Size(2, 8))
    54.0
    >>> str(grid.best())
    '1x8'
    >>> [str(inversion) for inversion in grid.inversions()]
    ['2x8 is 1.00 below 1x8']
    >>> Grid.from_json(grid.to_json()) == grid
    True
    """

    sizes: tuple[Size, ...]
    scores: Mapping[str, tuple[float, ...]]
    metric: str = "spearman"
    cut: str = "prefix"
    name: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sizes or not self.scores:
            raise UserError("a grid needs at least one size and one set")
        if list(self.sizes) != sorted(set(self.sizes)):
            raise UserError("the sizes of a grid must be ascending and without repeats")
        if MEAN in self.scores:
            raise UserError(f"a set cannot be called '{MEAN}': that is the mean over sets, rename it")
        for name, values in self.scores.items():
            if len(values) != len(self.sizes):
                raise UserError(f"set {name} has {len(values)} scores for {len(self.sizes)} sizes")

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the sets."""
        return tuple(self.scores)

    @property
    def layers(self) -> tuple[int, ...]:
        """The depths in the grid, ascending."""
        return tuple(sorted({size.layers for size in self.sizes}))

    @property
    def dims(self) -> tuple[int, ...]:
        """The widths in the grid, ascending."""
        return tuple(sorted({size.dims for size in self.sizes}))

    def values(self, set_name: str = MEAN) -> dict[Size, float]:
        """Return size → score of one set, or of the mean over sets.

        Raises
        ------
        UserError
            If the grid has no such set.
        """
        if set_name == MEAN:
            columns = list(self.scores.values())
            means = [sum(row) / len(row) for row in zip(*columns, strict=True)]
            return dict(zip(self.sizes, means, strict=True))
        if set_name not in self.scores:
            raise UserError(f"the grid has no set '{set_name}': expected {', '.join([MEAN, *self.scores])}")
        return dict(zip(self.sizes, self.scores[set_name], strict=True))

    def mean(self, size: str | Size) -> float:
        """Return the mean over sets at one size."""
        return self.score(size, MEAN)

    def score(self, size: str | Size, set_name: str = MEAN) -> float:
        """Return one cell.

        Raises
        ------
        UserError
            If the grid has no such size or set.
        """
        wanted = Size.parse(size)
        if wanted not in self.sizes:
            raise UserError(
                f"size {wanted} is not in the grid: expected one of {', '.join(map(str, self.sizes))}"
            )
        return self.values(set_name)[wanted]

    def mean_over_sizes(self, set_name: str = MEAN) -> float:
        """Return the mean of all cells: one number for the whole grid."""
        values = self.values(set_name).values()
        return sum(values) / len(values)

    def best(self, set_name: str = MEAN) -> Size:
        """Return the size with the highest score; the smallest of them if several tie."""
        values = self.values(set_name)
        return max(self.sizes, key=lambda size: -math.inf if math.isnan(values[size]) else values[size])

    def inversions(self, tolerance: float = 0.1, set_name: str = MEAN) -> tuple[Inversion, ...]:
        """Return the cells that are worse than the cell one step shallower or one step narrower.

        They are the signature of an elastic model that failed: a reader of the grid would pay for layers
        or dims that take quality away.

        Parameters
        ----------
        tolerance
            Points that a larger size may be worse without being listed. The default lets the noise
            between two wide cuts pass; raise it for small sets, lower it to 0 to see every step down.
        set_name
            One set, or the mean over sets.

        Returns
        -------
        tuple of Inversion
            In the order of the sizes; a cell that loses in both directions is listed twice.
        """
        values = self.values(set_name)
        losses = (Inversion(size, smaller, values[smaller] - values[size]) for size, smaller in self._steps())
        return tuple(step for step in losses if step.loss > tolerance)

    def undefined(self, set_name: str = MEAN) -> tuple[Size, ...]:
        """Return the sizes without a score: nothing they say varies, so that nothing can be ranked."""
        return tuple(size for size, value in self.values(set_name).items() if math.isnan(value))

    def noted(self) -> Grid:
        """Return the grid with a note, among its details, of every set without a score at some size."""
        own = [
            f"set {name}: similarity does not vary at {_some(self.undefined(name))}: all texts look alike "
            f"there, and no score is defined"
            for name in self.scores
            if self.undefined(name)
        ]
        if not own:
            return self
        return replace(self, details={**self.details, "notes": [*self.details.get("notes", []), *own]})

    def _steps(self) -> Iterator[tuple[Size, Size]]:
        """Yield every size with its shallower and its narrower neighbor in the grid."""
        for size in self.sizes:
            shallower = [s for s in self.sizes if s.dims == size.dims and s.layers < size.layers]
            narrower = [s for s in self.sizes if s.layers == size.layers and s.dims < size.dims]
            yield from ((size, max(smaller)) for smaller in (shallower, narrower) if smaller)

    # --- in and out --------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the grid as JSON values: ``{"grid": {"6x384": {"mean": 78.87, "sts12": 72.37, …}}, …}``.

        Scores have four decimals, a millionth of a correlation; an undefined score is None.
        """
        columns = {name: self.values(name) for name in (MEAN, *self.scores)}
        cells = {
            str(size): {name: _rounded(values[size]) for name, values in columns.items()}
            for size in self.sizes
        }
        return {
            "name": self.name,
            "metric": self.metric,
            "cut": self.cut,
            "details": dict(self.details),
            "grid": cells,
        }

    def to_json(self) -> str:
        """Return the text of `to_dict`, indented."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Grid:
        """Read what `to_dict` gives; only ``grid`` is required, and means are computed anew.

        Raises
        ------
        UserError
            If the form is another.
        """
        try:
            rows = sorted((Size.parse(size), dict(row)) for size, row in values["grid"].items())
            names = [name for name in rows[0][1] if name != MEAN]
            # A table that kept only the means is still a grid, of one set.
            scores = {name: tuple(_number(row[name]) for _, row in rows) for name in names} or {
                "all": tuple(_number(row[MEAN]) for _, row in rows)
            }
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise UserError(
                'not a grid: expected {"grid": {"6x384": {"mean": 78.9, "stsb": 82.0}, ...}} with the same '
                f"sets at every size ({type(error).__name__}: {error})"
            ) from error
        return cls(
            tuple(size for size, _ in rows),
            scores,
            str(values.get("metric", "spearman")),
            str(values.get("cut", "prefix")),
            str(values.get("name", "")),
            dict(values.get("details", {})),
        )

    @classmethod
    def from_json(cls, text: str) -> Grid:
        """Read what `to_json` gives.

        Raises
        ------
        UserError
            If the text is not JSON or not a grid.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"not a grid: not JSON (line {error.lineno}: {error.msg})") from error
        if not isinstance(values, dict):
            raise UserError('not a grid: expected a JSON object with the key "grid"')
        return cls.from_dict(values)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Grid:
        """Read a grid from a JSON file.

        Raises
        ------
        UserError
            If the file is missing or not a grid; the message names it.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the grid {path}: {error.strerror or error}") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write the grid as a JSON file, or as CSV if the name ends in ``.csv``."""
        from matryoshka2d.files import staged_file

        text = self.to_csv() if Path(path).suffix == ".csv" else self.to_json() + "\n"
        with staged_file(path, overwrite=overwrite) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def to_csv(self) -> str:
        """Return one line a size: ``size,layers,dims,mean`` and a column a set, four decimals."""
        columns = {name: self.values(name) for name in (MEAN, *self.scores)}
        lines = [",".join(["size", "layers", "dims", *columns])]
        for size in self.sizes:
            cells = [_cell(values[size]) for values in columns.values()]
            lines.append(",".join([str(size), str(size.layers), str(size.dims), *cells]))
        return "\n".join(lines) + "\n"


def _some(sizes: tuple[Size, ...], most: int = 6) -> str:
    return ", ".join(map(str, sizes[:most])) + (" …" if len(sizes) > most else "")


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, _DIGITS)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.{_DIGITS}f}"
