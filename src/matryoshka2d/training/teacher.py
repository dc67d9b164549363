"""A teacher's vectors for the texts of a data set: computed once, kept on disk, looked up by row."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import random
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from matryoshka2d.data import SCORE, Format
from matryoshka2d.data.rows import Row
from matryoshka2d.data.stream_batch_sampler import DATASET
from matryoshka2d.encoder import loading
from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.fingerprints import weights_fingerprint
from matryoshka2d.encoder.finite import check_finite
from matryoshka2d.encoder.heads import ExitHeads
from matryoshka2d.encoder.hub import hub_arguments
from matryoshka2d.encoder.saved_model import HEADS, SHALLOW
from matryoshka2d.encoder.tower import ShallowTower
from matryoshka2d.errors import UserError
from matryoshka2d.files import naming_the_cache, open_vectors, staged_file, take_room, user_cache
from matryoshka2d.losses.objectives import DataFormat, Objective
from matryoshka2d.losses.strategies import Shape, Strategy
from matryoshka2d.training.checkpoints import last_complete_checkpoint
from matryoshka2d.training.texts import column_prompts
from matryoshka2d.training.training_options import TrainingOptions, run_folder_of

_CHUNK = 4096
# Texts that run together: a processor pads less in small batches, a GPU waits for each.
_ON_CPU, _ON_GPU = 64, 512

Prompted = tuple[str, str]
"""A prompt, maybe empty, and a text."""


@dataclass(frozen=True)
class TeacherVectors:
    """Row numbers of a data set → the teacher's vectors of its texts.

    Parameters
    ----------
    vectors
        float32 [distinct texts, width], often a memory map.
    text_of
        int64 [rows, columns]: which vector belongs to which text.
    """

    vectors: np.ndarray
    text_of: np.ndarray

    def __call__(self, rows: Tensor) -> Tensor:
        """Return float32 [batch, columns, width] for row numbers [batch]."""
        found = self.vectors[self.text_of[rows.cpu().numpy()]]
        return torch.from_numpy(np.ascontiguousarray(found)).to(rows.device)


def teacher_vectors(
    teacher: SentenceTransformer,
    dataset: Dataset,
    columns: Sequence[str],
    *,
    prompts: Mapping[str, str] | None = None,
    cache: Path | None = None,
    otherwise: Path | None = None,
    show_progress_bar: bool = False,
) -> TeacherVectors:
    """Embed every distinct text of a data set with the teacher, or read the vectors from the cache.

    Parameters
    ----------
    teacher
        Any sentence-transformers model.
    dataset, columns
        The texts.
    prompts
        Column → what is put before its texts; the teacher's default prompt, if any, where there is none.
    cache
        Folder of the cache, by default `cache_folder()`. The file's name is a hash of the teacher's weights,
        of its modules and prompts and of the texts, so a changed model or data set never finds old vectors.
    otherwise
        Folder for vectors where the cache cannot be written or has no room for them, which a note says. None,
        the default, refuses then.
    show_progress_bar
        Whether to draw progress.

    Raises
    ------
    UserError
        If a vector is not finite, or there is no place to write them to.
    """
    said = prompts or {}
    # The same text under two prompts is two texts.
    rows = [[(said.get(column, ""), text) for text in dataset[column]] for column in columns]
    texts = list(dict.fromkeys(text for column in rows for text in column))
    position = {text: i for i, text in enumerate(texts)}
    text_of = np.array([[position[text] for text in column] for column in rows], dtype=np.int64).T
    vectors = embedded_once(
        teacher, texts, cache=cache, otherwise=otherwise, show_progress_bar=show_progress_bar
    )
    return TeacherVectors(vectors, text_of)


def embedded_once(
    teacher: SentenceTransformer,
    texts: list[Prompted],
    *,
    cache: Path | None = None,
    otherwise: Path | None = None,
    show_progress_bar: bool = False,
) -> np.ndarray:
    """Return the teacher's vectors of some texts, each behind its prompt, from the cache if they are there.

    Parameters
    ----------
    teacher, cache, otherwise, show_progress_bar
        As in `teacher_vectors`.
    texts
        Prompt, maybe empty, and text.

    Returns
    -------
    numpy.ndarray
        Float32 [texts, width], mapped from the disk.
    """
    name = f"{_fingerprint(teacher, texts)}.npy"
    path = (cache or cache_folder()) / name
    if otherwise is not None and not path.exists():
        path = _place_for(len(texts) * _width(teacher) * 4, path.parent, otherwise) / name
    if path.exists():
        vectors: np.ndarray = np.load(path, mmap_mode="r")
        check_finite(vectors, [text for _, text in texts])
        return vectors
    with naming_the_cache():
        _embed(teacher, texts, path, show_progress_bar)
    embedded: np.ndarray = np.load(path, mmap_mode="r")
    return embedded


def _width(teacher: SentenceTransformer) -> int:
    width: int | None = teacher.get_embedding_dimension()
    assert width is not None
    return width


def _place_for(size: int, cache: Path, otherwise: Path) -> Path:
    """Return the cache if it takes so many bytes, else the other folder."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache) as probe:
            take_room(Path(probe.name), size)
    except OSError as error:
        print(
            f"note: the cache {cache} cannot be written ({error.strerror or error}): the teacher's vectors "
            "are kept with the run; MATRYOSHKA2D_CACHE names another cache",
            file=sys.stderr,
        )
        return otherwise
    return cache


