"""A shallow tower: a model of few layers that answers the small sizes of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class ShallowTower(nn.Module):
    """A shallower elastic model, kept where stock loaders do not look.

    Like the heads it stands at the end of the encoder's modules, where it hands the full size on unchanged:
    an elastic model run as a plain SentenceTransformer is its full size.

    Parameters
    ----------
    encoder
        The shallower model: an `ElasticEncoder`.
    """

    def __init__(self, encoder: SentenceTransformer) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Hand the full size on unchanged."""
        return features

    def save(self, output_path: str, *, safe_serialization: bool = True) -> None:
        """Write the shallower model as a folder of its own."""
        self.encoder.save(output_path, create_model_card=False, safe_serialization=safe_serialization)
