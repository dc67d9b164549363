"""The tokenizer of a model's folder, from its files alone, as transformers would give it.

Transformers takes ``tokenizer.json`` as it stands for some classes of tokenizers. For the others it takes the
vocabulary and builds the rest anew from ``tokenizer_config.json``. Here the file is taken as it stands, once
it is seen that both say the same; whatever is written otherwise raises `UnusualError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NO_LIMIT = 1_000_000
"""Limits from here on are none."""

_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
# A class of tokenizers that takes the file as it stands.
_AS_IT_STANDS = ("TokenizersBackend", "PreTrainedTokenizer")
# What changes a tokenizer in ways that are not looked into here.
_NOT_READ = ("auto_map", "split_special_tokens", "max_len", "fix_mistral_regex", "init_inputs")


class UnusualError(Exception):
    """A model's folder is no common one: the libraries that made it must load it."""


@dataclass(frozen=True)
class SavedTokenizer:
    """A tokenizer that never pads and cuts at the limit.

    Parameters
    ----------
    backend
        What makes the ids. Copied by nobody: its settings are its own.
    limit
        Tokens of which no text keeps more, or None where there is no limit.
    padding
        Id of the padding token.
    vocabulary
        How many token ids there are.
    """

    backend: Tokenizer
    limit: int | None
    padding: int
    vocabulary: int


@dataclass(frozen=True)
class SavedTexts:
    """How texts become tokens.

    Parameters
    ----------
    tokenizer
        The tokenizer.
    prompts, default_prompt_name
        Name → what stands before a text, and the name of the prompt that is used when none is asked for.
    skips_prompt
        Whether pooling leaves the tokens of the prompt out.
    """

    tokenizer: SavedTokenizer
    prompts: Mapping[str, str]
    default_prompt_name: str | None
    skips_prompt: bool = False


def read_tokenizer(folder: Path, limit: Callable[[int], int]) -> SavedTokenizer:
    """Read the tokenizer of a folder.

    Parameters
    ----------
    folder
        The folder with ``tokenizer.json`` and ``tokenizer_config.json``.
    limit
        The limit that the tokenizer's own config states → the limit of the model.

    Raises
    ------
    UnusualError
        If transformers might make another tokenizer of these files.
    """
    from tokenizers import Tokenizer

    config = json_of(folder / "tokenizer_config.json")
    expect(not any(config.get(name) for name in _NOT_READ), "settings of the tokenizer")
    expect(config.get("backend", "tokenizers") == "tokenizers", "a tokenizer of another library")
    expect(not (folder / "added_tokens.json").exists(), "added tokens of their own")
    file = folder / "tokenizer.json"
    expect(file.is_file(), "no tokenizer.json")
    backend = Tokenizer.from_file(str(file))
    kind = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    usual = {} if kind in _AS_IT_STANDS else _class(kind).named
    stated = _stated(folder, config)
    named = {**_of_padding(backend), **usual, **_named(stated)}
    _check_added(backend, config, [*named.values(), *_extra(stated)])
    if kind not in _AS_IT_STANDS:
        _check_rebuilt(backend, kind, config, named, file)
    expect("pad" in named, "no padding token")
    most = limit(int(min(config.get("model_max_length") or NO_LIMIT, NO_LIMIT)))
    side = config.get("truncation_side") or (backend.truncation or {}).get("direction", "right")
    backend.no_padding()
    if most >= NO_LIMIT:
        backend.no_truncation()
    else:
        backend.enable_truncation(most, direction=side)
    padding, vocabulary = int(backend.token_to_id(named["pad"]) or 0), backend.get_vocab_size()
    return SavedTokenizer(backend, None if most >= NO_LIMIT else most, padding, vocabulary)


