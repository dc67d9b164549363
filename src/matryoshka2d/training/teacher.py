"""A teacher's vectors for the texts of a data set: computed once, kept on disk, looked up by row."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor

from matryoshka2d.files import naming_the_cache, open_vectors, staged_file, take_room, user_cache
from matryoshka2d.finite import check_finite
from matryoshka2d.heads import ExitHeads

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
    name = f"{_fingerprint(teacher, texts)}.npy"
    path = (cache or cache_folder()) / name
    if otherwise is not None and not path.exists():
        path = _place_for(len(texts) * _width(teacher) * 4, path.parent, otherwise) / name
    if path.exists():
        vectors = np.load(path, mmap_mode="r")
        check_finite(vectors, [text for _, text in texts])
    else:
        with naming_the_cache():
            _embed(teacher, texts, path, show_progress_bar)
        vectors = np.load(path, mmap_mode="r")
    return TeacherVectors(vectors, text_of)


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
    digest = hashlib.sha256()
    for name, tensor in teacher.state_dict().items():
        if name.startswith("exit_heads."):  # they have no part in the full size
            continue
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    # The same weights under another pooling or prompt are another teacher.
    modules = [repr(module) for module in teacher if not isinstance(module, ExitHeads)]
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
