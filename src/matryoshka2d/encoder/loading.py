"""Finding a model and telling a user in one line why it cannot be loaded."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matryoshka2d.encoder.architectures import architecture_of, cut_config, is_causal
from matryoshka2d.encoder.finite import check_weights
from matryoshka2d.encoder.hub import why_silent
from matryoshka2d.encoder.tokenizer_settings import settle_tokenizer
from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "model*.bin")
_HUB_ARGUMENTS = ("token", "cache_folder", "revision", "local_files_only")


def check_model(name: str) -> str:
    """Return the name if it can be a model: a folder with a config and weights, or a hub name.

    Raises
    ------
    UserError
        If it is a missing path, a file, or a folder without a config or weights.
    """
    path = Path(name)
    if path.is_dir():
        _check_folder(path)
    elif path.is_file():
        raise UserError(f"{name} is a file: expected the folder of a model, or a hub name such as owner/name")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        nearby = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, nearby) or " Expected a folder with modules.json, or a hub name."
        raise UserError(f"model folder {name} does not exist.{hint}")
    return name


def _check_folder(path: Path) -> None:
    if not any((path / file).is_file() for file in ("modules.json", "config.json")):
        raise UserError(f"{path} is not a model: expected modules.json or config.json in it")
    weights = [file for pattern in _WEIGHTS for file in path.rglob(pattern)]
    if all({"exit_heads", "shallow"} & set(file.relative_to(path).parts) for file in weights):
        raise UserError(
            f"{path} has no weights: expected model.safetensors in it; was the download complete?"
        )


def init_arguments(
    name: str, size: Size | None, pooling: str | None, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments with which SentenceTransformer loads this model.

    A size cuts the config, so that deeper layers are never built or read; a pooling is put behind a
    plain transformers checkpoint.
    """
    kwargs = dict(kwargs)
    config_kwargs = {**(kwargs.pop("config_kwargs", None) or {}), **_shallow_config(name, size, kwargs)}
    if pooling is None:
        return {"model_name_or_path": name, "config_kwargs": config_kwargs or None, **kwargs}
    return {"modules": _pooled_modules(name, pooling, config_kwargs, kwargs), **kwargs}


@contextlib.contextmanager
def in_one_line(name: str) -> Iterator[None]:
    """Turn what the libraries say of a model that they cannot load into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, AssertionError, ImportError, SafetensorError) as error:
        if _needs_own_code(name, error):
            raise UserError(
                f"model '{name}' needs code of its own, which is not run here: from Python, "
                "ElasticEncoder(..., trust_remote_code=True) runs it, if you trust it"
            ) from error
        words = str(error).strip().splitlines() or [type(error).__name__]
        missing = isinstance(error, OSError) and not Path(name).is_dir()
        why = f"no such folder, and the hub did not give it: {_of_the_hub(words[0])}" if missing else words[0]
        raise UserError(f"model '{name}' cannot be loaded: {why}") from error


def settled(model: SentenceTransformer, name: str) -> SentenceTransformer:
    """Return a model of any kind, at its own width, its tokenizer ready for batches, its weights finite.

    Raises
    ------
    UserError
        If its tokenizer cannot pad, or a weight is not finite.
    """
    from sentence_transformers.base.modules import Transformer

    # Its config may cut vectors; here a size does.
    model.truncate_dim = None
    if isinstance(model[0], Transformer):
        settle_tokenizer(model[0])
    check_weights(model, f"model '{name}'")
    return model


def _of_the_hub(words: str) -> str:
    """Return why the hub gave nothing: what its library says, unless the hub was not even asked."""
    silent = why_silent()
    return words if silent is None else f"{silent}, and no copy is in the cache"


def _needs_own_code(name: str, error: Exception) -> bool:
    """Return whether a model failed to load for want of code that comes with it."""
    if "trust_remote_code" in str(error):
        return True
    listing = Path(name) / "modules.json"
    if not isinstance(error, ImportError) or not listing.is_file():
        return False
    types = [str(module.get("type", "")) for module in json.loads(listing.read_text(encoding="utf-8"))]
    return not all(kind.startswith("sentence_transformers.") for kind in types)


@contextlib.contextmanager
def without_load_report(shallow: bool) -> Iterator[None]:
    """Keep transformers from reporting the deeper layers, which are left on disk on purpose."""
    logger = logging.getLogger("transformers.modeling_utils")

    def wanted(entry: logging.LogRecord) -> bool:
        return "UNEXPECTED" not in entry.getMessage()

    if shallow:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _shallow_config(name: str, size: Size | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    if size is None:
        return {}
    from transformers import AutoConfig

    folder = transformer_folder(name, kwargs)
    config = AutoConfig.from_pretrained(name, subfolder=folder, **_hub(kwargs, cache="cache_dir"))
    architecture_of(config)
    size.check(config.num_hidden_layers, size.dims)
    return cut_config(config, size.layers)


def transformer_folder(name: str, kwargs: dict[str, Any]) -> str:
    """Return the folder, inside a model's own, of the transformers checkpoint; empty if it is the same."""
    listing = elastic_file(name, "modules.json", kwargs)
    if listing is None:
        return ""
    return str(json.loads(listing.read_text(encoding="utf-8"))[0]["path"])


