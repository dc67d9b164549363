"""An elastic encoder at some sizes → one ONNX graph with an output a size.

One trace covers every exit, so that the sizes share their weights by name. Everything after the tokenizer
is inside: layers, final norm, pooling, later modules, head, cut, normalization.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from matryoshka2d.encoder.elastic import ElasticEncoder, cut
from matryoshka2d.errors import UserError, needs
from matryoshka2d.export.sentence_transformers_files import taken_by
from matryoshka2d.export.signature import OPSET, PROMPT_LENGTH
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from onnx import ModelProto

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def exit_graph(encoder: ElasticEncoder, sizes: Iterable[Size], *, precision: str = "fp32") -> ModelProto:
    """Trace an encoder at several sizes in one go.

    Parameters
    ----------
    encoder
        The encoder; it is copied, so it may be in use elsewhere.
    sizes
        The sizes wanted. All of them come from one pass to the deepest.
    precision : {"fp32", "fp16"}
        Of the weights and the arithmetic. Inputs are int64 and outputs float32 in either.

    Returns
    -------
    onnx.ModelProto
        Inputs: what the model's tokenizer gives, int64 [batch, length], both free. Outputs: one for each
        size, named after it, float32 [batch, dims], of unit length. The weights are in the graph.

    Raises
    ------
    UserError
        If the model lacks a size, needs something that no graph holds, or ONNX is not installed.

    Examples
    --------
    >>> from matryoshka2d.encoder.default_model import default_model_path
    >>> model = exit_graph(ElasticEncoder(default_model_path(), device="cpu"), [Size(1, 32), Size(1, 64)])
    >>> [output.name for output in model.graph.output]
    ['1x32', '1x64']
    """
    needs("onnx", "onnx", "onnxscript")
    wanted = [encoder.check(size) for size in sizes]
    inputs = example_inputs(encoder)
    module = _Exits(_traceable(encoder, _DTYPES[precision]), wanted, list(inputs))
    shapes: dict[str, dict[int, str]] = {
        name: {} if name == PROMPT_LENGTH else {0: "batch", 1: "length"} for name in inputs
    }
    with _quietly():
        program = torch.onnx.export(
            module,
            args=tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=(tuple(shapes.values()),),
            input_names=list(inputs),
            output_names=[str(size) for size in wanted],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.producer_name = "matryoshka2d"
    _forget_the_source(model)
    return model


def example_inputs(encoder: ElasticEncoder) -> dict[str, Tensor]:
    """Return the inputs of the graph, as the tokenizer makes them for two texts of different length.

    Returns
    -------
    dict
        name → int64 [2, length]; and `PROMPT_LENGTH` → int64 [1] for models that leave prompts out.
    """
    features = encoder.preprocess(["a cat sat on the mat", "a dog"])
    names = taken_by(encoder.base, features)
    inputs = {name: features[name].cpu().to(torch.int64) for name in names}
    if any(_leaves_prompts_out(module) for module in encoder):
        inputs[PROMPT_LENGTH] = torch.zeros(1, dtype=torch.int64)
    return inputs


class _Exits(nn.Module):
    """What is traced: the tensors of a batch → the vectors of every size."""

    def __init__(self, encoder: ElasticEncoder, sizes: Sequence[Size], inputs: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.sizes = sizes
        self.inputs = inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        features = dict(zip(self.inputs, tensors, strict=True))
        exits = self.encoder.exit_vectors(features, [size.layers for size in self.sizes])
        return tuple(cut(exits[size.layers].float(), size.dims) for size in self.sizes)


class _PoolingWithoutPrompt(nn.Module):
    """The model's pooling, with the prompt's length as a tensor: the stock one branches on a number."""

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        if "weightedmean" in pooling.pooling_mode:
            raise UserError(
                "a weighted mean that leaves the prompt out cannot be written as a graph: "
                "use --format sentence-transformers"
            )
        self.pooling = pooling

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        features = dict(features)
        mask = features["attention_mask"]
        padding = mask.to(torch.int32).argmax(dim=1, keepdim=True)
        positions = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)
        kept = positions >= padding + features.pop(PROMPT_LENGTH)
        features["attention_mask"] = mask * kept
        pooled: dict[str, Any] = self.pooling(features)
        return pooled


def _leaves_prompts_out(module: nn.Module) -> bool:
    return isinstance(module, Pooling) and not module.include_prompt


def _traceable(encoder: ElasticEncoder, dtype: torch.dtype) -> ElasticEncoder:
    """Return a copy that computes the same with operations that a graph can hold."""
    copied: nn.Module = copy.deepcopy(encoder)
    twin = cast(ElasticEncoder, copied.to(device="cpu", dtype=dtype).requires_grad_(False).eval())
    for part in (twin, twin.tower):
        if part is not None:
            _make_traceable(part)
    return twin


def _make_traceable(twin: ElasticEncoder) -> None:
    # Attention kernels choose their path by the shapes of the batch; plain matrix products do not.
    cast(Any, twin.base).set_attn_implementation("eager")
    for name, module in list(twin._modules.items()):
        if _leaves_prompts_out(cast(nn.Module, module)):
            twin._modules[name] = _PoolingWithoutPrompt(cast(Pooling, module))


def _forget_the_source(model: ModelProto) -> None:
    """Drop the exporter's notes on which line of which file made a node: ten times the graph itself."""
    graph = model.graph
    for noted in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's notes, on torchvision and on its own internals, off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
