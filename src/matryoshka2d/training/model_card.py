"""The README of a model: what it is, how to use a size of it, its grid, and the command that made it."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from matryoshka2d.encoder.cards import write_card
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.evaluation import Grid
from matryoshka2d.evaluation.report import markdown_table
from matryoshka2d.files import staged_folder
from matryoshka2d.training.training_options import TrainingOptions


def write_model_card(
    folder: Path, encoder: ElasticEncoder, options: TrainingOptions, dev: Grid | None, steps: int
) -> None:
    """Write README.md into a model folder.

    Parameters
    ----------
    folder
        Where the model was saved.
    encoder
        The trained encoder.
    options
        The choices of the run.
    dev
        Its dev grid, if there was a dev set.
    steps
        How many steps were trained.
    """
    write_card(
        folder,
        "model_card.md.j2",
        base=options.model,
        **elastic_facts(encoder, options.output),
        strategy=options.strategy,
        grid=markdown_table(dev) if dev else "",
        command=command_of(options),
        steps=steps,
    )


def elastic_facts(encoder: ElasticEncoder, output: str) -> dict[str, Any]:
    """Return what every card of an elastic model shows: its name, its full size, and a smaller one to try."""
    half = f"{max(1, encoder.depth // 2)}x{encoder.width // 3 or 1}"
    return {"name": Path(output).name, "full": encoder.size, "half": half}


def write_made(encoder: ElasticEncoder, options: Any, command: str, template: str, **values: Any) -> None:
    """Write a model that was made without training, with its card, to the output of its options.

    Parameters
    ----------
    encoder
        The model.
    options
        The choices of the run, with ``model``, ``output`` and ``overwrite`` among them.
    command
        What made it: ``"fit"``, ``"distill"`` or ``"rotate"``.
    template
        File name of the card's template.
    **values
        What else the template shows.
    """
    with staged_folder(options.output, overwrite=options.overwrite) as folder:
        encoder.save(str(folder), create_model_card=False)
        facts = {**elastic_facts(encoder, options.output), **values}
        write_card(folder, template, base=options.model, **facts, command=command_of(options, command))


def command_of(options: Any, command: str = "train") -> str:
    """Return the command line that repeats a run.

    Parameters
    ----------
    options
        The choices of the run: a dataclass whose fields are the command's flags.
    command
        What it is called.

    Examples
    --------
    >>> command_of(TrainingOptions(data=["a.jsonl"], output="out", seed=1))
    'matryoshka2d train --data a.jsonl --output out --seed 1'
    """
    words = ["matryoshka2d", command]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value == default or field.name in ("resume", "overwrite", "push_to_hub"):
            continue
        words += _flag(field.name, value)
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list):
        return [word for item in value for word in (flag, str(item))]
    if isinstance(value, dict):
        return [flag, ",".join(f"{key}={item}" for key, item in value.items())]
    return [flag, str(value)]
