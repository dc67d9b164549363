"""The torch engine: a model's layers on any device; BERT-like ones without padding on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from matryoshka2d.encoder import architectures
from matryoshka2d.encoder.precision import best_precision, resolve_precision
from matryoshka2d.encoder.saved_model import SavedModel
from matryoshka2d.errors import UserError
from matryoshka2d.inference.engine import Loaded, Vectors
from matryoshka2d.inference.kernels import load_kernels
from matryoshka2d.inference.packed import Groups, PackedLayers
from matryoshka2d.inference.pooler import Pooler
from matryoshka2d.inference.request_batching import BatchingEngine
from matryoshka2d.inference.shape import Shape
from matryoshka2d.inference.tokens import TextTokenizer, Tokens

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int16": torch.float32}
"""What states are kept in."""
# Tokens a batch. On a CPU a batch of one core should stay in its cache; a GPU wants much more at once.
_CPU_BUDGET = 1024
_GPU_BUDGET = 32768
_WASTE = 0.1


def open_torch(
    model: Loaded | SavedModel, precision: str, calibration: Sequence[str] | None = None
) -> BatchingEngine:
    """Put a loaded model into the torch engine; an encoder that a caller gave stays as it is."""
    if precision == "int8" or calibration is not None:
        raise UserError("the torch engine has no int8: choose the engine onnx, or another precision")
    if isinstance(model, SavedModel):
        return _open_saved(model, precision)
    encoder = model.encoder
    chosen = _resolved(precision, str(encoder.device), encoder.base.config)
    shape = Shape(encoder.depth, encoder.width, encoder.size, encoder.sizes)
    tokenizer = TextTokenizer(encoder)
    on_cpu = encoder.device.type == "cpu"
    runner: Any = packed_runner(encoder, chosen) if on_cpu else None
    if runner is None:
        twin = encoder if model.ours else copy.deepcopy(encoder)
        twin.to(_DTYPES[chosen]).eval().requires_grad_(False)
        runner = LayersRunner(twin, chosen)
    cores = torch.get_num_threads() if on_cpu else 1
    return BatchingEngine(runner, tokenizer, shape, threads=cores, cores=cores)


def _resolved(precision: str, device: str, config: Any) -> str:
    """Return the precision that a user chose, or for ``"auto"`` the fastest that agrees with fp32."""
    if precision not in ("auto", "int16"):
        return resolve_precision(precision, device).name
    usual = best_precision(device).name
    if precision == "auto" and usual != "fp32":
        return usual
    parts = architectures.architecture_of(config).post_norm
    why = next(
        (
            reason
            for reason, missing in (
                ("the model runs on a CPU", device != "cpu"),
                ("the model is BERT-like", parts is None or not parts.fits(config)),
                ("the processor has AVX2 and there is a C compiler", load_kernels("int16") is None),
            )
            if missing
        ),
        None,
    )
    if why is None:
        return "int16"
    if precision == "auto":
        return usual
    raise UserError(f"int16 runs where {why}: choose auto, fp32 or bf16")


def packed_runner(encoder: ElasticEncoder, precision: str) -> PackedRunner | None:
    """Return what runs a model, and its shallow tower, without padding; None for most architectures."""
    layers = PackedLayers.of(encoder.base, _DTYPES[precision], load_kernels(precision))
    if layers is None:
        return None
    tower = None if encoder.tower is None else packed_runner(encoder.tower, precision)
    return PackedRunner(Pooler.of(encoder), layers, precision, tower)


def _open_saved(model: SavedModel, precision: str) -> BatchingEngine:
    chosen = _resolved(precision, "cpu", model.config)
    shape = Shape(model.depth, model.width, model.size, model.sizes)
    runner: Any = _saved_runner(model, chosen)
    cores = torch.get_num_threads()
    return BatchingEngine(runner, TextTokenizer(model.texts), shape, threads=cores, cores=cores)


def _saved_runner(model: SavedModel, precision: str) -> PackedRunner:
    layers = PackedLayers(model, _DTYPES[precision], load_kernels(precision))
    tower = None if model.tower is None else _saved_runner(model.tower, precision)
    return PackedRunner(Pooler.of_saved(model), layers, precision, tower)


class LayersRunner:
    """Runs the model's own layers, of any architecture, on batches of nearly equal length.

    Parameters
    ----------
    encoder
        The encoder, in the precision and on the device that it runs in.
    precision
        The name of that precision.
    """

    name = "torch"
    waste: float | None = _WASTE

    def __init__(self, encoder: ElasticEncoder, precision: str) -> None:
        self.encoder = encoder
        self.precision = precision
        self.device = str(encoder.device)
        self.budget = _CPU_BUDGET if encoder.device.type == "cpu" else _GPU_BUDGET
        self.fill = int(getattr(encoder[0].tokenizer, "pad_token_id", None) or 0)

    def run(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, width]."""
        return self._exits(tokens, [layers])

    def run_exits(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, layers x width]: the first exits side by side."""
        return self._exits(tokens, range(1, layers + 1))

    @torch.inference_mode()
    def _exits(self, tokens: Tokens, layers: Sequence[int]) -> Vectors:
        ids, mask = (torch.from_numpy(part).to(self.encoder.device) for part in tokens.padded(self.fill))
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "modality": "text"}
        if tokens.prompt_length:
            features["prompt_length"] = tokens.prompt_length
        exits = self.encoder.exit_vectors(features, list(layers))
        vectors = torch.cat([exits[n].float() for n in layers], dim=1)
        return np.asarray(vectors.cpu().numpy(), dtype=np.float32)

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes of the weights that they and the embeddings take."""
        tower = self.encoder.tower
        per_layer = [_bytes(layer) for layer in architectures.layers_of(self.encoder.base)]
        shared = _bytes(self.encoder) - sum(per_layer) - (0 if tower is None else _bytes(tower))
        own = {n: shared + sum(per_layer[:n]) for n in range(1, len(per_layer) + 1)}
        return own if tower is None else {**own, **LayersRunner(tower, self.precision).memory()}


