"""The README of a pretrained model: what it is for, and the command that made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matryoshka2d.size import Size
from matryoshka2d.training.model_card import command_of, write_card
from matryoshka2d_reproduction.pretraining.options import PretrainingOptions


def write_model_card(folder: Path, sizes: Sequence[Size], options: PretrainingOptions, steps: int) -> None:
    """Write README.md into a model folder.

    Parameters
    ----------
    folder
        Where the model was saved.
    sizes
        The sizes that were pretrained.
    options
        The choices of the run.
    steps
        How many steps were trained.
    """
    write_card(
        folder,
        "pretrained_card.md.j2",
        options.model,
        name=Path(options.output).name,
        sizes=" ".join(map(str, sizes)),
        command=command_of(options, "pretrain"),
        steps=steps,
    )
