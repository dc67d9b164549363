"""The card of a model's folder: README.md, made from a template."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader

from matryoshka2d.encoder.default_model import base_model


def write_card(
    folder: Path, template: str, *, base: str, library: str = "sentence-transformers", **facts: Any
) -> None:
    """Write README.md from one of the package's templates.

    Parameters
    ----------
    folder
        The model's folder.
    template
        File name of the template.
    base
        What the model was made from.
    library
        The library that loads it, as hubs name it.
    **facts
        What else the template shows.
    """
    front = {
        "library_name": library,
        "pipeline_tag": "sentence-similarity",
        "tags": [library, "matryoshka", "matryoshka2d", "feature-extraction"],
        **base_model(base),
    }
    environment = Environment(loader=PackageLoader("matryoshka2d.encoder"), autoescape=False)
    text = environment.get_template(template).render(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        base=base,
        version=version("matryoshka2d"),
        **facts,
    )
    # Sections that are left out leave empty lines.
    (folder / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", text), encoding="utf-8")
