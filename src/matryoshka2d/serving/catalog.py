"""Which models are served, at which sizes, and which of them a request asks for."""

from __future__ import annotations

import json
import logging
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.encoder.fingerprints import weights_fingerprint
from matryoshka2d.encoder.loading import side_prompt
from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.cost import vector_bytes
from matryoshka2d.evaluation.quality import Quality
from matryoshka2d.evaluation.record import holds_quality, stored_quality
from matryoshka2d.inference import open_engine
from matryoshka2d.inference.request_batching import BatchingEngine
from matryoshka2d.serving.options import ServeOptions
from matryoshka2d.serving.problems import RequestError, invalid
from matryoshka2d.size import Size, parse_sizes

_LOG = logging.getLogger(__name__)
_ALIAS = re.compile(r"([0-9]{1,6})(?:x([0-9]{1,6}))?")
_NAMED = re.compile(r"([\w.-]+)=(.+)")
_SIDES = ("query", "document")
_TIMED = "How long does it take to embed one short question at this depth?"
_TIMINGS = 7


@dataclass(frozen=True)
class Served:
    """One model that is served.

    Parameters
    ----------
    name
        What requests call it.
    engine
        The loaded model.
    sizes
        The sizes offered, ascending.
    size
        The size of a request that names none.
    any_size
        Whether every other size is served too.
    cost
        Layers → milliseconds of one short text, measured here at the start.
    quality
        What the model carries of its measured quality.
    created
        When it was loaded, in seconds since 1970.
    """

    name: str
    engine: BatchingEngine
    sizes: tuple[Size, ...]
    size: Size
    any_size: bool
    cost: Mapping[int, float]
    quality: Quality | None
    created: int

    @cached_property
    def _offered(self) -> frozenset[Size]:
        return frozenset(self.sizes)

    def choose(self, layers: int | None, dims: int | None) -> Size:
        """Return the size that a request asks for, or raise a `RequestError` if it is not offered."""
        layers, dims = layers or self.size.layers, dims or self.size.dims
        size = Size(layers, dims)
        within = layers <= self.engine.depth and dims <= self.engine.width
        if size not in self._offered and not (within and self.any_size):
            offered = grids(self.sizes)
            if self.any_size:
                offered = f"any up to {self.engine.depth}x{self.engine.width}"
            param = "layers" if layers not in {one.layers for one in self.sizes} else "dimensions"
            raise invalid(
                f"the size {size} is not offered: '{self.name}' has the sizes (layers x dims) {offered}",
                param,
                "size_not_offered",
            )
        return size

    def prompt(self, input_type: str | None) -> str | None:
        """Return what goes before the texts: None for the model's own default."""
        prompts: dict[str, str] = self.engine.tokenizer.prompts
        if input_type is None:
            return None
        if input_type in prompts:
            return prompts[input_type]
        if input_type in _SIDES:
            return side_prompt(self.engine.tokenizer, cast(Any, input_type))
        known = list(dict.fromkeys([*_SIDES, *prompts]))
        raise invalid(
            f"no input_type is called '{input_type}': expected {', '.join(known)}."
            f"{did_you_mean(input_type, known)}",
            "input_type",
            "unknown_input_type",
        )

    def entry(self, size: Size | None) -> dict[str, Any]:
        """Return what ``/v1/models`` says of a size, or of the name alone."""
        shown = size or self.size
        entry: dict[str, Any] = {
            "id": self.name if size is None else f"{self.name}@{size}",
            "object": "model",
            "created": self.created,
            "owned_by": "matryoshka2d",
            "layers": shown.layers,
            "dimensions": shown.dims,
            "bytes_per_vector": vector_bytes(shown.dims),
            "cost_ms": round(self.cost[shown.layers], 3),
            "max_tokens": self.engine.tokenizer.limit,
        }
        if self.quality is not None and shown in self.quality.sizes:
            score = self.quality.score(shown)
            entry |= {
                "quality": score.estimate,
                "quality_interval": [score.low, score.high],
                "quality_metric": self.quality.grid.metric,
            }
        return entry


class Catalog:
    """The models that are served, by name.

    Parameters
    ----------
    served
        The models.
    """

    def __init__(self, served: Iterable[Served]) -> None:
        self.served = {one.name: one for one in served}

    def find(self, model: str, layers: int | None = None, dims: int | None = None) -> tuple[Served, Size]:
        """Return the model and the size that a request asks for.

        Parameters
        ----------
        model
            ``name``, ``name@3`` or ``name@3x128``.
        layers, dims
            What the request's own fields say; they fill what the name leaves open.

        Raises
        ------
        RequestError
            If there is no such model, the size is not offered, or name and fields contradict each other.
        """
        name, at, alias = model.rpartition("@") if "@" in model else (model, "", "")
        served = self.served.get(name)
        match = _ALIAS.fullmatch(alias) if at else None
        if served is None or (at and match is None):
            raise self._unknown(model, name if served is None else None)
        if match is not None:
            named = int(match[1]), int(match[2]) if match[2] else None
            layers = _agreed("layers", model, named[0], layers)
            dims = _agreed("dimensions", model, named[1], dims)
        if layers == 0 or dims == 0:
            raise invalid(f"the model '{model}' names a size of 0", "model", "size_not_offered")
        return served, served.choose(layers, dims)

    def _unknown(self, model: str, name: str | None) -> RequestError:
        if name is None:
            message = f"no model is called '{model}': expected a size after the @, as in name@3x128"
        else:
            known = ", ".join(self.served)
            hint = did_you_mean(name, self.served)
            message = f"no model is called '{model}': this server has {known}.{hint}"
        return RequestError(404, message, param="model", code="model_not_found")


