"""matryoshka2d train: every field of TrainingOptions is a flag; a YAML file may hold them."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from matryoshka2d.cli.common import Json, Quiet, pairs, print_json, quiet_libraries
from matryoshka2d.errors import UserError
from matryoshka2d.training.options import TrainingOptions

_TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "list[str]": list[str]}


def _train(context: typer.Context, config: Path | None, json: bool, quiet: bool, **flags: Any) -> None:
    """Train an elastic model: one set of weights, good at every depth and every width.

    Example: matryoshka2d train --model M --data pairs.jsonl --strategy all-sizes --output my-model --seed 0
    """
    given = {
        name: value
        for name, value in flags.items()
        if getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"
    }
    options = _options(config, given)
    options.check_ready()
    quiet_libraries()
    from matryoshka2d.training import ranks, train

    encoder = train(options, quiet=quiet or json)
    if not ranks.is_first():
        return
    summary = {"output": options.output, "full_size": str(encoder.size), "sizes": encoder.record["sizes"]}
    if json:
        print_json(summary)
    elif not quiet:
        print(
            f"Wrote {options.output}: full size {encoder.size}. Next: matryoshka2d evaluate {options.output}"
        )


def _options(config: Path | None, given: dict[str, Any]) -> TrainingOptions:
    """Join the YAML file and the flags; flags win."""
    values: dict[str, Any] = {}
    if config is not None:
        values = _read_yaml(config)
    for field in dataclasses.fields(TrainingOptions):
        if field.name in given:
            value = given[field.name]
            values[field.name] = pairs(value) if str(field.type).startswith("dict") else value
    return TrainingOptions.from_mapping(values, str(config) if config else "train")


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise UserError(f"config {path} does not exist: expected a YAML file of training options")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"config {path} holds no options: expected lines such as 'strategy: all-sizes'")
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


def _command() -> Any:
    """Return `_train` with one flag for every field, as typer reads it."""
    config = Annotated[Path | None, typer.Option(help="YAML file that holds options; flags win over it.")]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *[_parameter(field) for field in dataclasses.fields(TrainingOptions)],
        inspect.Parameter("config", keyword, default=None, annotation=config),
        inspect.Parameter("json", keyword, default=False, annotation=Json),
        inspect.Parameter("quiet", keyword, default=False, annotation=Quiet),
    ]

    def train_command(context: typer.Context, **flags: Any) -> None:
        _train(context, **flags)

    train_command.__doc__ = _train.__doc__
    train_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train_command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return train_command


train_command = _command()
