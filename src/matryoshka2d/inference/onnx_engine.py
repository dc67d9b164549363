"""The ONNX Runtime engine, for processors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from matryoshka2d.errors import UserError, needs
from matryoshka2d.inference.engine import Loaded, Vectors
from matryoshka2d.inference.feeds import feeds
from matryoshka2d.inference.ready_graphs import SUFFIXES, ReadyGraphs, Start, check_graph
from matryoshka2d.inference.request_batching import BatchingEngine
from matryoshka2d.inference.shape import Shape
from matryoshka2d.inference.tokens import TextTokenizer, Tokens
from matryoshka2d.size import Size

_BUDGET = 2048
_WASTE = 0.1
T = TypeVar("T")


def open_onnx(
    model: Loaded | ReadyGraphs, precision: str, calibration: Sequence[str] | None = None
) -> BatchingEngine:
    """Put a loaded model, or graphs that are ready, into ONNX Runtime."""
    if isinstance(model, ReadyGraphs):
        return OnnxEngine(model)
    needs("onnx", "onnx", "onnxscript", "onnxruntime", "psutil")
    from matryoshka2d.inference.graphs import graph_files

    chosen = _resolved(precision)
    encoder = model.encoder
    shape = Shape(encoder.depth, encoder.width, encoder.size, encoder.sizes)
    tokenizer = TextTokenizer(encoder)
    files = graph_files(encoder, int8=chosen == "int8", calibration=calibration)
    source = model.source
    start = None if source is None else Start.of(source.model, source.size, source.pooling)
    if start is not None:
        start.note(tokenizer, shape, files, chosen)
    runner = OnnxRunner(files, chosen, tokenizer.fill)
    return BatchingEngine(runner, tokenizer, shape, threads=os.cpu_count() or 1)


def _resolved(precision: str) -> str:
    chosen = "fp32" if precision == "auto" else precision
    if chosen not in SUFFIXES:
        raise UserError(f"the onnx engine has no {chosen} on a processor: choose auto, fp32 or int8")
    return chosen


class OnnxEngine(BatchingEngine):
    """An engine of graphs that are ready, which may have gaps between their sizes.

    Parameters
    ----------
    ready
        The graphs.
    """

    def __init__(self, ready: ReadyGraphs) -> None:
        needs("onnx", "onnxruntime", "psutil")
        self.widest = ready.widest()
        files = {layers: ready.files[size] for layers, size in self.widest.items()}
        tokenizer = TextTokenizer(ready.texts)
        runner = OnnxRunner(files, ready.precision, tokenizer.fill)
        super().__init__(runner, tokenizer, ready.shape, threads=os.cpu_count() or 1)

    def _wanted(self, size: str | Size | None) -> Size:
        wanted = super()._wanted(size)
        check_graph(self.widest, wanted)
        return wanted


class OnnxRunner:
    """Runs graphs in ONNX Runtime, a depth loaded when first asked for.

    Parameters
    ----------
    files
        layers → graph.
    precision
        What they compute in.
    fill
        Id of the padding token.
    """

    name = "onnx"
    device = "cpu"
    budget = _BUDGET
    waste: float | None = _WASTE

    def __init__(self, files: Mapping[int, Path], precision: str, fill: int) -> None:
        self.files = files
        self.precision = precision
        self.fill = fill
        self.depths: Depths[Any] = Depths(self._load)

    def _load(self, layers: int) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Batches run side by side, each on one core.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        if layers not in self.files:
            raise UserError(f"the export has no {layers} layers: expected {', '.join(map(str, self.files))}")
        return onnxruntime.InferenceSession(str(self.files[layers]), options, ["CPUExecutionProvider"])

    def run(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, width]."""
        session = self.depths[layers]
        names = [given.name for given in session.get_inputs()]
        (vectors,) = session.run(None, feeds(names, tokens, self.fill))
        return np.asarray(vectors, dtype=np.float32)

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes by which the process grew when that depth was loaded."""
        return self.depths.memory()


class Depths(Generic[T]):
    """Layers → whatever runs them.

    Parameters
    ----------
    make
        What makes a depth ready; slow, so it is called once a depth.

    Examples
    --------
    >>> depths = Depths(lambda layers: f"{layers} layers")
    >>> depths[3], list(depths.memory())
    ('3 layers', [3])
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._ready: dict[int, T] = {}
        self._bytes: dict[int, int] = {}
        self._lock = threading.Lock()

    def __getitem__(self, layers: int) -> T:
        if layers not in self._ready:
            with self._lock:
                if layers not in self._ready:
                    before = resident_bytes()
                    made = self._make(layers)
                    self._bytes[layers] = max(0, resident_bytes() - before)
                    self._ready[layers] = made
        return self._ready[layers]

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes by which the process grew when that depth was made ready."""
        return dict(self._bytes)


def resident_bytes() -> int:
    """Return how much memory this process holds."""
    import psutil

    return int(psutil.Process().memory_info().rss)
