"""A size: how many layers a model runs and how many dims of its vector it keeps.

>>> size = Size.parse("6x128")
>>> size.layers, size.dims
(6, 128)
>>> [str(size) for size in parse_sizes("1-2x8,16")]
['1x8', '1x16', '2x8', '2x16']
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from matryoshka2d.errors import UserError

_NUMBERS = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?")
_MOST_SIZES = 32_768
"""More than any model has: a grid beyond is a slip of the hand, and would fill the memory."""
_SMALLEST_DEFAULT_DIMS = 8


@dataclass(frozen=True, order=True)
class Size:
    """The pair (layers, dims), written ``6x128``.

    Parameters
    ----------
    layers
        Number of transformer layers that run, from 1 to the depth of the model.
    dims
        Number of leading coordinates of the vector that are kept, from 1 to the width of the model.

    Raises
    ------
    UserError
        If either number is below 1.

    Examples
    --------
    >>> Size(6, 128) == Size.parse("6x128")
    True
    >>> str(Size(2, 32))
    '2x32'
    >>> Size(1, 384) < Size(2, 32)
    True
    """

    layers: int
    dims: int

    def __post_init__(self) -> None:
        if self.layers < 1 or self.dims < 1:
            raise UserError(
                f"size {self.layers}x{self.dims} is not possible: layers and dims must both be at least 1, "
                f"as in 6x128"
            )

    def __str__(self) -> str:
        return f"{self.layers}x{self.dims}"

    @classmethod
    def parse(cls, text: str | Size) -> Size:
        """Read ``"6x128"``; a `Size` is returned as it is.

        Raises
        ------
        UserError
            If the text is not two whole numbers joined by ``x``.
        """
        if isinstance(text, Size):
            return text
        match = re.fullmatch(r"\s*(\d{1,9})\s*[xX×]\s*(\d{1,9})\s*", str(text))
        if match is None:
            raise UserError(f"'{text}' is not a size: expected LAYERSxDIMS, as in 6x128")
        return cls(int(match[1]), int(match[2]))

    def check(self, layers: int, dims: int) -> Size:
        """Return this size if a model of that depth and width has it.

        Parameters
        ----------
        layers, dims
            Depth and full width of the model.

        Raises
        ------
        UserError
            If this size is deeper or wider than the model.
        """
        if self.layers > layers:
            raise UserError(f"size {self} is too deep: the model has {layers} layers, use 1 to {layers}")
        if self.dims > dims:
            raise UserError(f"size {self} is too wide: the model has {dims} dims, use 1 to {dims}")
        return self


def parse_sizes(text: str | Iterable[str | Size]) -> tuple[Size, ...]:
    """Read one or more grids of sizes, sorted and without repeats.

    A grid is LAYERSxDIMS where each side is a comma-separated list of numbers and ranges
    (``1-6`` or, with a step, ``2-12:2``). Grids stand side by side, separated by spaces; a plain
    list of sizes may also be separated by commas.

    Parameters
    ----------
    text
        ``"1-6x8,16,32"``, ``"2x32 4x64"`` or ``"2x32,4x64"``; or an iterable of such texts or sizes.

    Raises
    ------
    UserError
        If a part is not a grid, a range runs backwards, or nothing is named.

    Examples
    --------
    >>> [str(size) for size in parse_sizes("2-6:2x64")]
    ['2x64', '4x64', '6x64']
    >>> [str(size) for size in parse_sizes("1x32,2x64")]
    ['1x32', '2x64']
    """
    parts = text.split() if isinstance(text, str) else list(text)
    sizes = {size for part in parts for size in _grid(part)}
    if not sizes:
        raise UserError(f"no size in '{text}': expected sizes such as 6x128 or 1-6x8,16,32")
    return tuple(sorted(sizes))


def _grid(part: str | Size) -> Iterator[Size]:
    if isinstance(part, Size):
        yield part
        return
    pieces = part.lower().replace("×", "x").split(",")
    if len(pieces) > 1 and all("x" in piece for piece in pieces):
        yield from (Size.parse(piece) for piece in pieces)
        return
    sides = ",".join(pieces).split("x")
    if len(sides) != 2:
        raise UserError(f"'{part}' is not a grid of sizes: expected LAYERSxDIMS, as in 6x128 or 1-6x8,16,32")
    layers, dims = (parse_numbers(side, part) for side in sides)
    if len(layers) * len(dims) > _MOST_SIZES:
        raise UserError(f"'{part}' names {len(layers) * len(dims)} sizes: expected {_MOST_SIZES} at most")
    yield from (Size(n, d) for n in layers for d in dims)


def parse_numbers(text: str, part: str) -> list[int]:
    """Read one side of a grid: numbers and ranges, separated by commas.

    Parameters
    ----------
    text
        ``"1-3,6"`` or, with a step, ``"2-12:2"``.
    part
        What it stands in, for the message of an error.

    Raises
    ------
    UserError
        If a piece is neither a number nor a range, or a range runs backwards.

    Examples
    --------
    >>> parse_numbers("1-3,6", "1-3,6x128")
    [1, 2, 3, 6]
    """
    numbers: list[int] = []
    for piece in text.split(","):
        match = _NUMBERS.fullmatch(piece.strip())
        if match is None:
            raise UserError(f"'{piece}' in '{part}' is not a number or a range such as 1-6")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first or step < 1:
            raise UserError(f"range '{piece}' in '{part}' is empty: write the smaller number first: 1-6")
        if (last - first) // step >= _MOST_SIZES:
            raise UserError(
                f"range '{piece}' in '{part}' is too long: expected {_MOST_SIZES} numbers at most"
            )
        numbers.extend(range(first, last + 1, step))
    return numbers


def default_dims(width: int) -> tuple[int, ...]:
    """Return the widths that are trained and shown unless the user names others.

    The powers of two from 8 upwards, half the width, and the width itself.

    >>> default_dims(384)
    (8, 16, 32, 64, 128, 192, 256, 384)
    """
    powers = {2**k for k in range(3, width.bit_length()) if _SMALLEST_DEFAULT_DIMS <= 2**k < width}
    half = {width // 2} if width // 2 >= _SMALLEST_DEFAULT_DIMS else set()
    return tuple(sorted(powers | half | {width}))


def default_sizes(layers: int, width: int) -> tuple[Size, ...]:
    """Return every depth at every default width, smallest first.

    >>> len(default_sizes(6, 384))
    48
    """
    return tuple(Size(n, d) for n in range(1, layers + 1) for d in default_dims(width))
