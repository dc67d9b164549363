"""Texts as token ids laid end to end, without padding."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.encoder.saved_tokenizer import NO_LIMIT, SavedTexts, SavedTokenizer
from matryoshka2d.errors import UserError, did_you_mean, whole_texts

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder

Integers = NDArray[np.int64]

_SLOW_BATCH = 64
# A text is "far over the limit" when it is longer than a token could make it; then only a head is tokenized.
_CHARACTERS_PER_TOKEN = 8
# Tokens that the head must have beyond the limit: how a text was cut shows in its last few tokens only.
_MARGIN = 16
# So few texts are tokenized one by one.
_FEW = 8


@dataclass(frozen=True)
class Tokens:
    """Some texts as token ids.

    Parameters
    ----------
    ids
        int64 [total]: the ids of the first text, then those of the second, and so on.
    lengths
        int64 [texts]: how many ids each text has.
    prompt_length
        How many leading tokens pooling leaves out, for models that leave prompts out; else 0.
    """

    ids: Integers
    lengths: Integers
    prompt_length: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Integers) -> Tokens:
        """Return some of the texts, in the given order.

        >>> tokens = Tokens(np.array([1, 2, 3, 4, 5, 6]), np.array([1, 2, 3]))
        >>> tokens.take(np.array([2, 0])).ids
        array([4, 5, 6, 1])
        """
        lengths = self.lengths[rows]
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        moved = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return Tokens(self.ids[moved + np.arange(len(moved))], lengths, self.prompt_length)

    def groups(self) -> Iterator[tuple[int, int, int]]:
        """Yield (first id, texts, length) for every run of texts of one length.

        >>> list(Tokens(np.zeros(7, dtype=np.int64), np.array([2, 2, 3])).groups())
        [(0, 2, 2), (4, 1, 3)]
        """
        changes = np.flatnonzero(np.diff(self.lengths)) + 1
        bounds = [0, *changes.tolist(), len(self.lengths)]
        start = 0
        for first, last in pairwise(bounds):
            if last > first:
                length = int(self.lengths[first])
                yield start, last - first, length
                start += (last - first) * length

    def padded(self, fill: int) -> tuple[Integers, Integers]:
        """Return ids and mask, int64 [texts, longest], padded on the right."""
        longest = int(self.lengths.max(initial=0))
        mask = np.arange(longest) < self.lengths[:, None]
        ids = np.full(mask.shape, fill, dtype=np.int64)
        ids[mask] = self.ids
        return ids, mask.astype(np.int64)


def join(parts: Sequence[Tokens]) -> Tokens:
    """Return the texts of several parts, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    ids = np.concatenate([part.ids for part in parts])
    return Tokens(ids, np.concatenate([part.lengths for part in parts]), parts[0].prompt_length)


