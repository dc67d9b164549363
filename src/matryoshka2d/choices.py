"""The choices of a run: a dataclass with a help text a field, for Python, YAML and the command line."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, field, fields
from typing import Any, TypeVar

from matryoshka2d.errors import UserError, did_you_mean

T = TypeVar("T")


def choice(default: Any, help: str) -> Any:
    """Return a dataclass field with its help text; mutable defaults are copied for every instance."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def stated(options: Any) -> dict[str, Any]:
    """Return the fields of some options that say something: what a model's record keeps of a run."""
    return {name: value for name, value in asdict(options).items() if value not in (None, {}, [])}


def turn_to_text(options: Any) -> None:
    """Let paths stand for texts, one path for a list of them, and values for the text of an option."""
    for one in fields(options):
        value = getattr(options, one.name)
        if one.name == "data":
            paths = [value] if isinstance(value, (str, os.PathLike)) else value
            value = [os.fspath(path) for path in paths]
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        elif isinstance(value, Mapping):
            value = {str(name): option_text(item) for name, item in value.items()}
        object.__setattr__(options, one.name, value)


def option_text(value: Any) -> str:
    """Return the value of an option as one writes it on the command line.

    >>> option_text([8, 16]), option_text(True)
    ('8,16', 'true')
    """
    if isinstance(value, (list, tuple)):
        return ",".join(option_text(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_range(name: str, value: float, low: float, high: float | None) -> None:
    """Raise a `UserError` unless a number is finite and lies between two bounds.

    >>> check_range("epochs", 1.0, 0.0, None)
    """
    if value < low or (high is not None and value > high) or not math.isfinite(value):
        upper = "" if high is None else f" and at most {high}"
        raise UserError(f"{name} is {value}: expected at least {low}{upper}")


def given_options(made: type[T], options: T | None, choices: Mapping[str, Any]) -> T:
    """Return the options that a function was given: whole, or field by field, but not both.

    Raises
    ------
    UserError
        If both were given.
    """
    if options is not None and choices:
        raise UserError(f"choices beside options: put {', '.join(choices)} into the {made.__name__}")
    return options if options is not None else made(**choices)


def read_mapping(made: type[T], values: Mapping[str, Any], source: str) -> T:
    """Build options from a mapping such as a YAML file.

    Parameters
    ----------
    made
        The dataclass of the options.
    values
        Name of a field, with hyphens or underscores → its value.
    source
        What is named in messages.

    Raises
    ------
    UserError
        If a key is unknown or a value has the wrong type.
    """
    known = {f.name: f for f in fields(made)}  # type: ignore[arg-type]
    clean = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in clean:
        if key not in known:
            raise UserError(f"{source}: unknown option '{key}'.{did_you_mean(key, known)}")
    return made(**{key: _typed(key, str(known[key].type), value, source) for key, value in clean.items()})


_EXPECTED = {
    "list[str]": "a text or a list of texts",
    "dict[str, str]": "names and values",
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


def _typed(key: str, annotation: str, value: Any, source: str) -> Any:
    if value is None and "None" in annotation:
        return None
    kind = annotation.split(" | ", maxsplit=1)[0]
    if kind == "list[str]":
        texts = value if isinstance(value, list) else [value]
        if all(isinstance(text, str) for text in texts):
            return texts
    elif kind == "dict[str, str]" and isinstance(value, Mapping):
        return value
    elif kind == "float" and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        # YAML reads 3e-4 as text.
        try:
            return float(value)
        except ValueError:
            pass
    elif (
        (kind == "int" and isinstance(value, int) and not isinstance(value, bool))
        or (kind == "bool" and isinstance(value, bool))
        or (kind == "str" and isinstance(value, (str, int, float)) and not isinstance(value, bool))
    ):
        return value if kind != "str" else str(value)
    raise UserError(f"{source}: option '{key}' is {value!r}: expected {_EXPECTED[kind]}")
