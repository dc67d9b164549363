"""Filters on fields, as text that every store compares alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matryoshka2d.errors import UserError

_SCALARS = (str, int, float)


def wanted_values(where: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return field → the texts of which its value must be one.

    >>> wanted_values({"lang": "en", "year": [2020, 2021], "open": True})
    {'lang': ['en'], 'year': ['2020', '2021'], 'open': ['true']}
    """
    wanted = {
        name: [_text(name, one) for one in (value if isinstance(value, (list, tuple, set)) else [value])]
        for name, value in where.items()
    }
    for name, texts in wanted.items():
        # SQLite's paths cannot name such a field, PostgreSQL knows no such text.
        if '"' in name or "\0" in "".join([name, *texts]):
            raise UserError(
                f"a filter on {name!r} cannot be: no field's name has quotes, no text a zero byte"
            )
    return wanted


def field_texts(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields that a filter may name as the texts that it compares with.

    >>> field_texts({"lang": "en", "open": True, "tags": ["a"]})
    {'lang': 'en', 'open': 'true'}
    """
    return {name: _text(name, value) for name, value in fields.items() if isinstance(value, _SCALARS)}


def read_filters(texts: list[str]) -> dict[str, list[str]]:
    """Read ``["lang=en", "lang=de"]``: values of one field are alternatives.

    >>> read_filters(["lang=en", "lang=de", "year=2020"])
    {'lang': ['en', 'de'], 'year': ['2020']}
    """
    where: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"'{text}' is not a filter: expected FIELD=VALUE, as in lang=en")
        where.setdefault(name, []).append(value)
    return where


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _SCALARS):
        return str(value)
    raise UserError(
        f"a filter on '{name}' compares with {value!r}: expected a text, a number or true or false"
    )
