"""Averaging the weights of models that were trained from the same start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.files import staged_folder


def average_models(paths: Sequence[str], weights: Sequence[float], output: str | Path) -> ElasticEncoder:
    """Write the weighted average of some models of one architecture.

    Parameters
    ----------
    paths
        Folders of the models. Where one has heads on its inner exits, the others count as having the
        identity there, which is what a missing head computes.
    weights
        One weight for each; they are scaled to sum to 1.
    output
        Folder that is written.

    Raises
    ------
    UserError
        If the weights do not sum to something above 0, the models differ in shape, or the space of one was
        turned, which is then another space.
    """
    total = sum(weights)
    if not total > 0:
        raise UserError(f"weights {list(weights)} sum to {total}: expected more than 0")
    encoders = [ElasticEncoder(path, device="cpu") for path in paths]
    if any(encoder.rotated for encoder in encoders):
        raise UserError("a turned model cannot be averaged: train without the rotation, with rotate: false")
    if any(encoder.heads is not None for encoder in encoders):
        for encoder in encoders:
            encoder.add_heads()
    first = encoders[0]
    states = [encoder.state_dict() for encoder in encoders]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise UserError("models of different shape cannot be averaged: expected one architecture and depth")
    with torch.no_grad():
        for name, tensor in first.state_dict().items():
            if tensor.is_floating_point():
                shares = (weight / total * state[name] for weight, state in zip(weights, states, strict=True))
                tensor.copy_(torch.stack(list(shares)).sum(dim=0))
    sizes = {size for encoder in encoders for size in encoder.record.get("sizes", [])}
    first.record = {**first.record, "sizes": sorted(sizes, key=lambda size: tuple(map(int, size.split("x"))))}
    with staged_folder(output, overwrite=True) as folder:
        first.save(str(folder), create_model_card=False)
    return first
