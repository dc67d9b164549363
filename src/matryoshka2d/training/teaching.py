"""Who teaches a run: nobody, the model itself, as it was or fine-tuned plainly, or another model."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterable, Sequence

from datasets import Dataset
from sentence_transformers import SentenceTransformer

from matryoshka2d import loading
from matryoshka2d.data import SCORE, Format
from matryoshka2d.default_model import resolve_model
from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.hub import hub_arguments
from matryoshka2d.objectives import DataFormat, Objective
from matryoshka2d.strategies import Shape, Strategy
from matryoshka2d.training.column_prompts import column_prompts
from matryoshka2d.training.options import TrainingOptions, run_folder_of
from matryoshka2d.training.presets import preset_of
from matryoshka2d.training.teacher import TeacherVectors, teacher_vectors
from matryoshka2d.training.whole_checkpoints import last_complete_checkpoint

SELF, ORIGINAL, TUNED = "self", "original", "tuned"
_LABEL = "label"


def takes_teacher(strategy: Strategy, encoder: ElasticEncoder, seed: int = 0) -> bool:
    """Return whether a strategy learns from a frozen teacher when there is one."""
    shape = Shape(encoder.depth, encoder.width, has_teacher=True)
    return strategy.plan(shape, random.Random(seed)).needs_teacher


def teacher_name(options: TrainingOptions, *, distils: bool, takes: bool) -> str | None:
    """Return who teaches a data set: the user's choice, or what suits; None for labels alone.

    Parameters
    ----------
    options
        The choices of the run.
    distils
        Whether its objective has nothing but a teacher to learn from.
    takes
        Whether the strategy learns from a frozen teacher beside the labels.

    Raises
    ------
    UserError
        If distillation is to learn from a fine-tune that it has no labels for.
    """
    if distils and options.teacher == TUNED:
        raise UserError(
            "teacher 'tuned' is fine-tuned on labels, and distillation has none: choose original, self or "
            "another model"
        )
    if distils:
        return options.teacher or ORIGINAL
    return (options.teacher or preset_of(options).teacher) if takes else None


def check_teacher_is_heard(options: TrainingOptions, *, distils: bool, takes: bool) -> None:
    """Raise a `UserError` if a teacher is named and nothing learns from it."""
    if options.teacher and not (distils or takes):
        raise UserError(
            f"teacher is '{options.teacher}', but nothing learns from it: choose strategy all-sizes or "
            f"objective distillation, or leave the teacher out"
        )


def check_has_translations(columns: Iterable[Sequence[str]]) -> None:
    """Raise a `UserError` if no data set, of those with these columns of texts, holds translations."""
    if all(len(texts) < 2 for texts in columns):
        raise UserError(
            "translations need two texts a row, the first of them in a language that the teacher knows: "
            "expected pairs, or leave the translations out"
        )


def check_translations(options: TrainingOptions) -> None:
    """Raise a `UserError` if translations are to be learnt from labels, or from the model as it changes."""
    if not options.translations:
        return
    if options.objective not in (None, "distillation"):
        raise UserError(
            f"translations are learnt from a teacher's vectors, not with objective '{options.objective}': "
            "leave the objective out, or the translations"
        )
    if options.teacher == SELF:
        raise UserError(
            "teacher 'self' changes while it teaches, and translations need one that stays: choose original "
            "or another model"
        )


def columns_read(columns: Sequence[str], *, translations: bool) -> list[str]:
    """Return, for each column of texts, the column that the teacher reads in its place.

    Teaching a translation the vector of what was translated: Reimers and Gurevych 2020, arXiv 2004.09813.

    >>> columns_read(["anchor", "positive"], translations=True)
    ['anchor', 'anchor']
    """
    return [columns[0]] * len(columns) if translations else list(columns)


def load_teacher(
    name: str, encoder: ElasticEncoder, device: str | None, *, stays: bool = False
) -> SentenceTransformer:
    """Return the teacher; the original is the encoder itself, not trained yet, or a copy if it stays."""
    if name == ORIGINAL:
        return copy.deepcopy(encoder).requires_grad_(False) if stays else encoder
    path = loading.check_model(resolve_model(name))
    with loading.in_one_line(path):
        teacher = SentenceTransformer(path, **hub_arguments(path, {"device": device}))
        return loading.settled(teacher, path)


def plain_options(options: TrainingOptions) -> TrainingOptions:
    """Return the choices with which the teacher 'tuned' is made: those of the run, but the full size alone.

    >>> plain = plain_options(TrainingOptions(data=["a.jsonl"], output="out", learning_rate=1e-3))
    >>> plain.strategy, plain.learning_rate, plain.output
    ('full', None, 'out.checkpoints/teacher')
    """
    return dataclasses.replace(
        options,
        strategy="full",
        strategy_options={},
        heads=False,
        teacher=None,
        learning_rate=None,
        top_learning_rate=None,
        dropout=None,
        cross_exit=0.0,
        dev=None,
        dev_sizes=None,
        output=str(options.teacher_folder),
        resume=last_complete_checkpoint(run_folder_of(options.teacher_folder)) is not None,
        push_to_hub=None,
    )


def with_teacher(
    rows: Dataset, columns: Sequence[str], teacher: SentenceTransformer, *, form: Format, quiet: bool
) -> tuple[Dataset, TeacherVectors]:
    """Return the rows with labels that `ElasticLoss` reads, and the teacher's vectors.

    The teacher reads the texts with the prompts that it has itself for such data.
    The label of a row is its number or, if it has a score, score and number.
    """
    prompts = prompts_read(teacher, form, columns)
    lookup = teacher_vectors(teacher, rows, columns, prompts=prompts, show_progress_bar=not quiet)
    numbers = range(len(rows))
    if SCORE in rows.column_names:
        labels: list[object] = [[score, float(n)] for score, n in zip(rows[SCORE], numbers, strict=True)]
        return rows.remove_columns(SCORE).add_column(_LABEL, labels), lookup
    return rows.add_column(_LABEL, list(numbers)), lookup


def prompts_read(teacher: SentenceTransformer, form: Format, columns: Sequence[str]) -> dict[str, str]:
    """Return column → prompt for what a teacher reads, where one column may stand for several."""
    return column_prompts(teacher, form, list(dict.fromkeys(columns)))


def learns_without_labels(objective: Objective) -> bool:
    """Return whether an objective has nothing but a teacher to learn from."""
    return DataFormat.TEXT in objective.formats
