"""What each value of a training row must be, and one line that says where it is not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from matryoshka2d.data.row_formats import NO_GROUP
from matryoshka2d.data.rows import MISSING, Table
from matryoshka2d.errors import UserError

_CLASSES = {0.0, 1.0, 2.0}


def checked_texts(table: Table, column: str, rows: Sequence[int]) -> list[str]:
    """Return the texts of a column as they stand, shape (rows,); null is an empty one.

    Raises
    ------
    UserError
        If a value is missing or not a text.
    """
    texts = table.column(column, rows)
    for row, text in zip(rows, texts, strict=True):
        if not (isinstance(text, str) or text is None):
            raise _no_text(table, column, row, text)
    return [text or "" for text in texts]


def _no_text(table: Table, column: str, row: int, value: object) -> UserError:
    if value is MISSING:
        return UserError(f"{table.place(row)}: there is no '{column}': every row needs the same columns")
    kind = f"the {type(value).__name__} {_short(value)}"
    return UserError(f"{table.place(row)}: column '{column}' is {kind}: expected a text")


def checked_groups(table: Table, column: str, rows: Sequence[int]) -> list[str | int]:
    """Return the groups of a column as texts; `NO_GROUP` where there is none.

    Raises
    ------
    UserError
        If a group is neither a text nor a number.
    """
    return [
        _group(table, column, row, value) for row, value in zip(rows, table.column(column, rows), strict=True)
    ]


def numbered(groups: Sequence[str | int]) -> list[int]:
    """Return the groups of a column, numbered in order of appearance; `NO_GROUP` where there is none.

    Numbers and not names, since the trainer's model card shows every column of texts as example sentences.

    >>> numbered(["b", -1, "a", "b"])
    [0, -1, 1, 0]
    """
    numbers: dict[str, int] = {}
    return [numbers.setdefault(group, len(numbers)) if isinstance(group, str) else group for group in groups]


def _group(table: Table, column: str, row: int, value: Any) -> str | int:
    if value is MISSING or value is None or not str(value).strip():
        return NO_GROUP
    if not isinstance(value, str | int | float):
        raise UserError(
            f"{table.place(row)}: column '{column}' is {_short(value)}: expected a text or a number"
        )
    missing = isinstance(value, float) and math.isnan(value)
    return NO_GROUP if missing else str(value)


def checked_numbers(table: Table, column: str, rows: Sequence[int]) -> list[float]:
    """Return the scores of a column as they stand, shape (rows,).

    Raises
    ------
    UserError
        If a value is missing or is not a finite number.
    """
    return [
        _number(table, column, row, value)
        for row, value in zip(rows, table.column(column, rows), strict=True)
    ]


def _number(table: Table, column: str, row: int, value: Any) -> float:
    if value is MISSING:
        raise _no_text(table, column, row, value)
    if isinstance(value, str) and not value.strip():
        raise UserError(f"{table.place(row)}: column '{column}' is empty: expected a number")
    number = _as_number(value)
    if number is None:
        raise UserError(f"{table.place(row)}: column '{column}' is {_short(value)}: expected a number")
    return number


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if isinstance(value, str) and "_" in value:  # python reads 1_5 as 15, nobody else does
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def guessed_range(column: str, scored: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """Return the scale of scores, each with where it stands: 0 to 1 or, if any is above 1, the 0 to 5 of STS.

    Raises
    ------
    UserError
        If a score is below 0 or above 5, or if the scores look like the classes 0, 1, 2.
    """
    scores = {score: place for place, score in reversed(scored)}
    if set(scores) == _CLASSES:
        raise UserError(
            f"{scores[2.0]}: column '{column}' holds only 0, 1 and 2: "
            f"these are classes rather than scores; give score_range if they are similarities, as in (0, 2)"
        )
    highest = 5.0 if max(scores) > 1 else 1.0
    check_range(column, scored, (0.0, highest), hint="give score_range if their scale is another")
    return 0.0, highest


def check_range(
    column: str,
    scored: Iterable[tuple[str, float]],
    score_range: tuple[float, float],
    *,
    hint: str = "mend the row or give another score_range",
) -> None:
    """Raise a `UserError` that names the first place whose score lies outside of the range."""
    low, high = score_range
    for place, score in scored:
        if not low <= score <= high:
            raise UserError(f"{place}: column '{column}' is {score:g}, expected {low:g} to {high:g}: {hint}")


def _short(value: object, longest: int = 40) -> str:
    shown = repr(value)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
