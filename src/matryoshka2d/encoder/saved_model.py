"""A saved BERT-like model, read from its folder without the libraries that made it.

Importing those takes longer than reading a model and embedding a first text. What they would make of a folder
is known for the common ones: modules of sentence-transformers around BERT's kin, in fp32, with a
``tokenizer.json``. Whatever is unusual is left to the full load, `ElasticEncoder`, which also words the
errors of broken folders.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from matryoshka2d.encoder.architectures import ARCHITECTURES, Architecture, PostNormParts
from matryoshka2d.encoder.finite import check_tensors
from matryoshka2d.encoder.saved_tokenizer import (
    NO_LIMIT,
    SavedTexts,
    UnusualError,
    expect,
    json_of,
    read_tokenizer,
)
from matryoshka2d.size import Size, default_sizes

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "elastic.json"
"""The file in which an elastic model says its heads and its sizes."""

HEADS = "exit_heads"
"""The folder of the heads."""

SHALLOW = "shallow"
"""The folder of the shallow tower."""

_SETTINGS = "sentence_bert_config.json"
# What that file may say without changing anything here.
_USUAL_SETTINGS: dict[str, Any] = {
    "do_lower_case": False,
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
# Files of models that are more than their weights, or whose texts go another way.
_UNUSUAL_FILES = ("adapter_config.json", "preprocessor_config.json", "processor_config.json")
_UNUSUAL_ENTRIES = (
    "auto_map",
    "quantization_config",
    "pruned_heads",
    "add_cross_attention",
    "tokenizer_class",
)
_OLD_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLINGS = ("mean", "cls", "lasttoken")
_FP32 = (None, "float32")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedDense:
    """A map after the pooling: float32 weight [out, in] and bias [out], an activation of torch.nn."""

    weight: Tensor
    bias: Tensor | None
    activation: str


@dataclass(frozen=True)
class SavedModel:
    """What an engine needs of a model's folder.

    Parameters
    ----------
    name
        What the user calls the model.
    texts
        The way in.
    config
        The entries of ``config.json``.
    architecture, parts
        Where its weights are.
    file
        The file of the base model's weights.
    prefix
        What stands before their names there.
    pooling
        ``"mean"``, ``"cls"`` or ``"lasttoken"``.
    dense
        The maps after the pooling, without a normalization at the end.
    heads
        Exit → float32 [width, width].
    depth, width, size, sizes
        As of `ElasticEncoder`.
    tower
        The shallow tower that answers the sizes of its layers, if there is one.
    """

    name: str
    texts: SavedTexts
    config: SimpleNamespace
    architecture: Architecture
    parts: PostNormParts
    file: Path
    prefix: str
    pooling: str
    dense: tuple[SavedDense, ...]
    heads: Mapping[int, Tensor]
    depth: int
    width: int
    size: Size
    sizes: tuple[Size, ...]
    tower: SavedModel | None

    def weights(self) -> Weights:
        """Return the base model's weights: name → float32 tensor, read and checked when asked for."""
        return Weights(self.file, self.prefix, f"model '{self.name}'")


class Weights:
    """The weights in a file, by the names that they have in the base model."""

    def __init__(self, file: Path, prefix: str, what: str) -> None:
        from safetensors import safe_open

        self._file = safe_open(str(file), framework="pt")
        self._prefix, self._what = prefix, what

    def __call__(self, name: str) -> Tensor:
        """Return a weight, or raise a `UserError` if it is not finite."""
        tensor: Tensor = self._file.get_tensor(self._prefix + name)  # type: ignore[no-untyped-call]
        check_tensors([(f"0.model.{name}", tensor)], self._what)
        return tensor


def read_model(name: str, size: Size | None = None) -> SavedModel | None:
    """Read a model's folder, or return None where only the full load can.

    Parameters
    ----------
    name
        The folder.
    size
        Read only this size.

    Raises
    ------
    UserError
        If the model lacks the size, or weights of its heads are not finite.

    Examples
    --------
    >>> from matryoshka2d.encoder.default_model import default_model_path
    >>> model = read_model(default_model_path())
    >>> model.depth, model.width, model.pooling
    (6, 384, 'mean')
    """
    try:
        return _read(name, size)
    except UnusualError as why:
        logger.debug("model '%s' is loaded in full: %s", name, why)
        return None


