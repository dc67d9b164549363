"""What every engine offers."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.export.signature import is_onnx_export
from matryoshka2d.files import naming_the_cache, staged_file, user_cache
from matryoshka2d.inference.tokens import Tokens
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.encoder.saved_model import SavedModel
    from matryoshka2d.inference.ready_graphs import ReadyGraphs

Vectors = NDArray[np.float32]


@runtime_checkable
class Engine(Protocol):
    """A loaded model that embeds texts at any of its sizes. Safe to share between threads."""

    @property
    def name(self) -> str:
        """Which engine it is, as ``"torch"``."""

    @property
    def precision(self) -> str:
        """What it computes in, as ``"bf16"``."""

    @property
    def device(self) -> str:
        """Where it runs, as ``"cpu"``."""

    @property
    def depth(self) -> int:
        """Number of layers."""

    @property
    def width(self) -> int:
        """Number of dims of the full vector."""

    @property
    def size(self) -> Size:
        """The size that is used when none is asked for."""

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that the model shows by default; any other up to depth x width is served as well."""

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes of memory that serving this depth takes, for the depths ready to run."""

    def embed(
        self,
        texts: Sequence[str],
        size: str | Size | None = None,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> Vectors:
        """Return float32 [len(texts), dims], rows of unit length, in the order of the texts."""


ENGINES: Mapping[str, str] = {"torch": "open_torch", "onnx": "open_onnx"}
"""Name → the function of the module ``<name>_engine`` that opens it."""

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int16", "int8")
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
        ``"torch"`` or ``"onnx"``; ``"auto"`` takes torch, or what
        ``matryoshka2d benchmark --save`` found to be fastest for this model on this machine.
    precision
        ``"fp32"``, ``"bf16"``, ``"fp16"`` (torch on a GPU), ``"int16"`` (torch, BERT-like models on
        processors with AVX2) or ``"int8"`` (onnx). ``"auto"`` takes bf16 where the engine has it and the
        processor has units for it, else int16 where it runs, which agrees with fp32 to a cosine of 0.9998,
        and fp32 elsewhere. Name one for vectors that are equal between machines.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"``; by default the best there is. onnx runs on the CPU.
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

    home = importlib.import_module(f"matryoshka2d.inference.{name}_engine")
    opened: Engine = getattr(home, ENGINES[name])(
        _light_model(model, name, precision, device, size, pooling, calibration)
        or load(model, device, size, pooling, engine=name),
        precision,
        calibration,
    )
    return opened


def _light_model(
    model: str | Path | ElasticEncoder,
    engine: str,
    precision: str,
    device: str | None,
    size: str | Size | None,
    pooling: str | None,
    calibration: Sequence[str] | None,
) -> SavedModel | ReadyGraphs | None:
    """Return a model that runs from its files, or None where it must be loaded in full."""
    if not isinstance(model, (str, Path)):
        return None
    if engine == "onnx":
        from matryoshka2d.inference.ready_graphs import find_graphs

        on_cpu = device in (None, "cpu")
        return find_graphs(str(model), precision, size, pooling, calibration) if on_cpu else None
    return _saved(str(model), device, size, pooling)


def _saved(model: str, device: str | None, size: str | Size | None, pooling: str | None) -> SavedModel | None:
    from matryoshka2d.encoder.default_model import resolve_model
    from matryoshka2d.encoder.precision import only_cpu
    from matryoshka2d.encoder.saved_model import read_model

    if pooling is not None or (device != "cpu" and not (device is None and only_cpu())):
        return None
    return read_model(resolve_model(model), None if size is None else Size.parse(size))


def _chosen(
    model: str | Path | ElasticEncoder, engine: str, precision: str, device: str | None
) -> tuple[str, str]:
    """Return the engine and the precision that the caller asked for, or else the saved ones, or torch."""
    if engine != "auto":
        return engine, precision
    if device in (None, "cpu") and isinstance(model, (str, Path)):
        if is_onnx_export(model):
            return "onnx", precision
        saved = saved_default(model)
        if saved is not None and precision in ("auto", saved.precision) and _installed(saved.engine):
            return saved.engine, saved.precision
    return "torch", precision


def _installed(engine: str) -> bool:
    library = {"onnx": "onnxruntime"}.get(engine, engine)
    return find_spec(library) is not None


def load(
    model: str | Path | ElasticEncoder,
    device: str | None = None,
    size: str | Size | None = None,
    pooling: str | None = None,
    *,
    engine: str = "torch",
) -> Loaded:
    """Return the model on the device; a loaded encoder itself if it is there already, else a copy.

    Parameters
    ----------
    model, device, size, pooling
        As in `open_engine`.
    engine
        The engine that asks; all but torch run on the CPU alone.

    Raises
    ------
    UserError
        If the model cannot be loaded so.
    """
    from matryoshka2d.encoder.default_model import resolve_model

    if engine != "torch":
        if device not in (None, "cpu"):
            raise UserError(
                f"the {engine} engine runs on the cpu: leave out the device '{device}', or use torch"
            )
        device = "cpu"
    if isinstance(model, (str, Path)):
        if is_onnx_export(model):
            raise UserError(f"{model} is an export for ONNX Runtime: open it with the engine onnx on the cpu")
        from matryoshka2d.encoder.elastic import ElasticEncoder

        encoder = ElasticEncoder(resolve_model(str(model)), device=device, size=size, pooling=pooling)
        return Loaded(encoder, ours=True, source=Source(str(model), size, pooling))
    if size is not None or pooling is not None:
        raise UserError(
            "a loaded encoder has its size and its pooling: give the model's name, or leave them out"
        )
    import torch

    if device is None or torch.device(device) == model.device:
        return Loaded(model, ours=False)
    encoder = copy.deepcopy(model)
    encoder.to(device)
    return Loaded(encoder, ours=True)


@dataclass(frozen=True)
class Source:
    """What an encoder was loaded from, and how."""

    model: str
    size: str | Size | None
    pooling: str | None


class Loaded:
    """An encoder, and whether it may be changed: one that a caller gave may not."""

    def __init__(self, encoder: ElasticEncoder, ours: bool, source: Source | None = None) -> None:
        self.encoder = encoder
        self.ours = ours
        self.source = source


class Runner(Protocol):
    """One loaded model. `run` may be called from several threads at once."""

    name: str
    precision: str
    device: str
    budget: int
    """Tokens a batch."""
    waste: float | None
    """Largest share of a batch that may be padding; None where texts of any lengths run without padding."""

    def run(self, tokens: Tokens, layers: int) -> Vectors:
        """Return float32 [texts, width]: an exit after its head, neither cut nor normalized."""

    def memory(self) -> Mapping[int, int]:
        """Return layers → bytes of memory that serving this depth takes, for the depths ready to run."""


_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class Default:
    """A saved choice.

    Parameters
    ----------
    engine, precision
        What `open_engine` takes for ``"auto"``.
    processor
        The machine's processor when it was measured; on another one the choice does not count.
    day
        When, as 2026-01-31.
    texts_per_second
        How fast it was, at the full size.
    """

    engine: str
    precision: str
    processor: str
    day: str
    texts_per_second: float


def save_default(model: str | Path, engine: str, precision: str, texts_per_second: float) -> Path:
    """Remember a choice for a model on this machine; returns the file that holds it."""
    path = _place(model)
    entry = Default(engine, precision, processor(), date.today().isoformat(), round(texts_per_second, 1))
    with naming_the_cache(), staged_file(path) as temporary:
        temporary.write_text(json.dumps(asdict(entry), indent=1) + "\n", encoding="utf-8")
    return path


def saved_default(model: str | Path) -> Default | None:
    """Return the choice that was saved for a model on a processor like this, or None."""
    try:
        entry = Default(**json.loads(_place(model).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # never saved, or by another version
        return None
    return entry if entry.processor == processor() else None


def processor() -> str:
    """Return what this machine's processor calls itself and can do, in short."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    facts = [
        line for line in lines if line.startswith(("model", "cpu family", "flags", "Features", "CPU part"))
    ]
    return f"{platform.machine()} {hashlib.sha256(''.join(facts).encode()).hexdigest()[:16]}"


def _place(model: str | Path) -> Path:
    """Return the file for a model; by its weights where it is a folder, for a new training has none yet."""
    from matryoshka2d.encoder.default_model import resolve_model

    name = resolve_model(str(model))
    parts = [name]
    folder = Path(name)
    if folder.is_dir():
        weights = sorted(file for pattern in _WEIGHTS for file in folder.rglob(pattern))
        parts = [
            str(folder.resolve()),
            *(f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in weights),
        ]
    return user_cache("defaults") / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.json"
