"""A size as a sentence-transformers folder that older releases and servers read too.

Release 6 names modules and settings anew. It still reads what releases 2 to 5 wrote, and so do servers such
as text-embeddings-inference and vLLM, which look for those names: the folder is written in them.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from matryoshka2d.encoder.architectures import architecture_of
from matryoshka2d.errors import UserError
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn

    from matryoshka2d.encoder.elastic import ElasticEncoder

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Name of a pooling → its switch in releases before 6.
_POOLING_SWITCHES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}

Settings = dict[str, Any]


def write_sentence_transformers(
    encoder: ElasticEncoder, size: str | Size, folder: str | Path, *, precision: str = "fp32"
) -> SentenceTransformer:
    """Write a size as a plain sentence-transformers model, with settings that releases 3 to 6 read.

    Parameters
    ----------
    encoder
        The encoder. It is not changed.
    size
        The size, as ``"3x128"``.
    folder
        Where to write; it must exist.
    precision : {"fp32", "bf16", "fp16"}
        Of the weights. Release 6 also computes in it; older ones compute in fp32 unless told otherwise.

    Returns
    -------
    SentenceTransformer
        The model that was written.

    Raises
    ------
    UserError
        If the model lacks the size, or is made of modules that sentence-transformers does not have.
    """
    path = Path(folder)
    plain = encoder.truncate(size).to(dtype=_DTYPES[precision])
    for module in plain:
        _check_stock(module)
    plain.save(str(path), create_model_card=False)
    write_tokenizer(plain, path)
    _use_older_names(plain, path)
    return plain


def older_releases(encoder: ElasticEncoder) -> dict[str, Any]:
    """Return the oldest releases that read a folder of this encoder.

    Returns
    -------
    dict
        ``"reads with"``: library → its oldest release.
    """
    transformers = architecture_of(encoder.base.config).transformers
    # Older ones take the first token as it is, though it belongs to the prompt.
    pooled_past_prompt = any(
        isinstance(module, Pooling) and not module.include_prompt and "cls" in module.pooling_mode
        for module in encoder
    )
    sentence_transformers = "5.2" if int(transformers.split(".")[0]) >= 5 else "3.0"
    return {
        "reads with": {
            "sentence-transformers": "6.0" if pooled_past_prompt else sentence_transformers,
            "transformers": transformers,
        }
    }


def _check_stock(module: nn.Module) -> None:
    home = type(module).__module__
    if home.split(".")[0] != "sentence_transformers":
        raise UserError(
            f"module {type(module).__name__} is code of its own ({home}), which others do not have: "
            "use --format onnx, which holds what it computes"
        )


def _use_older_names(plain: SentenceTransformer, folder: Path) -> None:
    listing = folder / "modules.json"
    entries = json.loads(listing.read_text(encoding="utf-8"))
    for entry, module in zip(entries, plain, strict=True):
        name = type(module).__name__
        entry["type"] = f"sentence_transformers.models.{name}"
        rewrite = _OLDER_SETTINGS.get(name)
        path = folder / entry["path"] / module.config_file_name
        if rewrite is not None and path.is_file():
            path.write_text(_json(rewrite(module, json.loads(path.read_text(encoding="utf-8")))), "utf-8")
    listing.write_text(_json(entries), encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _transformer(module: Any, _settings: Settings) -> Settings:
    return {"max_seq_length": module.max_seq_length, "do_lower_case": module.do_lower_case}


def _pooling(module: Any, _settings: Settings) -> Settings:
    modes = (module.pooling_mode,) if isinstance(module.pooling_mode, str) else module.pooling_mode
    switches = {switch: mode in modes for mode, switch in _POOLING_SWITCHES.items()}
    return {
        "word_embedding_dimension": module.embedding_dimension,
        **switches,
        "include_prompt": module.include_prompt,
    }


def _dense(_module: Any, settings: Settings) -> Settings:
    known = ("in_features", "out_features", "bias", "activation_function")
    return {name: settings[name] for name in known}


_OLDER_SETTINGS: dict[str, Callable[[Any, Settings], Settings]] = {
    "Transformer": _transformer,
    "Pooling": _pooling,
    "Dense": _dense,
}


# What transformers notes about the loading and the last call; older releases take some of it for settings.
_PASSING = ("backend", "is_local", "local_files_only", "max_length", "stride", "truncation_strategy")
# A class of transformers 5 → its name in every release.
_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}


def write_tokenizer(model: SentenceTransformer, folder: Path) -> None:
    """Write a model's tokenizer so that ``tokenizer.json`` alone truncates and pads as the model does.

    Parameters
    ----------
    model
        The model whose first module holds the tokenizer.
    folder
        Where to write ``tokenizer.json``, ``tokenizer_config.json`` and what else the tokenizer keeps.

    Raises
    ------
    UserError
        If the tokenizer has no ``tokenizer.json``.
    """
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"the tokenizer {type(tokenizer).__name__} cannot be written as tokenizer.json: "
            "expected one of the tokenizers library"
        )
    tokenizer.save_pretrained(str(folder))
    _complete(folder / "tokenizer.json", model)
    _readable_config(folder / "tokenizer_config.json", model)


def _complete(path: Path, model: Any) -> None:
    """Say in tokenizer.json how texts are cut and padded: the model keeps that elsewhere."""
    from tokenizers import Tokenizer

    raw = Tokenizer.from_file(str(path))
    tokenizer = model.tokenizer
    raw.no_truncation()
    if model.max_seq_length:
        raw.enable_truncation(model.max_seq_length, direction=tokenizer.truncation_side)
    raw.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id or 0,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token or "",
    )
    raw.save(str(path))


def _readable_config(path: Path, model: Any) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if key not in _PASSING}
    name = str(config.get("tokenizer_class"))
    config["tokenizer_class"] = _CLASSES.get(name, name)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if model.max_seq_length:
        config["model_max_length"] = model.max_seq_length
    # Release 6 drops what the model does not take; older ones hand on all that the tokenizer makes.
    config["model_input_names"] = taken_by(model[0].model, model.tokenizer.model_input_names)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def taken_by(transformer: Any, names: Iterable[str]) -> list[str]:
    """Return those of the tokenizer's outputs that a transformers model takes, in their order."""
    known = inspect.signature(transformer.forward).parameters
    return [name for name in names if name in known]