def _pooled_modules(
    name: str, pooling: str, config_kwargs: dict[str, Any], kwargs: dict[str, Any]
) -> list[Any]:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    if pooling not in POOLINGS:
        known = ", ".join(POOLINGS)
        raise UserError(
            f"pooling '{pooling}' is not known: expected one of {known}.{did_you_mean(pooling, POOLINGS)}"
        )
    if elastic_file(name, "modules.json", kwargs) is not None:
        raise UserError(f"{name} has a pooling of its own: leave out the pooling '{pooling}'")
    hub = _hub(kwargs, cache="cache_dir")
    cache = {"cache_dir": hub.pop("cache_dir")} if "cache_dir" in hub else {}
    given = {key: {**hub, **(kwargs.pop(key, None) or {})} for key in ("model_kwargs", "processor_kwargs")}
    for key in (*_HUB_ARGUMENTS, "trust_remote_code"):
        kwargs.pop(key, None)
    transformer = Transformer(name, config_kwargs={**hub, **config_kwargs}, **given, **cache)
    if pooling == "cls" and is_causal(transformer.model.config):
        raise UserError(
            f"pooling 'cls' takes the first token, which in {name} sees nothing of the text that follows: "
            "choose last or mean"
        )
    return [transformer, Pooling(transformer.get_embedding_dimension(), POOLINGS[pooling])]


def _hub(kwargs: dict[str, Any], cache: str = "cache_folder") -> dict[str, Any]:
    named = {key: kwargs[key] for key in _HUB_ARGUMENTS if kwargs.get(key) is not None}
    if "cache_folder" in named:
        named[cache] = named.pop("cache_folder")
    return named


def elastic_file(name: str, file: str, kwargs: dict[str, Any]) -> Path | None:
    """Return the local path of one file of a model folder or hub model, or None if it has no such file."""
    from sentence_transformers.util import load_file_path

    path = load_file_path(name, file, **_hub(kwargs))
    return None if path is None else Path(path)


def elastic_folder(name: str, folder: str, kwargs: dict[str, Any]) -> Path | None:
    """Return the local path of one folder of a model folder or hub model, or None if it has none."""
    from sentence_transformers.util import load_dir_path

    path = load_dir_path(name, folder, **_hub(kwargs))
    return None if path is None or not Path(path).is_dir() else Path(path)


Side = Literal["query", "document"]

SIDE_NAMES: dict[Side, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""Names under which models keep the prompt of a side; the first that a model has counts."""


def side_prompt(model: Any, side: Side) -> str:
    """Return the prompt that a model puts before queries or documents, empty if it has none.

    As in ``SentenceTransformer.encode_query`` and ``encode_document``: the prompt called ``query``, or the
    first of ``document``, ``passage`` and ``corpus``; the model's default one where there is no such name. A
    prompt of that name counts even if it is empty, and sentence-transformers gives every model it loads an
    empty ``query`` and ``document`` where its configuration has none.

    Parameters
    ----------
    model
        Anything that may have ``prompts`` and ``default_prompt_name``, as a SentenceTransformer has.
    side
        Which of the two.

    Examples
    --------
    >>> class Model:
    ...     prompts = {"query": "query: ", "document": ""}
    >>> side_prompt(Model(), "query"), side_prompt(Model(), "document"), side_prompt(object(), "query")
    ('query: ', '', '')
    """
    prompts = getattr(model, "prompts", None) or {}
    own = (name for name in SIDE_NAMES[side] if name in prompts)
    name = next(own, getattr(model, "default_prompt_name", None))
    return prompts.get(name) or ""


def default_prompt(model: Any) -> str:
    """Return the prompt that a model puts before texts that are neither, empty if it has none."""
    prompts = getattr(model, "prompts", None) or {}
    return prompts.get(getattr(model, "default_prompt_name", None)) or ""


def check_prompt(prompts: Iterable[str], prompt_name: str | None) -> None:
    """Raise a `UserError` unless the prompt is one of the model's, or none is asked for."""
    names = list(prompts)
    if prompt_name is not None and prompt_name not in names:
        known = f"expected one of {', '.join(names)}" if names else "it has none"
        raise UserError(
            f"the model has no prompt '{prompt_name}': {known}.{did_you_mean(prompt_name, names)}"
        )
