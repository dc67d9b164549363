"""A light head for every inner exit: a stock Dense module, kept where stock loaders do not look."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers.base.modules import Dense
from torch import Tensor, nn


class ExitHeads(nn.Module):
    """One bias-free `Dense` per inner exit, from the identity; the full size has none.

    The heads stand at the end of the encoder's modules, where they hand the full size on unchanged:
    an elastic model run as a plain SentenceTransformer is its full size.

    Parameters
    ----------
    layers
        The exits that have a head.
    width
        Dims of the vectors that the heads take and give.
    """

    def __init__(self, layers: Iterable[int], width: int) -> None:
        super().__init__()
        self.width = width
        self.dense = nn.ModuleDict({str(n): identity_dense(width) for n in sorted(layers)})

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Hand the full size on unchanged."""
        return features

    def layers(self) -> list[int]:
        """Return the exits that have a head, shallowest first."""
        return sorted(int(n) for n in self.dense)

    def at(self, layers: int) -> Dense | None:
        """Return the head of an exit, or None if that exit has none."""
        name = str(layers)
        return cast(Dense, self.dense[name]) if name in self.dense else None

    def apply_to(self, vectors: Tensor, layers: int) -> Tensor:
        """Return the vectors [batch, width] of an exit as its head turns them."""
        head = self.at(layers)
        if head is None:
            return vectors
        # While adapters are trained, heads are in float32 above a model in half precision.
        return cast(Tensor, head.linear(vectors.to(cast(Tensor, head.linear.weight).dtype)))

    @torch.no_grad()
    def rotate(self, rotation: Tensor) -> None:
        """Rotate every head, so that it maps rotated vectors to the rotated space.

        Parameters
        ----------
        rotation
            Float64 [width, width], orthogonal: a row vector ``v`` becomes ``v @ rotation``.
        """
        for head in self.dense.values():
            weight = cast(Tensor, cast(Dense, head).linear.weight)
            weight.copy_(rotation.T @ weight.double().cpu() @ rotation)

    def keep(self, layers: int) -> None:
        """Drop the heads of deeper exits, for an encoder that has only the first layers."""
        for name in [name for name in self.dense if int(name) > layers]:
            del self.dense[name]

    def save(self, output_path: str, *, safe_serialization: bool = True) -> None:
        """Write every head as a stock Dense module in a folder named after its layer."""
        for name, head in self.dense.items():
            folder = Path(output_path) / name
            folder.mkdir(parents=True, exist_ok=True)
            cast(Dense, head).save(str(folder), safe_serialization=safe_serialization)

    @classmethod
    def load(cls, folder: Path) -> ExitHeads:
        """Read the heads that `save` wrote."""
        dense = {path.name: Dense.load(str(path)) for path in sorted(folder.iterdir()) if path.is_dir()}
        heads = cls((), next(iter(dense.values())).out_features)
        heads.dense.update(dense)
        return heads


def identity_dense(width: int) -> Dense:
    """Return a stock Dense, bias-free and linear, that gives vectors of a width as it takes them."""
    return Dense(width, width, bias=False, activation_function=nn.Identity(), init_weight=torch.eye(width))
