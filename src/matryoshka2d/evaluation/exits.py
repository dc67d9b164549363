"""What the evaluation asks of a model: its vectors at every exit, from one pass over the texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.encoder.finite import check_finite
from matryoshka2d.encoder.loading import Side, side_prompt
from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.cosine import Floats, Vectors
from matryoshka2d.size import Size, default_sizes, parse_sizes


@runtime_checkable
class Exits(Protocol):
    """A model that gives every exit in one pass, such as an `ElasticEncoder`.

    It may also have ``prompts``, ``default_prompt_name`` and ``similarity_fn_name``, with the meaning that
    they have for a SentenceTransformer.
    """

    @property
    def depth(self) -> int:
        """Number of layers."""

    @property
    def width(self) -> int:
        """Number of dims of the full vector."""

    def exits(
        self,
        texts: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 64,
        show_progress_bar: bool = False,
    ) -> dict[int, NDArray[np.float32]]:
        """Return layer → float32 [len(texts), width], rows of unit length."""


class PlainExits:
    """A plain SentenceTransformer seen as a model that has its full depth only.

    Its vectors are compared as it compares them: by its own similarity, with the lengths that it gives them.
    Only a model that is compared by cosine has them scaled to unit length.

    Parameters
    ----------
    model
        Anything with the ``encode`` of a SentenceTransformer.
    depth
        The number of layers to show it under; read from the model's configuration by default, 1 where
        that does not say (static embeddings).
    """

    def __init__(self, model: Any, depth: int | None = None) -> None:
        self.model = model
        self.depth = depth or _configured_depth(model)
        self.width = int(model.encode(["width"], show_progress_bar=False).shape[1])
        self.prompts = dict(getattr(model, "prompts", None) or {})
        self.default_prompt_name = getattr(model, "default_prompt_name", None)
        self.similarity_fn_name = getattr(model, "similarity_fn_name", None) or "cosine"

    def exits(
        self,
        texts: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 64,
        show_progress_bar: bool = False,
        task: Side | None = None,
    ) -> dict[int, NDArray[np.float32]]:
        """Return the vectors of the last layer; any other layer is refused.

        `task` chooses the side of a model that has other modules for queries than for documents.
        """
        absent = sorted(set(layers or [self.depth]) - {self.depth})
        if absent:
            raise UserError(f"a plain SentenceTransformer has no exit {absent[0]}: load it as ElasticEncoder")
        vectors = self.model.encode(
            list(texts),
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            normalize_embeddings=self.similarity_fn_name == "cosine",
            **({} if task is None else {"task": task}),
        )
        check_finite(vectors, texts)
        return {self.depth: np.asarray(vectors, dtype=np.float32)}


def side_exits(
    model: Exits,
    texts: Sequence[str],
    side: Side,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    **options: Any,
) -> dict[int, NDArray[np.float32]]:
    """Return the exits of queries or of documents, behind the prompt that the model has for that side.

    Parameters
    ----------
    model, texts
        As in `Exits.exits`.
    side
        What the texts are: as in ``encode_query`` and ``encode_document`` of a SentenceTransformer.
    prompt_name, prompt
        Another prompt of the model, or another text, instead of the side's own.
    **options
        The other arguments of `Exits.exits`.
    """
    if prompt is None and prompt_name is None:
        prompt = side_prompt(model, side)
    if isinstance(model, PlainExits) and hasattr(model.model, "encode_query"):
        options["task"] = side
    return finite(model.exits(list(texts), prompt_name=prompt_name, prompt=prompt, **options), texts)


def side_prompt_of(model: Exits, side: Side, *, prompt_name: str | None, prompt: str | None) -> str:
    """Return the prompt that `side_exits` puts before texts, empty for none."""
    if prompt is not None:
        return prompt
    if prompt_name is not None:
        return str((getattr(model, "prompts", None) or {}).get(prompt_name) or "")
    return side_prompt(model, side)


def finite(exits: dict[int, NDArray[np.float32]], texts: Sequence[str]) -> dict[int, NDArray[np.float32]]:
    """Return exits as they are, or raise a `UserError` if a vector holds NaN or infinity."""
    for vectors in exits.values():
        check_finite(vectors, texts)
    return exits


def _configured_depth(model: Any) -> int:
    try:
        config = model[0].model.config
    except (AttributeError, IndexError, KeyError, TypeError):
        return 1
    return int(getattr(config, "num_hidden_layers", None) or 1)


def as_exits(model: Any) -> Exits:
    """Return the model itself if it has exits, else a plain SentenceTransformer as its full depth.

    Raises
    ------
    UserError
        If the object has neither ``exits`` nor ``encode``.
    """
    if isinstance(model, Exits):
        return model
    # Text has an `encode` of its own, and a folder's name is easily passed by mistake.
    if hasattr(model, "encode") and not isinstance(model, str):
        return PlainExits(model)
    raise UserError(
        f"cannot evaluate a {type(model).__name__}: expected an ElasticEncoder or a SentenceTransformer"
    )


def sizes_of(model: Exits, sizes: str | Iterable[str | Size] | None = None) -> tuple[Size, ...]:
    """Return the sizes to evaluate, sorted: those asked for, or those that the model shows by default.

    Parameters
    ----------
    model
        The model; its own ``sizes`` are the default, every depth at every usual width if it has none.
        A plain SentenceTransformer has its full depth only.
    sizes
        As in `matryoshka2d.size.parse_sizes`: ``"1-6x8,16"`` or a list of sizes.

    Raises
    ------
    UserError
        If a size is deeper or wider than the model.
    """
    if sizes is not None:
        return tuple(size.check(model.depth, model.width) for size in parse_sizes(sizes))
    own = getattr(model, "sizes", None) or default_sizes(model.depth, model.width)
    only_full_depth = isinstance(model, PlainExits)
    return tuple(sorted(s for s in own if not only_full_depth or s.layers == model.depth))


def dims_by_layer(sizes: Iterable[Size]) -> dict[int, list[int]]:
    """Return layer → its dims, both ascending.

    >>> dims_by_layer(parse_sizes("2x16,8 1x8"))
    {1: [8], 2: [8, 16]}
    """
    table: dict[int, list[int]] = {}
    for size in sorted(set(sizes)):
        table.setdefault(size.layers, []).append(size.dims)
    return table


CUTS = ("prefix", "pca", "random")
"""The first d coordinates, the first d principal axes, or d coordinates at random."""


def check_cut(cut: str) -> str:
    """Return the name of a cut, or raise a `UserError` that lists the known ones."""
    if cut not in CUTS:
        raise UserError(
            f"cut '{cut}' is not known: expected one of {', '.join(CUTS)}.{did_you_mean(cut, CUTS)}"
        )
    return cut


def turn(vectors: Vectors, cut: str, *, fit: Vectors | None = None, seed: int = 0) -> Vectors:
    """Turn vectors so that their first d coordinates are the cut that was asked for.

    Every cut leaves the full width as it is: the cosines there are the same for all three.

    Parameters
    ----------
    vectors
        Float [texts, width], full-width vectors of one exit.
    cut
        ``"prefix"`` returns them unchanged. ``"pca"`` rotates them onto the principal axes. ``"random"``
        shuffles the coordinates, the same way for every exit.
    fit
        Float [texts, width] of the same exit, on which the PCA is fitted; `vectors` by default. No labels
        are used. Give vectors of other texts when the PCA must not see the texts it is measured on.
    seed
        Chooses the random coordinates. Average over a few seeds when a single draw decides something.

    Returns
    -------
    numpy.ndarray
        Float [texts, width].

    Notes
    -----
    The axes are those of the centred vectors, but the mean is not taken away when they are applied: that
    is what a bias-free Dense layer holds, as in sentence-transformers' dimensionality_reduction example.

    Examples
    --------
    >>> vectors = np.array([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0], [-1.0, 0.0]])
    >>> np.abs(turn(vectors, "pca")[:, 0]).tolist()
    [3.0, 3.0, 0.0, 0.0]
    """
    if check_cut(cut) == "random":
        return vectors[:, np.random.default_rng(seed).permutation(vectors.shape[1])]
    if cut == "pca":
        return np.asarray(vectors @ principal_axes(vectors if fit is None else fit).astype(vectors.dtype))
    return vectors


def principal_axes(vectors: Vectors) -> Floats:
    """Return the principal axes as columns, strongest first: float64 [width, width], orthonormal.

    Parameters
    ----------
    vectors
        Float [texts, width]; with fewer texts than dims the last axes are arbitrary.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    strongest_first: NDArray[np.float64] = axes[:, ::-1]
    return strongest_first
