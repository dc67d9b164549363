"""The README of an export: where it is from, how to load it, how good and how fast it is, what made it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader

from matryoshka2d.encoder.loading import base_model
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder


# Input of a graph → what a program gives it.
_VALUES = {
    "input_ids": "[one.ids for one in batch]",
    "attention_mask": "[one.attention_mask for one in batch]",
    "token_type_ids": "[one.type_ids for one in batch]",
    "prompt_length": "[0]",
}


def write_card(folder: Path, name: str, encoder: ElasticEncoder, record: Mapping[str, Any]) -> None:
    """Write README.md into an export.

    Parameters
    ----------
    folder
        Where the export is being written.
    name
        The folder's name when it is done.
    encoder
        What it was cut from.
    record
        What ``export.json`` says.
    """
    library = record["format"]
    front = {
        "library_name": library,
        "pipeline_tag": "sentence-similarity",
        "tags": [library, "matryoshka", "matryoshka2d", "feature-extraction"],
        **base_model(record["source"]["model"]),
    }
    sizes = [Size.parse(text) for text in record["sizes"]]
    template = Environment(loader=PackageLoader("matryoshka2d", "templates"), autoescape=False).get_template(
        "export_card.md.j2"
    )
    text = template.render(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        name=name,
        record=record,
        sizes=sizes,
        file=next(iter(record["sizes"].values()))["file"],
        one=len(sizes) == 1,
        prompts={key: text for key, text in encoder.prompts.items() if text},
        max_length=encoder.max_seq_length,
        share=_share,
        values=_VALUES,
    )
    # Sections that are left out leave empty lines.
    (folder / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", text), encoding="utf-8")


def _share(share: float, low: float, high: float) -> str:
    return f"{share:.1%} [{low:.1%}, {high:.1%}]"
