"""Whether a model is the one that made an index: told by the vectors that it gives to some texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from matryoshka2d.errors import UserError
from matryoshka2d.search.meta import PROBES, Meta, Vectors, encoded
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.inference import Engine

_SAME = 0.995
"""The least cosine of one text's two vectors when the model is the same: int8 keeps 0.999."""
_ONE_SPACE = 0.5
"""How much nearer than others the same text's vector at full depth must be, as a share of what is possible:
all-MiniLM-L6-v2 has 0.21 to 0.44 at its inner exits as it is, and 0.53 to 0.70 once fitted."""


def fingerprint(engine: Engine, size: Size, prompt: str) -> dict[int, str]:
    """Return layers → the vectors of the probes at the dims of a size, for every depth that is cheap to ask.

    Parameters
    ----------
    engine
        The engine; graphs of other engines than torch are compiled a depth, so those give one.
    size
        The size of the index.
    prompt
        What is put before documents.
    """
    depths = range(1, size.layers + 1) if engine.name == "torch" else [size.layers]
    return {n: encoded(engine.embed(PROBES, Size(n, size.dims), prompt=prompt)) for n in depths}


def check_model(engine: Engine, meta: Meta, layers: int) -> None:
    """Raise a `UserError` with the reason unless an engine gives the vectors that an index was made of.

    Parameters
    ----------
    engine
        The engine that will embed queries or documents.
    meta
        The record of the index.
    layers
        How many layers will run. Only those are compared, so deeper ones need not be loaded.
    """
    if layers > engine.depth or meta.size.dims > engine.width:
        raise UserError(
            f"the index holds vectors of size {meta.size}, and this model has {engine.depth} layers and "
            f"{engine.width} dims: open the index with its own model, {meta.model}"
        )
    if layers not in meta.probes:
        raise UserError(
            f"the index does not know its model after {layers} layers: "
            f"it was recorded at {', '.join(map(str, meta.probes))}"
        )
    recorded = meta.probe_vectors(layers)
    found = engine.embed(PROBES, Size(layers, meta.size.dims), prompt=meta.document_prompt)
    cosines = np.einsum("pd,pd->p", found, recorded)
    if cosines.min() < _SAME:
        raise UserError(
            f"this model gives other vectors than the index holds (cosine {cosines.min():.2f} for the same "
            f"text{_why(found, recorded)}): open the index with its own model, {meta.model}, or index anew"
        )


def _why(found: Vectors, recorded: Vectors) -> str:
    rotated = np.abs(found @ found.T - recorded @ recorded.T).max() < 1 - _SAME
    return "; the same space, rotated" if rotated else ""


def check_one_space(meta: Meta, layers: int) -> None:
    """Raise a `UserError` unless queries of a shallower exit may meet the documents of an index.

    Parameters
    ----------
    meta
        The record of the index.
    layers
        How many layers embed the query.
    """
    if layers not in meta.probes:
        raise UserError(
            f"the index has no record of queries of {layers} layers: "
            f"use {' or '.join(map(str, meta.probes))} layers"
        )
    cosines = meta.probe_vectors(layers) @ meta.probe_vectors(meta.size.layers).T
    own, other = float(np.diag(cosines).mean()), float(cosines[~np.eye(len(cosines), dtype=bool)].mean())
    if own - other < _ONE_SPACE * (1 - other):
        raise UserError(
            f"queries of {layers} layers do not lie in the space of this index (cosine {own:.2f} to the same "
            f"text after {meta.size.layers} layers, {other:.2f} to others): use a model that fit or train "
            "made elastic, or queries of full depth"
        )
