"""A command whose flags are the fields of a dataclass of options; a YAML file may hold them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from matryoshka2d.cli.common import Json, Quiet, pairs
from matryoshka2d.errors import UserError
from matryoshka2d.files import read_yaml
from matryoshka2d.options import read_mapping

T = TypeVar("T")

_TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "list[str]": list[str]}


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
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *[_parameter(field) for field in _fields(made)],
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


def _fields(made: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(made)


def _options(made: type[T], name: str, config: Path | None, given: dict[str, Any]) -> T:
    """Join the YAML file and the flags; flags win."""
    values: dict[str, Any] = {}
    if config is not None:
        values = _read_yaml(config)
    for field in _fields(made):
        if field.name in given:
            value = given[field.name]
            values[field.name] = pairs(value) if str(field.type).startswith("dict") else value
    return read_mapping(made, values, str(config) if config else name)


def _read_yaml(path: Path) -> dict[str, Any]:
    content = read_yaml(path, "config", "a YAML file of options")
    if not isinstance(content, dict):
        raise UserError(f"config {path} holds no options: expected lines such as 'epochs: 1'")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _parameter(field: dataclasses.Field[Any]) -> inspect.Parameter:
    """Turn a field of the options into a flag."""
    annotation = str(field.type)
    kind = _TYPES.get(annotation.split(" | ", maxsplit=1)[0], str)
    default = None if annotation.startswith("dict") else field.default
    if annotation.startswith("list"):
        default = []
    option = typer.Option(help=field.metadata["help"])
    optional = default is None and not annotation.startswith("list")
    hint: Any = Annotated[(kind | None) if optional else kind, option]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
