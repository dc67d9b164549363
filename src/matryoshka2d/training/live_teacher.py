"""A frozen teacher that embeds each batch in its turn, where there are too many texts to embed before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.utils.data import Dataset

from matryoshka2d.data import SCORE
from matryoshka2d.data.rows import Row
from matryoshka2d.data.stream_batches import DATASET

LABEL = "label"


class LiveTeacher:
    """Puts the teacher's vectors into the rows of a batch, as labels that `ElasticLoss` reads.

    Parameters
    ----------
    teacher
        Any sentence-transformers model, which nothing trains.
    columns
        The columns of texts; one that stands there twice is the target of two.
    prompts
        Column → what is put before its texts; the teacher's default prompt, if any, where there is none.
    """

    def __init__(
        self, teacher: SentenceTransformer, columns: Sequence[str], prompts: Mapping[str, str]
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.columns = list(columns)
        self.prompts = dict(prompts)

    def taught(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Return the rows with a label each: float32 [columns, width], behind the score if there is one.

        The score of a row fills a vector of its own, which comes first.
        """
        found = {column: self._vectors(rows, column) for column in dict.fromkeys(self.columns)}
        vectors = torch.stack([found[column] for column in self.columns], dim=1)
        if SCORE in rows[0]:
            scores = vectors.new_tensor([row[SCORE] for row in rows])
            vectors = torch.cat([scores[:, None, None].expand(-1, 1, vectors.shape[2]), vectors], dim=1)
        return [
            {**{name: value for name, value in row.items() if name != SCORE}, LABEL: label}
            for row, label in zip(rows, vectors, strict=True)
        ]

    def __call__(self, labels: Tensor) -> Tensor:
        """Return float32 [batch, columns, width] for labels that are such vectors already."""
        return labels

    def _vectors(self, rows: Sequence[Row], column: str) -> Tensor:
        found: Tensor = self.teacher.encode(
            [row[column] for row in rows],
            prompt=self.prompts.get(column) or None,
            batch_size=64,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return found.float().cpu()


class DrawnRows(Dataset[Row]):
    """The data set under a sampler that draws rows themselves: what it fetches is the rows, taught.

    Parameters
    ----------
    teachers
        Name of a data set, or None for the only one → who teaches it, where somebody does.

    Examples
    --------
    >>> DrawnRows({}).__getitems__([{"anchor": "a dog"}])
    [{'anchor': 'a dog'}]
    """

    def __init__(self, teachers: Mapping[str | None, LiveTeacher]) -> None:
        self.teachers = dict(teachers)

    def __getitems__(self, rows: list[Row]) -> list[Row]:
        """Return the rows of one batch; all of them are of one data set."""
        teacher = self.teachers.get(rows[0].get(DATASET))
        return rows if teacher is None else teacher.taught(rows)
