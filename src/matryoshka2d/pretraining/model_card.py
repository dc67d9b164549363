"""The README of a pretrained model: what it is for, and the command that made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader

from matryoshka2d import __version__
from matryoshka2d.default_model import base_model
from matryoshka2d.pretraining.options import PretrainingOptions
from matryoshka2d.size import Size
from matryoshka2d.training.model_card import command_of


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
    front = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "matryoshka", "matryoshka2d", "feature-extraction"],
        **base_model(options.model),
    }
    template = Environment(loader=PackageLoader("matryoshka2d", "templates"), autoescape=False).get_template(
        "pretrained_card.md.j2"
    )
    text = template.render(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        name=Path(options.output).name,
        base=options.model,
        sizes=" ".join(map(str, sizes)),
        command=command_of(options, "pretrain"),
        steps=steps,
        version=__version__,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
