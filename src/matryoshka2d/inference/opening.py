"""Opening an engine by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.inference.engine import Engine

if TYPE_CHECKING:
    from matryoshka2d.encoder import ElasticEncoder


def open_engine(
    model: str | Path | ElasticEncoder,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
) -> Engine:
    """Load a model into an engine.

    Parameters
    ----------
    model
        A folder, a hub name, ``"default"``, or an `ElasticEncoder` that is loaded already.
    engine
        ``"torch"``; ``"auto"`` takes the one that suits this machine.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``; ``"auto"`` takes bf16 where the processor has units for it and
        fp32 elsewhere. Name one for vectors that are equal between machines.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"``; by default the best there is.

    Raises
    ------
    UserError
        If the model, the engine, the precision or the device is not there.

    Examples
    --------
    >>> engine = open_engine("default", precision="fp32", device="cpu")
    >>> engine.embed(["a cat", "a dog"], size="3x128").shape
    (2, 128)
    """
    if engine != "auto" and engine not in ENGINES:
        known = ", ".join(["auto", *ENGINES])
        raise UserError(
            f"no engine is called '{engine}': expected one of {known}.{did_you_mean(engine, ENGINES)}"
        )
    opened: Engine = ENGINES["torch" if engine == "auto" else engine](model, precision, device)
    return opened


def _torch(model: Any, precision: str, device: str | None) -> Engine:
    from matryoshka2d.inference.torch_engine import open_torch

    return open_torch(model, precision, device)


ENGINES: Mapping[str, Callable[[Any, str, str | None], Engine]] = {"torch": _torch}
"""Name → how it is opened."""