def json_of(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or raise an `UnusualError`."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusualError(str(error)) from error
    expect(isinstance(found, dict), f"{file.name} holds no object")
    return dict(found)


def expect(usual: object, otherwise: str) -> None:
    """Raise an `UnusualError` unless something is as usual."""
    if not usual:
        raise UnusualError(otherwise)


# --- special tokens --------------------------------------------------------------------------------


def _of_padding(backend: Tokenizer) -> dict[str, str]:
    return {"pad": backend.padding["pad_token"]} if backend.padding else {}


def _stated(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the config says of tokens; an older file beside it counts where the config is as old."""
    older = folder / "special_tokens_map.json"
    newer = "added_tokens_decoder" in config or not older.is_file()
    return dict(config) if newer else {**config, **json_of(older)}


def _named(stated: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens of the usual names."""
    return {name: _content(token) for name in _NAMED if (token := stated.get(f"{name}_token")) is not None}


def _extra(stated: Mapping[str, Any]) -> list[str]:
    """Return the special tokens without a usual name."""
    lists = [stated.get(name) or [] for name in ("extra_special_tokens", "additional_special_tokens")]
    expect(all(isinstance(tokens, list) for tokens in lists), "special tokens with names of their own")
    own = [name for name in stated if name.endswith("_token") and name.removesuffix("_token") not in _NAMED]
    others = [stated[name] for name in own if isinstance(stated[name], (str, dict))]
    return [_content(token) for tokens in (*lists, others) for token in tokens]


def _content(token: Any) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    expect(isinstance(content, str), "a token that is no text")
    return str(content)


def _check_added(backend: Tokenizer, config: Mapping[str, Any], special: Iterable[str]) -> None:
    """See that the tokens which transformers adds are in the file already, just so."""
    added = {index: _flags(token) for index, token in backend.get_added_tokens_decoder().items()}
    if "added_tokens_decoder" in config:
        stated = {int(index): token for index, token in config["added_tokens_decoder"].items()}
        expect(stated == added, "other added tokens in the config than in the file")
    known = {flags["content"]: flags["special"] for flags in added.values()}
    expect(all(known.get(token) for token in special), "special tokens that the file does not have so")
    # A tokenizer that is built anew gives those numbers to them, and no others.
    behind = [index for index in sorted(added) if backend.model.token_to_id(added[index]["content"]) != index]
    first = backend.get_vocab_size(with_added_tokens=False)
    expect(behind == list(range(first, first + len(behind))), "added tokens with numbers of their own")


def _flags(token: Any) -> dict[str, Any]:
    return {name: getattr(token, name) for name in _FLAGS}


# --- tokenizers that transformers builds anew ------------------------------------------------------


@dataclass(frozen=True)
class _Class:
    """A class of transformers that builds its tokenizer anew.

    `named` are its special tokens where the config names none, `before` and `behind` those around a text, and
    `check` sees that the file's parts are those that the class builds.
    """

    named: Mapping[str, str]
    before: str
    behind: str
    check: Callable[[Tokenizer, Mapping[str, Any], Mapping[str, str], Path], None]


def _check_rebuilt(
    backend: Tokenizer, kind: str, config: Mapping[str, Any], named: Mapping[str, str], file: Path
) -> None:
    own = _class(kind)
    around = tuple(backend.token_to_id(named[name]) for name in (own.before, own.behind))
    expect(_around(backend) == around, "other tokens around a text")
    own.check(backend, config, named, file)


def _around(backend: Tokenizer) -> tuple[int, int] | None:
    """Return the ids that the tokenizer puts before and behind a text, one each, or None."""
    if backend.post_processor is None:
        return None
    state = _state(backend.post_processor)
    if state["type"] in ("BertProcessing", "RobertaProcessing"):
        return state["cls"][1], state["sep"][1]
    if state["type"] != "TemplateProcessing":
        return None
    match state["single"]:
        case [{"SpecialToken": before}, {"Sequence": {"id": "A"}}, {"SpecialToken": behind}]:
            ids = [state["special_tokens"][token["id"]]["ids"] for token in (before, behind)]
            return (ids[0][0], ids[1][0]) if [len(one) for one in ids] == [1, 1] else None
    return None


def _state(part: Any) -> dict[str, Any]:
    """Return how a part of a tokenizer is set up."""
    return dict(json.loads(part.__getstate__()))


def _check_parts(backend: Tokenizer, normalizer: Any, pre_tokenizer: Any) -> None:
    for mine, its in ((backend.normalizer, normalizer), (backend.pre_tokenizer, pre_tokenizer)):
        same = mine is its or (mine is not None and its is not None and _state(mine) == _state(its))
        expect(same, "a normalizer or splitting of its own")


def _check_word_pieces(
    backend: Tokenizer, config: Mapping[str, Any], named: Mapping[str, str], _: Path
) -> None:
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    _check_parts(backend, normalizer, BertPreTokenizer())
    expect(isinstance(backend.model, WordPiece), "no word pieces")
    built = WordPiece({}, unk_token=named["unk"])
    for name in ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word"):
        expect(getattr(backend.model, name) == getattr(built, name), f"{name} of its own")


def _check_byte_pairs(backend: Tokenizer, config: Mapping[str, Any], _: Mapping[str, str], __: Path) -> None:
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    _check_parts(backend, None, ByteLevel(add_prefix_space=config.get("add_prefix_space", False)))
    expect(isinstance(backend.model, BPE), "no byte pairs")
    changed = ("dropout", "fuse_unk", "byte_fallback", "ignore_merges", "unk_token")
    fixes = ("continuing_subword_prefix", "end_of_word_suffix")
    expect(not any(getattr(backend.model, name) for name in (*changed, *fixes)), "byte pairs of its own")


def _check_unigrams(
    backend: Tokenizer, config: Mapping[str, Any], named: Mapping[str, str], file: Path
) -> None:
    from tokenizers.models import Unigram
    from tokenizers.normalizers import Precompiled
    from tokenizers.pre_tokenizers import Metaspace, Sequence, WhitespaceSplit

    scheme = "always" if config.get("add_prefix_space", True) else "never"
    normalizer = backend.normalizer
    expect(normalizer is None or isinstance(normalizer, Precompiled), "a normalizer of its own")
    splitting = Sequence([WhitespaceSplit(), Metaspace(replacement="▁", prepend_scheme=scheme)])
    _check_parts(backend, normalizer, splitting)
    expect(isinstance(backend.model, Unigram), "no unigrams")
    # The library does not tell these two.
    text = file.read_bytes()
    unknown = re.findall(rb'"unk_id"\s*:\s*(\d+)', text)
    expect(
        [int(number) for number in unknown] == [backend.token_to_id(named["unk"])], "another unknown token"
    )
    expect(re.search(rb'"byte_fallback"\s*:\s*true', text) is None, "bytes for what is unknown")


_SENTENCE_PIECES = {
    "bos": "<s>",
    "eos": "</s>",
    "sep": "</s>",
    "cls": "<s>",
    "unk": "<unk>",
    "pad": "<pad>",
    "mask": "<mask>",
}
_WORD_PIECES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_CLASSES: dict[str, _Class] = {
    "BertTokenizer": _Class(_WORD_PIECES, "cls", "sep", _check_word_pieces),
    "DistilBertTokenizer": _Class(_WORD_PIECES, "cls", "sep", _check_word_pieces),
    "RobertaTokenizer": _Class(_SENTENCE_PIECES, "cls", "sep", _check_byte_pairs),
    "XLMRobertaTokenizer": _Class(_SENTENCE_PIECES, "bos", "eos", _check_unigrams),
}


def _class(kind: str) -> _Class:
    expect(kind in _CLASSES, f"tokenizer {kind or 'of no class'}")
    return _CLASSES[kind]
