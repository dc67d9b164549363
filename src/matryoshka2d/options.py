"""Registries of frozen dataclasses: made by name, with options that may come as text.

Objectives and strategies are both chosen by a name and a handful of options, from Python or from a
command line. What an option is called, its type and its default are the fields of the dataclass; what
it means and when to change it is the `Parameters` section of its docstring. Nothing is written twice.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.size import Size, parse_sizes

T = TypeVar("T")

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


@dataclass(frozen=True)
class Option:
    """One option of an objective or a strategy, as the docs and the command line show it."""

    name: str
    type: str
    default: str
    help: str


@dataclass(frozen=True)
class Description:
    """What a name in a registry stands for: one line, and its options."""

    name: str
    summary: str
    options: tuple[Option, ...]


def make(kind: str, registry: Mapping[str, type[T]], name: str, options: Mapping[str, Any]) -> T:
    """Make the member of a registry that is called `name`.

    Parameters
    ----------
    kind
        What the registry holds, for messages: ``"objective"`` or ``"strategy"``.
    registry
        Name → frozen dataclass.
    name
        A key of the registry.
    options
        Fields of the dataclass; texts are parsed to the type of the field.

    Raises
    ------
    UserError
        If the name, an option or the value of an option is not known.
    """
    if name not in registry:
        known = ", ".join(registry)
        raise UserError(
            f"no {kind} is called '{name}': expected one of {known}.{did_you_mean(name, registry)}"
        )
    made = registry[name]
    hints = get_type_hints(made)
    fields = [field.name for field in _fields(made)]
    owner = f"{kind} '{name}'"
    values = {}
    for option, value in options.items():
        if option not in fields:
            raise UserError(
                f"{owner} has no option '{option}': {_listed(fields)}.{did_you_mean(option, fields)}"
            )
        values[option] = _value(owner, option, hints[option], value)
    return made(**values)


def describe_registry(registry: Mapping[str, type[Any]]) -> tuple[Description, ...]:
    """Return the one-line summary and the options of every member of a registry."""
    return tuple(_describe(name, made) for name, made in registry.items())


def require(condition: bool, message: str) -> None:
    """Raise `UserError` with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_positive(owner: object, *names: str) -> None:
    """Raise `UserError` unless each of the named fields is a number above 0."""
    for name in names:
        value = getattr(owner, name)
        label = f"{type(owner).__name__}.{name}"
        require(0 < value < float("inf"), f"{label} is {value}: expected a number above 0")


def require_not_negative(owner: object, *names: str) -> None:
    """Raise `UserError` unless each of the named fields is a number of at least 0."""
    for name in names:
        value = getattr(owner, name)
        label = f"{type(owner).__name__}.{name}"
        require(0 <= value < float("inf"), f"{label} is {value}: expected 0 or more")


def require_choices(owner: Any) -> None:
    """Raise `UserError` unless every field with a fixed list of values has one of them."""
    for name, annotation in get_type_hints(type(owner)).items():
        choices = _choices(annotation)
        value = getattr(owner, name)
        if choices and value not in choices:
            label, expected = f"{type(owner).__name__}.{name}", _type_name(annotation)
            hint = did_you_mean(str(value), map(str, choices))
            raise UserError(f"{label} is {value!r}: expected {expected}.{hint}")


def _choices(annotation: Any) -> tuple[object, ...]:
    """Return the values that a Literal, or an optional Literal, allows; nothing for any other type."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [choice for part in get_args(annotation) for choice in _choices(part)]
        return (*inner, None) if inner else ()
    return ()


def _fields(made: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(made)


def _listed(fields: Iterable[str]) -> str:
    names = ", ".join(fields)
    return f"expected one of {names}" if names else "it takes none"


def _value(owner: str, option: str, annotation: Any, value: object) -> Any:
    try:
        return _read(annotation, value)
    except UserError as error:
        raise UserError(f"option '{option}' of {owner}: {error}") from None
    except (TypeError, ValueError, OverflowError):
        hint = did_you_mean(str(value), map(str, _choices(annotation)))
        raise UserError(
            f"option '{option}' of {owner} is {value!r}: expected {_type_name(annotation)}.{hint}"
        ) from None


def _read(annotation: Any, value: object) -> Any:
    """Return the value in the type of the annotation, or raise ValueError or TypeError."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _read_optional(annotation, value)
    if origin is Literal:
        if value not in get_args(annotation):
            raise ValueError
        return value
    if origin is tuple:
        return _read_tuple(get_args(annotation)[0], value)
    return _READERS[annotation](value)


def _read_optional(annotation: Any, value: object) -> Any:
    if value is None or str(value).lower() == "none":
        return None
    (inner,) = (choice for choice in get_args(annotation) if choice is not type(None))
    return _read(inner, value)


def _read_tuple(item: Any, value: Any) -> tuple[Any, ...]:
    if item is Size:
        return parse_sizes(value)
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    return tuple(_read(item, one) for one in (value if isinstance(value, Iterable) else (value,)))


def _read_bool(value: object) -> bool:
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _read_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _read_float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


_READERS: dict[Any, Any] = {bool: _read_bool, int: _read_int, float: _read_float, str: str}


def _type_name(annotation: Any) -> str:
    """Name a type in words that follow 'expected'."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if one is type(None) else _type_name(one) for one in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple:
        return _TUPLE_NAMES[arguments[0]]
    return _NAMES[annotation]


_NAMES: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number"}
_TUPLE_NAMES: dict[Any, str] = {
    int: "whole numbers, as in 8,16,32",
    float: "numbers, as in 1,0.5",
    str: "names, as in q_proj,v_proj",
    Size: "sizes, as in 2x32 4x64",
}


def _describe(name: str, made: type[Any]) -> Description:
    doc = inspect.getdoc(made) or ""
    hints, helps = get_type_hints(made), _parameters(doc)
    options = tuple(
        Option(field.name, _type_name(hints[field.name]), _default(field.default), helps.get(field.name, ""))
        for field in _fields(made)
    )
    return Description(name, doc.partition("\n")[0], options)


def _default(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parameters(doc: str) -> dict[str, str]:
    """Return name → text of the `Parameters` section of a numpy-style docstring."""
    helps: dict[str, str] = {}
    names: list[str] = []
    _, _, section = doc.partition("\nParameters\n----------\n")
    for line, following in pairwise([*section.splitlines(), ""]):
        if following.startswith("---"):
            break
        if line and not line.startswith(" "):
            names = [name.strip() for name in line.split(",")]
        elif line:
            helps |= {name: f"{helps.get(name, '')} {line.strip()}".strip() for name in names}
    return helps


OptionsT = TypeVar("OptionsT")


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


def given_options(made: type[OptionsT], options: OptionsT | None, choices: Mapping[str, Any]) -> OptionsT:
    """Return the options that a function was given: whole, or field by field, but not both.

    Raises
    ------
    UserError
        If both were given.
    """
    if options is not None and choices:
        raise UserError(f"choices beside options: put {', '.join(choices)} into the {made.__name__}")
    return options if options is not None else made(**choices)


def read_mapping(made: type[OptionsT], values: Mapping[str, Any], source: str) -> OptionsT:
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
