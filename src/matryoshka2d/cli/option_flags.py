"""A command whose flags are the fields of a dataclass of options; a YAML file may hold them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from matryoshka2d.cli.common import Json, Quiet, pairs
from matryoshka2d.errors import UserError
from matryoshka2d.files import read_yaml
from matryoshka2d.options import fields_of, read_mapping

T = TypeVar("T")

_FLAGS: dict[Any, Any] = {int: int, float: float, bool: bool, str: str, list: list[str], dict: str}
"""Type of a field → type of its flag; names and values are written as one text."""


def command_of_choices(made: type[T], run: Callable[[T, bool, bool], None]) -> Any:
    """Return a command with one flag for every field, as typer reads it.

    Parameters
    ----------
    made
        The dataclass of the options.
    run
        Carries the command out: with the options, and whether ``--json`` and ``--quiet`` were given. Its
        docstring is the command's help, and its name, without underscores around it, stands for the flags in
        messages.
    """
    config = Annotated[Path | None, typer.Option(help="YAML file that holds options; flags win over it.")]
    keyword = inspect.Parameter.KEYWORD_ONLY
    helps = {field.name: field.metadata["help"] for field in dataclasses.fields(made)}  # type: ignore[arg-type]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *[_parameter(name, field, helps[name]) for name, field in fields_of(made).items()],
        inspect.Parameter("config", keyword, default=None, annotation=config),
        inspect.Parameter("json", keyword, default=False, annotation=Json),
        inspect.Parameter("quiet", keyword, default=False, annotation=Quiet),
    ]

    def command(context: typer.Context, config: Path | None, json: bool, quiet: bool, **flags: Any) -> None:
        given = {
            name: value
            for name, value in flags.items()
            if getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"
        }
        run(_options(made, run.__name__.strip("_"), config, given), json, quiet)

    command.__doc__ = run.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options(made: type[T], name: str, config: Path | None, given: dict[str, Any]) -> T:
    """Join the YAML file and the flags; flags win."""
    values = {} if config is None else _read_yaml(config)
    for flag, value in given.items():
        values[flag] = pairs(value) if _kind(fields_of(made)[flag]) is dict else value
    return read_mapping(made, values, str(config) if config else name)


def _read_yaml(path: Path) -> dict[str, Any]:
    content = read_yaml(path, "config", "a YAML file of options")
    if not isinstance(content, dict):
        raise UserError(f"config {path} holds no options: expected lines such as 'epochs: 1'")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _parameter(name: str, field: FieldInfo, help: str) -> inspect.Parameter:
    """Turn a field of the options into a flag."""
    kind = _kind(field)
    default = [] if kind is list else None if kind is dict else field.default
    flag = _FLAGS[kind]
    hint: Any = Annotated[flag | None if default is None else flag, typer.Option(help=help)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _kind(field: FieldInfo) -> Any:
    """Return the plain type of a field: that of its items does not matter, nor that it may be none."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return get_origin(kind) or kind
