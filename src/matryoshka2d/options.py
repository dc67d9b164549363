"""Options: frozen pydantic dataclasses, made in Python, from text, from YAML or from flags.

What an option is called, its type, its bounds and its default are the fields of the dataclass. pydantic
checks them; `UserError` says in one line what it found. Objectives, strategies and adapters are chosen by
name from a registry of such dataclasses; the `Parameters` section of the docstring says what each of their
options means.
"""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, Union, cast, dataclass_transform, get_args, get_origin

import annotated_types as bounds
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.fields import FieldInfo

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.size import Size, parse_sizes

T = TypeVar("T")


def _split(value: Any) -> Any:
    """Let text such as ``8,16`` and single values stand for several."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return value if isinstance(value, Iterable) and not isinstance(value, Mapping) else (value,)


def _no_none(value: Any) -> Any:
    """Let the text ``none`` stand for no value."""
    return None if isinstance(value, str) and value.lower() == "none" else value


def _to_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _to_texts(value: Any) -> Any:
    """Let one path or text stand for a list of them."""
    values = [value] if isinstance(value, (str, os.PathLike)) else value
    return [_to_text(one) for one in values] if isinstance(values, (list, tuple)) else values


def _to_option_texts(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {str(name): option_text(item) for name, item in value.items()}


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, BeforeValidator(_to_text)]
Texts = Annotated[list[str], BeforeValidator(_to_texts)]
"""Texts or paths; one stands for a list of one."""
Pairs = Annotated[dict[str, str], BeforeValidator(_to_option_texts)]
"""Names and values; values become the text that one writes on the command line."""
Numbers = Annotated[tuple[float, ...], BeforeValidator(_split)]
WholeNumbers = Annotated[tuple[int, ...], BeforeValidator(_split)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Sizes = Annotated[tuple[Size, ...], BeforeValidator(parse_sizes)]

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


class OptionError(UserError):
    """A wrong option: its name, and what is wrong with it."""

    def __init__(self, name: str, wrong: str) -> None:
        super().__init__(f"{name} {wrong}")
        self.name, self.wrong = name, wrong

    def __reduce__(self) -> tuple[Any, ...]:
        return OptionError, (self.name, self.wrong)


@dataclass_transform(frozen_default=True)
def options(made: type[T]) -> type[T]:
    """Make a frozen dataclass whose fields are checked, and whose mistakes are one line.

    Examples
    --------
    >>> @options
    ... class Drawing:
    ...     temperature: Positive = 1.0
    >>> Drawing(temperature="0.5").temperature
    0.5
    >>> Drawing(temperature=0)
    Traceback (most recent call last):
        ...
    matryoshka2d.options.OptionError: temperature is 0: expected a number above 0
    """
    checked = cast(type[Any], pydantic_dataclass(frozen=True, config=_CONFIG)(made))
    check = checked.__init__

    @functools.wraps(check)
    def init(self: Any, *args: Any, **values: Any) -> None:
        for name, value in values.items():
            # pydantic takes true for 1.
            if isinstance(value, bool) and name in fields_of(checked) and not _takes_bool(checked, name):
                raise OptionError(name, f"is {value!r}: expected {_expected(fields_of(checked)[name])}")
        try:
            check(self, *args, **{name: _none_of(checked, name, value) for name, value in values.items()})
        except ValidationError as error:
            raise _in_one_line(checked, error) from None

    checked.__init__ = init
    return checked


def fields_of(made: type[Any]) -> dict[str, FieldInfo]:
    """Return name → field of a dataclass that `options` made."""
    return cast(dict[str, FieldInfo], made.__pydantic_fields__)


def choice(default: Any, help: str) -> Any:
    """Return a field with its help text; mutable defaults are copied for every instance."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def build(made: type[T], values: Mapping[str, Any], label: Callable[[str], str]) -> T:
    """Make options from values, which may be texts.

    Parameters
    ----------
    made
        A dataclass that `options` made.
    values
        Name of a field → its value.
    label
        Name of a field → how a message names it.

    Raises
    ------
    UserError
        If a value is wrong.
    """
    try:
        return made(**values)
    except OptionError as error:
        raise UserError(f"{label(error.name)} {error.wrong}") from None


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
    """Make options from a mapping such as a YAML file.

    Parameters
    ----------
    made
        A dataclass that `options` made.
    values
        Name of a field, with hyphens or underscores → its value.
    source
        What is named in messages.

    Raises
    ------
    UserError
        If a key is unknown or a value has the wrong type.
    """
    clean = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in clean:
        if key not in fields_of(made):
            raise UserError(f"{source}: unknown option '{key}'.{did_you_mean(key, fields_of(made))}")
    return build(made, clean, lambda name: f"{source}: option '{name}'")