def cache_folder() -> Path:
    """Return where teachers' vectors are kept: ``$MATRYOSHKA2D_CACHE`` or the user's cache folder."""
    return user_cache("teachers")


def _fingerprint(teacher: SentenceTransformer, texts: Iterable[Prompted]) -> str:
    # Heads and a shallow tower have no part in the full size.
    digest = hashlib.sha256(weights_fingerprint(teacher, [HEADS, SHALLOW]).encode())
    # The same weights under another pooling or prompt are another teacher.
    modules = [repr(module) for module in teacher if not isinstance(module, (ExitHeads, ShallowTower))]
    prompts = (teacher.prompts, teacher.default_prompt_name)
    digest.update(repr((modules, prompts, teacher.max_seq_length)).encode())
    for prompt, text in texts:
        digest.update((f"{prompt}\1{text}" if prompt else text).encode() + b"\0")
    return digest.hexdigest()[:32]


def _embed(teacher: SentenceTransformer, texts: list[Prompted], path: Path, show_progress_bar: bool) -> None:
    from tqdm.auto import tqdm

    together = _ON_CPU if teacher.device.type == "cpu" else _ON_GPU
    # Texts of similar length together pad little; the vectors are written back in their own order.
    order = sorted(range(len(texts)), key=lambda i: (texts[i][0], len(texts[i][1])))
    chunks = [rows for _, same in groupby(order, lambda i: texts[i][0]) for rows in _chunks(list(same))]
    with staged_file(path) as temporary:
        vectors = open_vectors(temporary, len(texts), _width(teacher))
        for rows in tqdm(chunks, desc="Teacher", disable=not show_progress_bar):
            prompt = texts[rows[0]][0] or None
            some = [texts[i][1] for i in rows]
            found = teacher.encode(some, prompt=prompt, batch_size=together, show_progress_bar=False)
            check_finite(found, some)
            vectors[rows] = found
        vectors.flush()
        del vectors


def _chunks(rows: list[int]) -> list[list[int]]:
    return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]


SELF, ORIGINAL, TUNED = "self", "original", "tuned"
_LABEL = "label"


def takes_teacher(strategy: Strategy, encoder: ElasticEncoder, seed: int = 0) -> bool:
    """Return whether a strategy learns from a frozen teacher when there is one."""
    shape = Shape(encoder.depth, encoder.width, has_teacher=True)
    return strategy.plan(shape, random.Random(seed)).needs_teacher


def teacher_name(named: str | None, usual: str | None, *, distils: bool, takes: bool) -> str | None:
    """Return who teaches a data set: the user's choice, or what suits; None for labels alone.

    Parameters
    ----------
    named
        The user's choice, if there is one.
    usual
        That choice, or the one of the strategy's preset.
    distils
        Whether its objective has nothing but a teacher to learn from.
    takes
        Whether the strategy learns from a frozen teacher beside the labels.

    Raises
    ------
    UserError
        If distillation is to learn from a fine-tune that it has no labels for.
    """
    if distils and named == TUNED:
        raise UserError(
            "teacher 'tuned' is fine-tuned on labels, and distillation has none: choose original, self or "
            "another model"
        )
    if distils:
        return named or ORIGINAL
    return usual if takes else None


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
    rows: Dataset,
    columns: Sequence[str],
    teacher: SentenceTransformer,
    *,
    form: Format,
    otherwise: Path | None = None,
    quiet: bool,
) -> tuple[Dataset, TeacherVectors]:
    """Return the rows with labels that `ElasticLoss` reads, and the teacher's vectors.

    The teacher reads the texts with the prompts that it has itself for such data.
    The label of a row is its number or, if it has a score, score and number. Where the cache cannot be
    written, the vectors go into another folder.
    """
    prompts = prompts_read(teacher, form, columns)
    lookup = teacher_vectors(
        teacher, rows, columns, prompts=prompts, otherwise=otherwise, show_progress_bar=not quiet
    )
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
        vectors = found.float().cpu()
        check_finite(vectors.numpy(), [row[column] for row in rows])
        return vectors


class DrawnRows(TorchDataset[Row]):
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
