"""The README of an export: where it is from, how to load it, how good and how fast it is, what made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.encoder.cards import write_card
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


def write_export_card(folder: Path, name: str, encoder: ElasticEncoder, record: Mapping[str, Any]) -> None:
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
    sizes = [Size.parse(text) for text in record["sizes"]]
    write_card(
        folder,
        "export_card.md.j2",
        base=record["source"]["model"],
        library=record["format"],
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


def _share(share: float, low: float, high: float) -> str:
    return f"{share:.1%} [{low:.1%}, {high:.1%}]"
