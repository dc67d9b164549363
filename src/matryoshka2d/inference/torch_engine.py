"""The torch engine: a model's layers on any device; BERT-like ones without padding on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from matryoshka2d.encoder import architectures
from matryoshka2d.encoder.precision import resolve_precision
from matryoshka2d.encoder.saved_model import SavedModel
from matryoshka2d.errors import UserError
from matryoshka2d.inference.engine import Loaded, Vectors
from matryoshka2d.inference.kernels import load_kernels
from matryoshka2d.inference.packed import Groups, PackedLayers
from matryoshka2d.inference.request_batching import BatchingEngine, Shape
from matryoshka2d.inference.tail import Tail
from matryoshka2d.inference.tokens import TextTokenizer, Tokens

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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
    chosen = resolve_precision(precision, str(encoder.device)).name
    shape = Shape(encoder.depth, encoder.width, encoder.size, encoder.sizes)
    tokenizer = TextTokenizer(encoder)
    on_cpu = encoder.device.type == "cpu"
    packed = PackedLayers.of(encoder.base, _DTYPES[chosen], load_kernels()) if on_cpu else None
    if packed is not None:
        runner: Any = PackedRunner(Tail.of(encoder), packed, chosen)
    else:
        twin = encoder if model.ours else copy.deepcopy(encoder)
        twin.to(_DTYPES[chosen]).eval().requires_grad_(False)
        runner = LayersRunner(twin, chosen)
    threads = torch.get_num_threads() if on_cpu else 1
    return BatchingEngine(runner, tokenizer, shape, threads=threads)


def _open_saved(model: SavedModel, precision: str) -> BatchingEngine:
    chosen = resolve_precision(precision, "cpu").name
    shape = Shape(model.depth, model.width, model.size, model.sizes)
    layers = PackedLayers(model, _DTYPES[chosen], load_kernels())
    runner: Any = PackedRunner(Tail.of_saved(model), layers, chosen)
    return BatchingEngine(runner, TextTokenizer(model.texts), shape, threads=torch.get_num_threads())


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
        per_layer = [_bytes(layer) for layer in architectures.layers_of(self.encoder.base)]
        rest = _bytes(self.encoder) - sum(per_layer)
        return {n: rest + sum(per_layer[:n]) for n in range(1, len(per_layer) + 1)}


class PackedRunner:
    """Runs a BERT-like model on texts of any lengths, laid end to end.

    Parameters
    ----------
    tail
        What makes vectors of the layers' states.
    layers
        The layers, ready to run.
    precision
        The name of their precision.
    """

    name = "torch"
    device = "cpu"
    budget = _CPU_BUDGET
    waste: float | None = None

    def __init__(self, tail: Tail, layers: PackedLayers, precision: str) -> None:
        self.tail = tail
        self.layers = layers
        self.precision = precision

    @torch.inference_mode()
    def run(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, width]."""
        groups = Groups.of(tokens)
        states = self.layers(tokens, groups, layers)
        vectors = self.tail(states, groups, tokens.prompt_length, layers)
        return np.asarray(vectors.numpy(), dtype=np.float32)

    @torch.inference_mode()
    def leaving(self, tokens: Tokens, depths: Sequence[int]) -> Iterator[Vectors]:
        """Yield float32 [texts, width] of the texts that leave, the last of the batch first."""
        staying = len(depths)
        for layer, states in enumerate(self.layers.leaving(tokens, depths), start=1):
            left = staying
            staying = sum(depth > layer for depth in depths)
            if staying < left:
                gone = tokens.take(np.arange(staying, left))
                own = states[len(states) - len(gone.ids) :]
                vectors = self.tail(own, Groups.of(gone), tokens.prompt_length, layer)
                yield np.asarray(vectors.numpy(), dtype=np.float32)

    @torch.inference_mode()
    def run_exits(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, layers x width]: the first exits side by side."""
        groups = Groups.of(tokens)
        exits = [
            self.tail(states, groups, tokens.prompt_length, n)
            for n, states in enumerate(self.layers.exits(tokens, groups, layers), start=1)
        ]
        return np.asarray(torch.cat(exits, dim=1).numpy(), dtype=np.float32)

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes of the weights that they and the embeddings take."""
        embeddings, *layers = self.layers.bytes
        return {n: embeddings + sum(layers[:n]) for n in range(1, len(layers) + 1)}


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