def _agreed(field: str, model: str, named: int | None, given: int | None) -> int | None:
    if named is not None and given is not None and named != given:
        raise invalid(
            f"{field} is {given} and the model is '{model}': leave one of them out", field, "contradiction"
        )
    return given if named is None else named


def load_catalog(models: Sequence[str], options: ServeOptions) -> Catalog:
    """Load every model to serve, and time its depths.

    Parameters
    ----------
    models
        Folders, hub names or ``"default"``; or ``name=MODEL``, to choose what requests call it.
    options
        The choices of the server.

    Raises
    ------
    UserError
        If a model cannot be loaded, lacks a size, or two have one name.
    """
    names: dict[str, str] = {}
    for given in models:
        name, model = named_model(given)
        if name in names:
            raise UserError(f"two models are called '{name}': give one a name, as other={model}")
        names[name] = model
    return Catalog([_load(name, model, options) for name, model in names.items()])


def named_model(text: str) -> tuple[str, str]:
    """Return the name that requests use, and what to load.

    >>> named_model("./my-model"), named_model("org/name"), named_model("small=./my-model")
    (('my-model', './my-model'), ('org/name', 'org/name'), ('small', './my-model'))
    """
    match = None if Path(text).exists() else _NAMED.fullmatch(text)
    if match is not None:
        return match[1], match[2]
    path = Path(text)
    local = path.is_dir() or text.count("/") != 1 or text.startswith((".", "/", "~"))
    name = path.resolve().name if local else text
    if "@" in name:
        raise UserError(f"'{name}' has an @, which stands before a size: name the model, as mine={text}")
    return name, text


def _load(name: str, model: str, options: ServeOptions) -> Served:
    engine = cast(BatchingEngine, open_engine(model, options.engine, options.precision, options.device))
    depth, width = engine.depth, engine.width
    offered = engine.sizes if options.sizes is None else parse_sizes(options.sizes)
    offered = tuple(size.check(depth, width) for size in offered)
    # The full width of an offered depth costs a caller nothing that a narrower one does not.
    sizes = tuple(sorted({*offered, *(Size(one.layers, width) for one in offered)}))
    size = max(sizes) if options.size is None else Size.parse(options.size).check(depth, width)
    if size not in sizes:
        if not options.any_size:
            raise UserError(f"--size {size} is not among the sizes offered: {grids(sizes)}")
        sizes = tuple(sorted({*sizes, size}))
    depths = range(1, depth + 1) if options.any_size else sorted({one.layers for one in sizes})
    cost = {layers: _milliseconds(engine, Size(layers, width)) for layers in depths}
    return Served(name, engine, sizes, size, options.any_size, cost, _quality(model), int(time.time()))


def _milliseconds(engine: BatchingEngine, size: Size) -> float:
    """Return the median of a few timings, after one that makes the depth ready."""
    engine.embed([_TIMED], size)
    taken = []
    for _ in range(_TIMINGS):
        begun = time.perf_counter()
        engine.embed([_TIMED], size)
        taken.append(1000 * (time.perf_counter() - begun))
    return statistics.median(taken)


def _quality(model: str) -> Quality | None:
    """Return the quality that a model's folder holds, if it is of these weights."""
    folder = Path(resolve_model(model))
    record = folder / "elastic.json"
    if not record.is_file() or not holds_quality(json.loads(record.read_text(encoding="utf-8"))):
        return None
    from matryoshka2d.encoder.elastic import ElasticEncoder

    encoder = ElasticEncoder(str(folder), device="cpu")
    try:
        return stored_quality(encoder.record, "float32", weights_fingerprint(encoder))
    except UserError as error:
        _LOG.warning("%s: %s", model, error)
        return None


def grids(sizes: Iterable[Size]) -> str:
    """Return sizes as short as they can be written.

    >>> grids([Size(1, 8), Size(1, 16), Size(2, 8), Size(2, 16), Size(3, 16)])
    '1-2x8,16 3x16'
    """
    dims: dict[int, list[int]] = {}
    for size in sorted(sizes):
        dims.setdefault(size.layers, []).append(size.dims)
    alike: dict[tuple[int, ...], list[int]] = {}
    for layers, widths in dims.items():
        alike.setdefault(tuple(widths), []).append(layers)
    return " ".join(f"{_ranges(layers)}x{','.join(map(str, widths))}" for widths, layers in alike.items())


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
