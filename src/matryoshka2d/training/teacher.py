"""A teacher's vectors for the texts of a data set: computed once, kept on disk, looked up by row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from torch import Tensor

from matryoshka2d.files import staged_file, user_cache
from matryoshka2d.heads import ExitHeads

_CHUNK = 4096


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
    cache
        Folder of the cache, by default `cache_folder()`. The file's name is a hash of the teacher's weights,
        of its modules and prompts and of the texts, so a changed model or data set never finds old vectors.
    show_progress_bar
        Whether to draw progress.
    """
    rows = [list(dataset[column]) for column in columns]
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


def _fingerprint(teacher: SentenceTransformer, texts: Iterable[str]) -> str:
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
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:32]


def _embed(teacher: SentenceTransformer, texts: list[str], path: Path, show_progress_bar: bool) -> None:
    from tqdm.auto import trange

    width = teacher.get_embedding_dimension()
    assert width is not None
    # Texts of similar length together pad little; the vectors are written back in their own order.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    with staged_file(path) as temporary:
        vectors = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(len(texts), width))
        for start in trange(0, len(texts), _CHUNK, desc="Teacher", disable=not show_progress_bar):
            rows = order[start : start + _CHUNK]
            vectors[rows] = teacher.encode([texts[i] for i in rows], batch_size=64, show_progress_bar=False)
        vectors.flush()
        del vectors
