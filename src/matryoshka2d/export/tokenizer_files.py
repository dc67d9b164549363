"""The tokenizer on disk, ready for software that reads ``tokenizer.json`` and nothing else."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

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
