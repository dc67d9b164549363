"""The torch engine: the model's own layers, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.inference.engine import Vectors
from matryoshka2d.precision import resolve_precision
from matryoshka2d.size import Size

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BATCH = 64


class TorchEngine:
    """Runs an `ElasticEncoder` with its weights in one precision.

    Parameters
    ----------
    encoder
        The encoder; its weights are turned into the precision in place.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    """

    name = "torch"

    def __init__(self, encoder: ElasticEncoder, precision: str = "fp32") -> None:
        self.encoder = encoder
        encoder.to(_DTYPES[precision]).eval()
        self.precision = precision

    @classmethod
    def open(cls, model: str | Path | ElasticEncoder, precision: str, device: str | None) -> TorchEngine:
        """Load a model; a loaded encoder is copied where the precision would change it."""
        import copy

        from matryoshka2d.default_model import resolve_model

        if isinstance(model, ElasticEncoder):
            encoder = copy.deepcopy(model)
            if device is not None:
                encoder.to(device)
        else:
            encoder = ElasticEncoder(resolve_model(str(model)), device=device)
        chosen = resolve_precision(precision, encoder.device.type)
        return cls(encoder, chosen.name)

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(self.encoder.device)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.encoder.depth

    @property
    def width(self) -> int:
        """Number of dims of the full vector."""
        return self.encoder.width

    @property
    def size(self) -> Size:
        """The size that is used when none is asked for."""
        return self.encoder.size

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that the model shows by default."""
        return self.encoder.sizes

    def embed(
        self,
        texts: Sequence[str],
        size: str | Size | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Vectors:
        """Return float32 [len(texts), dims], rows of unit length, in the order of the texts."""
        wanted = self.size if size is None else self.encoder.check(size)
        if not texts:
            return np.empty((0, wanted.dims), dtype=np.float32)
        vectors = self.encoder.encode(
            list(texts),
            size=wanted,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=_BATCH,
            show_progress_bar=False,
            convert_to_tensor=True,
        )
        return np.asarray(
            torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy(), dtype=np.float32
        )