def packed(rows: Sequence[Sequence[int]], prompt_length: int = 0) -> Tokens:
    """Return some texts, given as ids, laid end to end.

    >>> packed([[1, 2], [3]]).lengths
    array([2, 1])
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    ids = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return Tokens(ids, lengths, prompt_length)


class TextTokenizer:
    """The tokenizer of a model, giving `Tokens`. Safe to share between threads.

    Text-only models with a fast tokenizer are tokenized by a copy of it that never pads; all others by
    the encoder's own `preprocess`. Both give the same ids.

    Parameters
    ----------
    model
        The encoder whose tokenizer, limit and prompts are used, or those of a saved model.
    """

    def __init__(self, model: ElasticEncoder | SavedTexts) -> None:
        self.prompts = dict(model.prompts)
        self.default_prompt_name = model.default_prompt_name
        if not isinstance(model, SavedTexts):
            self._take(model)
            return
        saved = model.tokenizer
        self.fill, self.limit, self.vocabulary = saved.padding, saved.limit, saved.vocabulary
        self._skips_prompt, self._fast = model.skips_prompt, saved.backend

    def saved(self) -> SavedTexts | None:
        """Return all that this one is made of, where that can be written: a fast tokenizer and prompts."""
        if self._fast is None:
            return None
        tokenizer = SavedTokenizer(self._fast, self.limit, self.fill, self.vocabulary)
        return SavedTexts(tokenizer, self.prompts, self.default_prompt_name, self._skips_prompt)

    def _take(self, encoder: ElasticEncoder) -> None:
        from matryoshka2d.encoder.elastic import without_model

        # The module without the model's weights, which need not stay in memory for it.
        transformer: Any = without_model(encoder[0])
        self.fill = int(getattr(transformer.tokenizer, "pad_token_id", None) or 0)
        self._preprocess = transformer.preprocess
        self._skips_prompt = any(getattr(module, "include_prompt", True) is False for module in encoder)
        limit = int(min(getattr(transformer.tokenizer, "model_max_length", NO_LIMIT), NO_LIMIT))
        self.limit = None if limit >= NO_LIMIT else limit
        """Tokens of which no text keeps more, or None where there is no limit."""
        self._tokenizer = transformer.tokenizer
        self.vocabulary = len(self._tokenizer)
        """How many token ids there are."""
        self._fast = _fast_tokenizer(transformer, self.limit)

    def __call__(
        self, texts: Sequence[str], prompt: str | None = None, prompt_name: str | None = None
    ) -> Tokens:
        """Tokenize, with the prompt (or the model's default prompt) before every text."""
        return self.counted(texts, prompt, prompt_name)[0]

    def counted(
        self, texts: Sequence[str], prompt: str | None = None, prompt_name: str | None = None
    ) -> tuple[Tokens, list[int]]:
        """Tokenize; return too which texts were longer than the limit, and so were cut.

        Parameters
        ----------
        texts
            The texts.
        prompt, prompt_name
            As in `Engine.embed`.

        Returns
        -------
        tuple
            The tokens, and the places of the texts that were cut, ascending.

        Raises
        ------
        UserError
            If the model has no prompt of that name.
        """
        words = self._words(prompt, prompt_name)
        skipped = self._prompt_length(words)
        with whole_texts(texts):
            if self._fast is None:
                rows, cut = self._slowly(texts, words)
            else:
                rows, cut = self._quickly([words + text for text in texts] if words else list(texts))
        return packed(rows, skipped), cut

    def _words(self, prompt: str | None, prompt_name: str | None) -> str | None:
        if prompt is not None:
            return prompt
        if prompt_name is not None and prompt_name not in self.prompts:
            known = f"expected one of {', '.join(self.prompts)}" if self.prompts else "it has none"
            hint = did_you_mean(prompt_name, self.prompts)
            raise UserError(f"the model has no prompt '{prompt_name}': {known}.{hint}")
        return self.prompts.get(prompt_name or self.default_prompt_name or "")

    def _prompt_length(self, prompt: str | None) -> int:
        if not prompt or not self._skips_prompt:
            return 0
        if self._fast is None:
            return int(self._preprocess(["text"], prompt=prompt).get("prompt_length") or 0)
        found = self._fast.encode(prompt)
        # The mark that ends a text does not end the prompt.
        return len(found.ids) - int(found.special_tokens_mask[-1])

    def _quickly(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        assert self._fast is not None
        heads = texts if self.limit is None else [_head(text, self.limit) for text in texts]
        if len(heads) < _FEW:
            # On this thread: waiting for the tokenizer's own would take longer than the work.
            encodings = [self._fast.encode(head) for head in heads]
        else:
            encodings = self._fast.encode_batch_fast(heads)
        # A head that gave too few tokens was cut too early: the whole text is tokenized instead.
        short = [
            i
            for i, (text, head) in enumerate(zip(texts, heads, strict=True))
            if len(head) < len(text) and sum(len(rest.ids) for rest in encodings[i].overflowing) < _MARGIN
        ]
        if short:
            whole = self._fast.encode_batch_fast([texts[i] for i in short])
            for i, encoding in zip(short, whole, strict=True):
                encodings[i] = encoding
        rows = [encoding.ids for encoding in encodings]
        return rows, [i for i in self._full(rows) if encodings[i].overflowing]

    def _full(self, rows: list[list[int]]) -> list[int]:
        """Return which texts fill the limit: the only ones that may have been cut."""
        return [] if self.limit is None else [i for i, row in enumerate(rows) if len(row) >= self.limit]

    def _slowly(self, texts: Sequence[str], prompt: str | None) -> tuple[list[list[int]], list[int]]:
        rows: list[list[int]] = []
        for start in range(0, len(texts), _SLOW_BATCH):
            features = self._preprocess(list(texts[start : start + _SLOW_BATCH]), prompt=prompt)
            pairs = zip(features["input_ids"], features["attention_mask"], strict=True)
            rows += [ids[mask.bool()].tolist() for ids, mask in pairs]
        whole = {i: self._tokenizer((prompt or "") + texts[i], truncation=False) for i in self._full(rows)}
        return rows, [i for i, one in whole.items() if len(one["input_ids"]) > len(rows[i])]


def _fast_tokenizer(transformer: Any, limit: int | None) -> Any | None:
    """Return a copy of the fast tokenizer that cuts at the limit and never pads, or None if there is none."""
    backend: Any = getattr(transformer.tokenizer, "_tokenizer", None)
    plain_text = list(transformer.modality_config) == ["text"]
    changed = transformer.processing_kwargs or transformer.query_expansion
    if not hasattr(backend, "encode_batch_fast") or not plain_text or changed:
        return None
    fast = copy.deepcopy(backend)
    fast.no_padding()
    if limit is None:
        fast.no_truncation()
    else:
        fast.enable_truncation(limit, direction=transformer.tokenizer.truncation_side)
    return fast


def _head(text: str, limit: int) -> str:
    """Return as much of a text as its first `limit` tokens can need, cut where a word ends.

    >>> _head("a word " * 1000, 2)
    'a word a word a'
    >>> _head("short", 2)
    'short'
    """
    characters = _CHARACTERS_PER_TOKEN * limit
    if len(text) <= 2 * characters:
        return text
    end = text.rfind(" ", 0, characters)
    return text[:end] if end > 0 else text
