"""Opening an engine by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.inference.defaults import saved_default
from matryoshka2d.inference.engine import Engine
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder import ElasticEncoder

ENGINES: Mapping[str, str] = {"torch": "open_torch", "openvino": "open_openvino", "onnx": "open_onnx"}
"""Name → the function of the module ``<name>_engine`` that opens it."""

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
"""What a user may choose; not every engine has every one."""


def open_engine(
    model: str | Path | ElasticEncoder,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
    *,
    size: str | Size | None = None,
    pooling: str | None = None,
    calibration: Sequence[str] | None = None,
) -> Engine:
    """Load a model into an engine.

    Parameters
    ----------
    model
        A folder, a hub name, ``"default"``, or an `ElasticEncoder` that is loaded already.
    engine
        ``"torch"``, ``"openvino"`` or ``"onnx"``; ``"auto"`` takes torch, or what
        ``matryoshka2d benchmark --save`` found to be fastest for this model on this machine.
    precision
        ``"fp32"``, ``"bf16"``, ``"fp16"`` (torch on a GPU) or ``"int8"`` (openvino and onnx). ``"auto"``
        takes bf16 where the engine has it and the processor has units for it, and fp32 elsewhere. Name one
        for vectors that are equal between machines.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"``; by default the best there is. openvino and onnx run on the CPU.
    size
        Load only this size, as ``"3x128"``: deeper layers are never read. It is then the default of `embed`.
    pooling
        As for `ElasticEncoder`: how a plain transformers checkpoint is pooled.
    calibration
        For int8: some hundred texts of the kind that will be embedded. They fix the scales of the
        activations, and are remembered for this model.

    Raises
    ------
    UserError
        If the model, the engine, the precision or the device is not there, or a library is missing.

    Examples
    --------
    >>> engine = open_engine("default", precision="fp32", device="cpu")
    >>> engine.embed(["a cat", "a dog"], size="3x128").shape
    (2, 128)
    """
    known = ["auto", *ENGINES]
    if engine not in known:
        raise UserError(
            f"no engine is called '{engine}': expected one of {', '.join(known)}."
            f"{did_you_mean(engine, known)}"
        )
    if precision not in PRECISIONS:
        raise UserError(
            f"no precision is called '{precision}': expected one of {', '.join(PRECISIONS)}."
            f"{did_you_mean(precision, PRECISIONS)}"
        )
    name, precision = _chosen(model, engine, precision, device)
    from matryoshka2d.inference.loading import load

    home = importlib.import_module(f"matryoshka2d.inference.{name}_engine")
    opened: Engine = getattr(home, ENGINES[name])(
        load(model, device, size, pooling, engine=name), precision, calibration
    )
    return opened


def _chosen(
    model: str | Path | ElasticEncoder, engine: str, precision: str, device: str | None
) -> tuple[str, str]:
    """Return the engine and the precision that the caller asked for, or else the saved ones, or torch."""
    if engine != "auto":
        return engine, precision
    if device in (None, "cpu") and isinstance(model, (str, Path)):
        saved = saved_default(model)
        if saved is not None and precision in ("auto", saved.precision) and _installed(saved.engine):
            return saved.engine, saved.precision
    return "torch", precision


def _installed(engine: str) -> bool:
    library = {"onnx": "onnxruntime"}.get(engine, engine)
    return find_spec(library) is not None
