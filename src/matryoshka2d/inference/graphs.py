"""The graphs that ONNX Runtime runs: one a depth, over one file of weights, made once.

They lie in the user's cache under a fingerprint of the model, so that the next opening finds them. The int8
graphs lie beside them: weights a channel, activations on scales that are fixed by texts of the user's own,
so that a text's vector does not depend on its neighbors.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from matryoshka2d.encoder.fingerprints import weights_fingerprint
from matryoshka2d.encoder.lengths import padded_slices
from matryoshka2d.errors import UserError, needs
from matryoshka2d.export.graph import exit_graph
from matryoshka2d.export.onnx_files import single_output, write_graphs
from matryoshka2d.files import naming_the_cache, staged_folder, user_cache
from matryoshka2d.inference.feeds import feeds
from matryoshka2d.inference.ready_graphs import SUFFIXES
from matryoshka2d.inference.tokens import Integers, TextTokenizer, Tokens
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from onnx import ModelProto

    from matryoshka2d.encoder.elastic import ElasticEncoder

_FORMAT = b"graphs-3"
_CALIBRATION_TEXTS = 512
_CALIBRATION_BUDGET = 2048


def graph_files(
    encoder: ElasticEncoder, *, int8: bool = False, calibration: Sequence[str] | None = None
) -> dict[int, Path]:
    """Return layers → the graph that gives this exit at full width, made if it is not there yet.

    Parameters
    ----------
    encoder
        The encoder.
    int8
        Whether weights and activations are int8.
    calibration
        Texts that fix the scales of the activations, a few hundred of the kind that will be embedded.
        Without them an earlier calibration of this model is used.

    Raises
    ------
    UserError
        If a library is missing, or int8 was never calibrated and no texts are given.
    """
    needs("onnx", "onnx", "onnxscript")
    sizes = [Size(n, encoder.width) for n in range(1, encoder.depth + 1)]
    folder = user_cache("graphs") / fingerprint(encoder)
    if not int8:
        files = {size.layers: folder / f"{size}.onnx" for size in sizes}
        if not all(file.is_file() for file in files.values()):
            with naming_the_cache(), staged_folder(folder, overwrite=True) as staged:
                _split(exit_graph(encoder, sizes), sizes, staged)
        return files
    folder = folder.with_name(f"{folder.name}{SUFFIXES['int8']}")
    if calibration:
        needs("onnx", "onnxruntime")
        with naming_the_cache(), staged_folder(folder, overwrite=True) as staged:
            _split(_quantized(encoder, sizes, calibration), sizes, staged)
    elif not folder.is_dir():
        raise UserError(
            "int8 is calibrated on texts of yours, and this model was not yet: give some hundred, as "
            "open_engine(model, engine, 'int8', calibration=texts)"
        )
    return {size.layers: folder / f"{size}.onnx" for size in sizes}


def fingerprint(encoder: ElasticEncoder) -> str:
    """Return a name for what a model computes: its weights and how its modules are set up."""
    digest = hashlib.blake2b(_FORMAT, digest_size=12)
    digest.update(weights_fingerprint(encoder).encode())
    digest.update(repr([repr(module) for module in encoder]).encode())
    settings = encoder.base.config.to_dict()  # type: ignore[operator, union-attr]
    # Where it was loaded from makes no other model.
    settings.pop("_name_or_path", None)
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _split(whole: ModelProto, sizes: Sequence[Size], folder: Path) -> None:
    write_graphs({size: single_output(whole, str(size)) for size in sizes}, folder)


def _quantized(encoder: ElasticEncoder, sizes: Sequence[Size], texts: Sequence[str]) -> ModelProto:
    """Return the graph of all exits with int8 matrix products; the exits share layers, and so scales."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch:
        plain, ready, done = (str(Path(scratch, f"{name}.onnx")) for name in ("plain", "ready", "int8"))
        onnx.save(exit_graph(encoder, sizes), plain)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)
        try:
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
            quantization.quantize_static(
                ready,
                done,
                _Calibration(encoder, texts[:_CALIBRATION_TEXTS]),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_exclude=_narrowing(onnx.load(ready)),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            root.setLevel(level)
        return onnx.load(done)


def _narrowing(model: ModelProto) -> list[str]:
    """Return the products that make many channels few, which stay in floating point.

    They read what an activation function gave, a few values of which are far larger than all others: on one
    scale for all, the others would be lost.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul"
        and len(shape := shapes.get(node.input[1], [])) == 2
        and shape[0] > shape[1]
    ]


class _Calibration:
    """Batches of tokens, as the quantizer asks for them one by one."""

    def __init__(self, encoder: ElasticEncoder, texts: Sequence[str]) -> None:
        from matryoshka2d.export.graph import example_inputs

        self.names = list(example_inputs(encoder))
        self.tokenizer = TextTokenizer(encoder)
        self.batches = self._batches(self.tokenizer(list(texts)))

    def _batches(self, tokens: Tokens) -> Iterator[dict[str, Integers]]:
        order = np.argsort(tokens.lengths, kind="stable")
        for rows in padded_slices(tokens.lengths[order], _CALIBRATION_BUDGET, waste=0.0):
            yield feeds(self.names, tokens.take(order[rows]), self.tokenizer.fill)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, or None at the end."""
        return next(self.batches, None)