def stated(options: Any) -> dict[str, Any]:
    """Return the fields of some options that say something: what a model's record keeps of a run."""
    return {name: value for name, value in asdict(options).items() if value not in (None, {}, [])}


def option_text(value: Any) -> str:
    """Return the value of an option as one writes it on the command line.

    >>> option_text([8, 16]), option_text(True)
    ('8,16', 'true')
    """
    if isinstance(value, (list, tuple)):
        return ",".join(option_text(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def require(condition: bool, message: str) -> None:
    """Raise `UserError` with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


# --- registries ------------------------------------------------------------------------------------


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
        Name → a dataclass that `options` made.
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
    fields, owner = fields_of(registry[name]), f"{kind} '{name}'"
    for option in options:
        if option not in fields:
            known = f"expected one of {', '.join(fields)}" if fields else "it takes none"
            raise UserError(f"{owner} has no option '{option}': {known}.{did_you_mean(option, fields)}")
    return build(registry[name], options, lambda option: f"option '{option}' of {owner}")


def describe_registry(registry: Mapping[str, type[Any]]) -> tuple[Description, ...]:
    """Return the one-line summary and the options of every member of a registry."""
    return tuple(_describe(name, made) for name, made in registry.items())


def _describe(name: str, made: type[Any]) -> Description:
    doc = inspect.getdoc(made) or ""
    helps = _parameters(doc)
    options = tuple(
        Option(name, _type_name(one.annotation), _default_text(one.default), helps.get(name, ""))
        for name, one in fields_of(made).items()
    )
    return Description(name, doc.partition("\n")[0], options)


def _default_text(value: object) -> str:
    return "" if value is None or value == () else option_text(value)


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


# --- what pydantic found, in one line ----------------------------------------------------------------


def _in_one_line(made: type[Any], error: ValidationError) -> UserError:
    """Return the first thing that is wrong, as one line."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    own = first.get("ctx", {}).get("error")
    if name not in fields_of(made):
        # Raised by a check of several fields, or a field that there is not.
        if isinstance(own, UserError):
            return own
        return UserError(f"{made.__name__} has no option '{name}'.{did_you_mean(name, fields_of(made))}")
    if isinstance(own, UserError):
        return OptionError(name, f"is {first['input']!r}: {own}")
    value = first["input"]
    hint = did_you_mean(str(value), map(str, _literals(fields_of(made)[name].annotation)))
    return OptionError(name, f"is {value!r}: expected {_expected(fields_of(made)[name])}.{hint}".rstrip("."))


def _none_of(made: type[Any], name: str, value: Any) -> Any:
    """Let the text ``none`` stand for no value, where there may be none."""
    one = fields_of(made).get(name)
    return _no_none(value) if one is not None and type(None) in get_args(one.annotation) else value


def _takes_bool(made: type[Any], name: str) -> bool:
    annotation = fields_of(made)[name].annotation
    return annotation is bool or bool in get_args(annotation)


def _literals(annotation: Any) -> tuple[object, ...]:
    """Return the values that a Literal, or an optional Literal, allows; nothing for any other type."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for part in get_args(annotation) for value in _literals(part))


def _expected(one: FieldInfo) -> str:
    """Name what a field takes, in words that follow 'expected'."""
    found = [*one.metadata, *(item for part in get_args(one.annotation) for item in _metadata(part))]
    limits = {type(item): item for item in found}
    words = []
    if bounds.Gt in limits:
        words.append(f"above {limits[bounds.Gt].gt:g}")
    if bounds.Ge in limits:
        words.append(f"of at least {limits[bounds.Ge].ge}")
    if bounds.Lt in limits:
        words.append(f"below {limits[bounds.Lt].lt}")
    if bounds.Le in limits:
        words.append(f"of at most {limits[bounds.Le].le}")
    name, none, rest = _type_name(one.annotation).partition(" or none")
    return f"{name} {' and '.join(words)}{none}{rest}" if words else f"{name}{none}{rest}"


def _metadata(annotation: Any) -> tuple[Any, ...]:
    found = getattr(annotation, "__metadata__", ())
    return tuple(item for one in found for item in (one.metadata if isinstance(one, FieldInfo) else (one,)))


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join("none" if one is type(None) else _type_name(one) for one in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple:
        return _TUPLE_NAMES[arguments[0]]
    return _NAMES[origin or annotation]


_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a text or a list of texts",
    dict: "names and values",
}
_TUPLE_NAMES: dict[Any, str] = {
    int: "whole numbers, as in 8,16,32",
    float: "numbers, as in 1,0.5",
    str: "names, as in q_proj,v_proj",
    Size: "sizes, as in 2x32 4x64",
}