class PackedRunner:
    """Runs a BERT-like model on texts of any lengths, laid end to end.

    Parameters
    ----------
    pooler
        What makes vectors of the layers' states.
    layers
        The layers, ready to run.
    precision
        The name of their precision.
    tower
        The same of the model's shallow tower, if it has one: it answers the depths of that.
    """

    name = "torch"
    device = "cpu"
    budget = _CPU_BUDGET
    waste: float | None = None

    def __init__(
        self,
        pooler: Pooler,
        layers: PackedLayers,
        precision: str,
        tower: PackedRunner | None = None,
    ) -> None:
        self.pooler = pooler
        self.layers = layers
        self.tower = tower
        self.shallow = 0 if tower is None else len(tower.layers.layers)
        self.precision = precision

    @torch.inference_mode()
    def run(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, width]."""
        if self.tower is not None and layers <= self.shallow:
            return self.tower.run(tokens, layers)
        groups = Groups.of(tokens)
        states = self.layers(tokens, groups, layers)
        vectors = self.pooler(states, groups, tokens.prompt_length, layers)
        return np.asarray(vectors.numpy(), dtype=np.float32)

    @torch.inference_mode()
    def run_exits(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, layers x width]: the first exits side by side."""
        shallow = min(layers, self.shallow)
        first = [] if self.tower is None else [self.tower.run_exits(tokens, shallow)]
        if layers == shallow:
            return first[0]
        groups = Groups.of(tokens)
        exits = [
            self.pooler(states, groups, tokens.prompt_length, n).numpy()
            for n, states in enumerate(self.layers.exits(tokens, groups, layers), start=1)
            if n > shallow
        ]
        return np.concatenate([*first, *exits], axis=1, dtype=np.float32)

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes of the weights that they and the embeddings take."""
        embeddings, *layers = self.layers.bytes
        own = {n: embeddings + sum(layers[:n]) for n in range(1, len(layers) + 1)}
        return own if self.tower is None else {**own, **self.tower.memory()}


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