def _read(name: str, size: Size | None) -> SavedModel:
    folder = Path(name)
    record = json_of(folder / RECORD) if (folder / RECORD).exists() else {}
    shallow = int(record.get("shallow", 0))
    expect(not shallow or (folder / SHALLOW).is_dir(), "a shallow tower that is not there")
    if size is not None and size.layers <= shallow:
        return _read(str(folder / SHALLOW), size)
    transformer, *later = _modules(folder)
    base = folder / transformer["path"]
    config = _config(base)
    architecture = ARCHITECTURES.get(config.model_type)
    parts = architecture.post_norm if architecture is not None else None
    if architecture is None or parts is None or not parts.fits(config):
        raise UnusualError("an architecture that is not packed")
    layers = int(getattr(config, parts.depth))
    depth = layers if size is None else size.check(layers, size.dims).layers
    texts = SavedTexts(read_tokenizer(base, partial(_limit, base, config, parts)), *_prompts(folder))
    file = base / "model.safetensors"
    prefix = _check_file(file, parts.shapes(config, architecture.layers, depth))
    what = f"model '{name}'"
    pooling, dense, width = _later(folder, later, int(getattr(config, parts.hidden)), what)
    heads = _heads(folder / HEADS, depth, what) if record.get("heads") else {}
    trained = tuple(map(Size.parse, record.get("sizes", [])))
    return SavedModel(
        name,
        texts,
        config,
        architecture,
        parts,
        file,
        prefix,
        pooling,
        dense,
        heads,
        depth,
        width,
        Size(depth, width) if size is None else size.check(depth, width),
        tuple(one for one in trained if one.layers <= depth) or default_sizes(depth, width),
        _read(str(folder / SHALLOW), None) if shallow else None,
    )


def _modules(folder: Path) -> list[dict[str, Any]]:
    """Return the modules: a Transformer, a pooling, linear maps; a normalization at the end is left out."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusualError(str(error)) from error
    kinds = [str(module.get("type")) for module in modules]
    expect(all(kind.startswith("sentence_transformers.") for kind in kinds), "modules of its own")
    found = [{"kind": kind.rpartition(".")[2], **module} for kind, module in zip(kinds, modules, strict=True)]
    while found and found[-1]["kind"] == "Normalize":
        found.pop()
    first = [module["kind"] for module in found[:2]]
    expect(first == ["Transformer", "Pooling"], f"modules {', '.join(first)}")
    expect(all(module["kind"] == "Dense" for module in found[2:]), "other modules than linear maps")
    return found


def _config(base: Path) -> SimpleNamespace:
    entries = json_of(base / "config.json")
    expect(not any(entries.get(name) for name in _UNUSUAL_ENTRIES), "unusual entries in its config")
    expect(all(entries.get(name) in _FP32 for name in ("dtype", "torch_dtype")), "weights that are not fp32")
    expect(not any((base / file).exists() for file in _UNUSUAL_FILES), "files of adapters or other inputs")
    return _Config(**{"is_decoder": False, **entries})


class _Config(SimpleNamespace):
    """A model's config; what an older file leaves to the library's defaults is not known here."""

    def __getattr__(self, name: str) -> Any:
        raise UnusualError(f"no {name} in its config")


def _limit(base: Path, config: SimpleNamespace, parts: PostNormParts, stated: int) -> int:
    """Return how many tokens the model takes, where the tokenizer's own config states a number."""
    settings = json_of(base / _SETTINGS) if (base / _SETTINGS).exists() else {}
    most = settings.pop("max_seq_length", None)
    for name, value in settings.items():
        expect(value in (_USUAL_SETTINGS.get(name), None, {}), f"{name} in {_SETTINGS}")
    room = parts.positions(config)
    return int(min(most or min(stated, config.max_position_embeddings), room, NO_LIMIT))


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """Return the prompts, with the two that every model has, and the name of the default one."""
    file = folder / "config_sentence_transformers.json"
    config = json_of(file) if file.exists() else {}
    expect(not config.get("requirements"), "requirements of its own")
    expect(config.get("model_type", "SentenceTransformer") == "SentenceTransformer", "another kind of model")
    prompts = {"query": "", "document": "", **(config.get("prompts") or {})}
    default = config.get("default_prompt_name")
    expect(all(isinstance(prompt, str) for prompt in prompts.values()), "prompts that are no texts")
    expect(default is None or default in prompts, "a default prompt that is not there")
    return prompts, default


