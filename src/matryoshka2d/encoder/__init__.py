"""The model at every size: its layers, its heads, how it is found by name, its precision and its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matryoshka2d.lazy import lazy_names

if TYPE_CHECKING:
    from matryoshka2d.encoder.architectures import Wrapped as Wrapped
    from matryoshka2d.encoder.architectures import is_causal as is_causal
    from matryoshka2d.encoder.architectures import layers_of as layers_of
    from matryoshka2d.encoder.default_model import default_model_path as default_model_path
    from matryoshka2d.encoder.default_model import resolve_model as resolve_model
    from matryoshka2d.encoder.elastic import ElasticEncoder as ElasticEncoder
    from matryoshka2d.encoder.loading import check_model as check_model
    from matryoshka2d.encoder.loading import in_one_line as in_one_line
    from matryoshka2d.encoder.loading import transformer_folder as transformer_folder
    from matryoshka2d.encoder.precision import Precision as Precision
    from matryoshka2d.encoder.precision import resolve_precision as resolve_precision
else:
    # The precisions and codes of this room are needed where torch is not.
    __getattr__, __all__ = lazy_names(__name__)
