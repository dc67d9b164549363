"""A teacher's vectors for the texts of a data set: computed once, kept on disk, looked up by row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor

from matryoshka2d.files import staged_file, user_cache
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
    show_progress_bar
        Whether to draw progress.
    """
    said = prompts or {}
    # The same text under two prompts is two texts.
    rows = [[(said.get(column, ""), text) for text in dataset[column]] for column in columns]
    texts = list(dict.fromkeys(text for column in rows for text in column))
    position = {text: i for i, text in enumerate(texts)}
    text_of = np.array([[position[text] for text in column] for column in rows], dtype=np.int64).T
    path = (cache or cache_folder()) / f"{_fingerprint(teacher, texts)}.npy"
    if not path.exists():
        _embed(teacher, texts, path, show_progress_bar)
    return TeacherVectors(np.load(path, mmap_mode="r"), text_of)


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

    width = teacher.get_embedding_dimension()
    assert width is not None
    together = _ON_CPU if teacher.device.type == "cpu" else _ON_GPU
    # Texts of similar length together pad little; the vectors are written back in their own order.
    order = sorted(range(len(texts)), key=lambda i: (texts[i][0], len(texts[i][1])))
    chunks = [rows for _, same in groupby(order, lambda i: texts[i][0]) for rows in _chunks(list(same))]
    with staged_file(path) as temporary:
        vectors = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(len(texts), width))
        for rows in tqdm(chunks, desc="Teacher", disable=not show_progress_bar):
            prompt = texts[rows[0]][0] or None
            vectors[rows] = teacher.encode(
                [texts[i][1] for i in rows], prompt=prompt, batch_size=together, show_progress_bar=False
            )
        vectors.flush()
        del vectors


def _chunks(rows: list[int]) -> list[list[int]]:
    return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