def _check_file(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """See that a file holds all weights in fp32; return what stands before their names there."""
    from safetensors import SafetensorError, safe_open

    expect(file.is_file(), "no single file of weights")
    try:
        with safe_open(str(file), framework="np") as opened:
            names = set(opened.keys())
            some = next(iter(shapes))
            prefixes = [name.removesuffix(some) for name in names if name.endswith(some)]
            expect(len(prefixes) == 1, f"no one {some}")
            for name, shape in shapes.items():
                expect(prefixes[0] + name in names, f"no {name}")
                found = opened.get_slice(prefixes[0] + name)
                expect(found.get_dtype() == "F32", "weights that are not fp32")
                expect(tuple(found.get_shape()) == shape, f"{name} of another shape")
    except (OSError, SafetensorError) as error:
        raise UnusualError(str(error)) from error
    return str(prefixes[0])


def _later(
    folder: Path, modules: list[dict[str, Any]], width: int, what: str
) -> tuple[str, tuple[SavedDense, ...], int]:
    """Return the pooling, the linear maps after it, and the width of their vectors."""
    pooling = json_of(folder / modules[0]["path"] / "config.json")
    modes = [mode for name, mode in _OLD_POOLINGS.items() if pooling.get(name)] or ["mean"]
    given = pooling.get("pooling_mode", modes[0] if len(modes) == 1 else modes)
    expect(given in _POOLINGS and pooling.get("include_prompt", True), "an unusual pooling")
    dims = pooling.get("embedding_dimension", pooling.get("word_embedding_dimension"))
    expect(dims == width, "a pooling of another width")
    dense = []
    for module in modules[1:]:
        dense.append(_dense(folder / module["path"], f"{module['name']}.linear", width, what))
        width = len(dense[-1].weight)
    return str(given), tuple(dense), width


def _dense(folder: Path, name: str, width: int, what: str) -> SavedDense:
    """Read a stock Dense that takes vectors of a width."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = json_of(folder / "config.json")
    names = [config.get(f"module_{end}_name") or "sentence_embedding" for end in ("input", "output")]
    expect(names == ["sentence_embedding"] * 2 and not config.get("use_residual"), "an unusual linear map")
    home, _, activation = config.get("activation_function", "torch.nn.modules.activation.Tanh").rpartition(
        "."
    )
    expect(home in ("torch.nn.modules.activation", "torch.nn.modules.linear"), "an activation of its own")
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise UnusualError(str(error)) from error
    shapes: dict[str, tuple[Any, ...]] = {"linear.weight": (config.get("out_features"), width)}
    if config.get("bias", True):
        shapes["linear.bias"] = (config.get("out_features"),)
    expect({key: tuple(one.shape) for key, one in tensors.items()} == shapes, "a linear map of other shapes")
    expect(all(str(one.dtype) == "torch.float32" for one in tensors.values()), "weights that are not fp32")
    check_tensors([(f"{name}.{key.removeprefix('linear.')}", one) for key, one in tensors.items()], what)
    return SavedDense(tensors["linear.weight"], tensors.get("linear.bias"), activation)


def _heads(folder: Path, depth: int, what: str) -> dict[int, Tensor]:
    """Read the heads of the exits of a model with so many layers."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and int(path.name) <= depth:
            width = int(json_of(path / "config.json").get("in_features", 0))
            head = _dense(path, f"{HEADS}.dense.{path.name}.linear", width, what)
            expect(head.bias is None and head.activation == "Identity", "an unusual head")
            found[int(path.name)] = head.weight
    return found
