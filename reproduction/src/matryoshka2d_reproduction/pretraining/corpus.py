"""The texts of a pretraining run: every text column of every file, each text once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from matryoshka2d.data import read_mixture, text_columns

if TYPE_CHECKING:
    from datasets import Dataset


def read_corpus(
    sources: Iterable[str], columns: Mapping[str, str] | None = None, limit: int | None = None
) -> Dataset:
    """Read texts from files of any format that `train` reads; pairs and triplets are so many texts.

    Parameters
    ----------
    sources, columns, limit
        As in `matryoshka2d.data.read_mixture`.

    Returns
    -------
    Dataset
        One column, ``text``, without repeats.

    Raises
    ------
    UserError
        If a source cannot be read or has no rows.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "pairs.csv")
    >>> _ = path.write_text("anchor,positive\\na cat,one cat\\na dog,a cat\\n")
    >>> read_corpus([str(path)])["text"][:]
    ['a cat', 'a dog', 'one cat']
    >>> folder.cleanup()
    """
    import datasets

    mixture = read_mixture(sources, columns, limit)
    texts = dict.fromkeys(
        text
        for rows in mixture.datasets.values()
        for column in text_columns(rows.column_names)
        for text in rows[column][:]
    )
    return datasets.Dataset.from_dict({"text": list(texts)})
