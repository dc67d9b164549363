"""The choices of what is done to a finished model with texts alone: `fit` and `rotate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matryoshka2d.choices import check_range, choice, turn_to_text
from matryoshka2d.errors import UserError
from matryoshka2d.files import check_free
from matryoshka2d.size import parse_sizes


@dataclass(frozen=True)
class TextOptions:
    """What `fit` and `rotate` ask for alike; each field's help says the default and when to change it."""

    model: str = choice(
        "default", "Model to start from: a folder, a hub name, or 'default' (all-MiniLM-L6-v2)."
    )
    data: list[str] = choice(
        [],
        "Texts like those to be embedded: text lines, JSONL, CSV, TSV, Parquet or a hub data set; every text "
        "column is read. Repeat for several.",
    )
    output: str = choice("", "Folder that the elastic model is written to.")
    columns: dict[str, str] = choice({}, "Names of the columns, if they are not recognised, as text=body.")
    limit: int | None = choice(None, "Use only the first so many rows of every file.")
    texts: int = choice(
        16384, "Texts that are drawn from the data. More than forty for each dim of the model gain little."
    )
    pooling: str | None = choice(None, "mean, cls or last: only for a plain transformers checkpoint.")
    max_length: int = choice(128, "Tokens a text; longer texts are cut.")
    seed: int = choice(0, "Seed of the texts that are drawn.")
    overwrite: bool = choice(False, "Replace the output if it exists.")
    device: str | None = choice(None, "cpu, cuda, mps. Default: the best there is.")

    def __post_init__(self) -> None:
        turn_to_text(self)
        check_range("texts", self.texts, 2, None)
        check_range("max_length", self.max_length, 2, None)
        if self.limit is not None:
            check_range("limit", self.limit, 1, None)

    def check_ready(self) -> None:
        """Raise a `UserError` unless data and output are named, and the output may be written."""
        if not self.data:
            raise UserError("no texts to learn from: expected a file or hub data set, as --data texts.txt")
        if not self.output:
            raise UserError("no output: expected the folder to write the model to, as --output my-model")
        check_free(Path(self.output), overwrite=self.overwrite, inputs=(self.model, *self.data))


@dataclass(frozen=True)
class FitOptions(TextOptions):
    """Every choice of a fit; each field's help says the default and when to change it.

    Raises
    ------
    UserError
        If a number is out of range.

    Examples
    --------
    >>> FitOptions(data=["texts.txt"], output="my-model").texts
    16384
    """


@dataclass(frozen=True)
class RotateOptions(TextOptions):
    """Every choice of a rotation; each field's help says the default and when to change it.

    Raises
    ------
    UserError
        If a number is out of range, or the sizes are no sizes.

    Examples
    --------
    >>> RotateOptions(data=["texts.txt"], output="my-model", sizes="1-6x32,128").sizes
    '1-6x32,128'
    """

    sizes: str | None = choice(
        None,
        "Sizes that it shall serve, as 1-6x32,128. Default: all of the model. Name those that you use where "
        "you know them.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sizes is not None:
            parse_sizes(self.sizes)
