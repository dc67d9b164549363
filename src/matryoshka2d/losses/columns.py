"""One pass of the encoder for all columns of a batch, without padding short texts to the longest one.

The columns of a training batch (anchors, positives, negatives) are put together, ordered by length and
run in a few groups of similar length. Sums over the batch come out the same; the work does not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from matryoshka2d.encoder.architectures import Wrapped
from matryoshka2d.encoder.lengths import Slices, even_slices, padded_slices, similar_slices
from matryoshka2d.losses.gradient_cache import replayed
from matryoshka2d.losses.lanes import run_in_lanes

if TYPE_CHECKING:
    from matryoshka2d.encoder import ElasticEncoder

Features = Mapping[str, Any]
ExitVectors = Callable[[dict[str, Any], Sequence[int]], dict[int, Tensor]]
"""Features of texts, and layers → layer → float [texts, width]."""

# Fewer texts together pad less and divide better among cores, more fill a core better.
_ROWS_ON_CPU = 24
# A GPU waits for a group's kernels longer than for what they pad; but one long text must not pad all others.
_STRETCH, _FREE_TOKENS = 3, 16


def exit_columns(
    run: ExitVectors,
    columns: Sequence[Features],
    layers: Sequence[int],
    rows_per_group: int | None = None,
    mini_batch_tokens: int | None = None,
    table: nn.Embedding | None = None,
    weights: Sequence[Tensor] = (),
) -> dict[int, list[Tensor]]:
    """Return the exit vectors of every column of a batch.

    Parameters
    ----------
    run
        `ElasticEncoder.exit_vectors`, or a wrapper of it.
    columns
        The tokenized columns, each with tensors [batch, tokens].
    layers
        The exits to read.
    rows_per_group
        Texts that run together; groups hold texts of similar length. Default 24; on a GPU as many as are
        not too unlike in length: the longest has at most thrice the tokens of the shortest, and 16.
    mini_batch_tokens
        Tokens that run together, padding included, instead of `rows_per_group`. Groups then leave nothing in
        memory but their vectors, and run again in the backward pass: see `losses.gradient_cache`.
    table
        Where the words are looked up, once for all groups: the features then hold them as `Words` under
        ``words``. None, the default, leaves it to every group.
    weights
        The parameters that `run` learns. Where they are given, on a CPU, groups run side by side, one a core:
        see `losses.lanes`. With `mini_batch_tokens` each core then holds one group at a time.

    Returns
    -------
    dict
        layer → one float32 tensor [batch, width] per column, in the order of the rows.
    """
    on_cpu = columns[0]["attention_mask"].device.type == "cpu"
    slices = _slices(on_cpu, rows_per_group, mini_batch_tokens)
    replay = mini_batch_tokens is not None
    in_lanes = on_cpu and bool(weights) and torch.is_grad_enabled()
    if replay and not in_lanes:
        run = replayed(run)
    results: dict[int, list[Tensor]] = {n: [torch.empty(0)] * len(columns) for n in layers}
    mergeable = _mergeable(columns)
    parts = [_merge([columns[i] for i in members]) for members in mergeable]
    divided = [_grouped(merged["attention_mask"].sum(dim=1), slices) for merged in parts]
    if table is not None and sum(map(len, divided)) > 1:
        words = Words(table, [merged["input_ids"] for merged in parts])
        parts = [{**merged, "words": words} for merged in parts]
    for members, merged, rows in zip(mergeable, parts, divided, strict=True):
        vectors = _run_in_groups(run, merged, layers, rows, weights if in_lanes else (), replay=replay)
        sizes = [len(columns[i]["attention_mask"]) for i in members]
        for n in layers:
            for i, part in zip(members, torch.split(vectors[n], sizes), strict=True):
                results[n][i] = part
    return results


def run_columns(
    model: ElasticEncoder,
    columns: Sequence[Features],
    layers: Sequence[int],
    rows_per_group: int | None = None,
    mini_batch_tokens: int | None = None,
) -> dict[int, list[Tensor]]:
    """Run `exit_columns` on a model, its words looked up once where that saves a gradient.

    It is what `ElasticEncoder.forward` takes as ``run``, with the last two arguments bound.
    """
    table = table_of(model.base)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if getattr(model.base, "is_gradient_checkpointing", False):
        # Layers that run again in the backward pass must draw the masks that they drew.
        weights = []
    return exit_columns(
        model.exit_vectors, columns, layers, rows_per_group, mini_batch_tokens, table, weights
    )


def _slices(on_cpu: bool, rows_per_group: int | None, mini_batch_tokens: int | None) -> Slices:
    """Return how a batch is divided, its texts ordered by length."""
    if mini_batch_tokens is not None:
        return partial(padded_slices, tokens=mini_batch_tokens)
    if rows_per_group is None and not on_cpu:
        return partial(similar_slices, times=_STRETCH, more=_FREE_TOKENS)
    return partial(even_slices, texts=rows_per_group or _ROWS_ON_CPU)


def _grouped(lengths: Tensor, slices: Slices) -> list[Tensor]:
    """Return the rows of each group of texts, whose tokens are given as [texts]."""
    order = torch.argsort(lengths, stable=True)
    return [order[some] for some in slices(lengths[order].cpu().numpy())]


def _mergeable(columns: Sequence[Features]) -> list[list[int]]:
    """Return the columns that may run together: those whose prompts, which pooling may skip, agree."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, column in enumerate(columns):
        prompt = column.get("prompt_length")
        length = None if prompt is None else int(torch.as_tensor(prompt).flatten()[0])
        groups.setdefault((length, column.get("modality"), *sorted(column)), []).append(i)
    return list(groups.values())


def _merge(columns: Sequence[Features]) -> dict[str, Any]:
    width = max(column["attention_mask"].shape[1] for column in columns)
    merged = dict(columns[0])
    for key, value in columns[0].items():
        if _is_token_tensor(columns[0], value):
            merged[key] = torch.cat([_pad(column, key, width) for column in columns])
    return merged


def _is_token_tensor(column: Features, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == column["attention_mask"].shape


def _pad(column: Features, key: str, width: int) -> Tensor:
    """Return a tensor [batch, tokens] padded to `width` on the side on which it is padded already."""
    value: Tensor = column[key]
    mask: Tensor = column["attention_mask"]
    missing = width - value.shape[1]
    if missing == 0:
        return value
    on_left = bool((mask[:, -1] == 1).all()) and not bool((mask[:, 0] == 1).all())
    # Any padded position holds what the tokenizer pads with; a batch without one is masked all the same.
    padded: Tensor = value[mask == 0]
    fill = padded[0].item() if padded.numel() else 0
    return torch.nn.functional.pad(value, (missing, 0) if on_left else (0, missing), value=fill)


def _run_in_groups(
    run: ExitVectors,
    merged: Features,
    layers: Sequence[int],
    groups: Sequence[Tensor],
    weights: Sequence[Tensor] = (),
    *,
    replay: bool = False,
) -> dict[int, Tensor]:
    parts = [_take(merged, rows) for rows in groups]
    if weights:
        words = merged.get("words")
        own = [] if words is None else [words.vectors]
        costs = [part["attention_mask"].numel() for part in parts]
        jobs = [partial(_run_group, run, part, layers) for part in parts]
        ran = run_in_lanes(jobs, costs, weights, own, replay=replay)
    else:
        ran = [_run_group(run, part, layers, []) for part in parts]
    back = torch.argsort(torch.cat(list(groups)))
    return {n: torch.cat(vectors)[back] for n, vectors in zip(layers, zip(*ran, strict=True), strict=True)}


def _run_group(
    run: ExitVectors, part: dict[str, Any], layers: Sequence[int], own: Sequence[Tensor]
) -> list[Tensor]:
    """Return the vectors of each exit, its words those of the lane where it has some of its own."""
    if own:
        part = {**part, "words": part["words"].with_vectors(own[0])}
    found = run(part, layers)
    return [found[n].float() for n in layers]


def _take(merged: Features, rows: Tensor) -> dict[str, Any]:
    """Return some rows, without the token positions that only pad them."""
    used = merged["attention_mask"][rows].any(dim=0).nonzero()
    tokens = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
    return {
        key: value[rows][:, tokens] if _is_token_tensor(merged, value) else value
        for key, value in merged.items()
    }


class Words(Wrapped):
    """The vectors of some words, in place of the table that they were looked up in.

    Parameters
    ----------
    table
        The embedding of the model; attributes that an encoder reads of it are still its own.
    tokens
        The texts' token ids, int64 tensors of any shape: no others can be looked up.

    Examples
    --------
    >>> table = nn.Embedding(1000, 2)
    >>> words = Words(table, [torch.tensor([[7, 9]]), torch.tensor([[9, 3]])])
    >>> words.ids.tolist(), words.vectors.shape
    ([3, 7, 9], torch.Size([3, 2]))
    >>> torch.equal(words(torch.tensor([[9, 7]])), table(torch.tensor([[9, 7]])))
    True
    """

    def __init__(self, table: nn.Module, tokens: Iterable[Tensor]) -> None:
        super().__init__(table)
        self.ids = torch.unique(torch.cat([some.reshape(-1) for some in tokens]))
        self.vectors: Tensor = table(self.ids)

    def with_vectors(self, vectors: Tensor) -> Words:
        """Return the same words with other vectors [words, hidden]."""
        same = copy.copy(self)
        same.vectors = vectors
        return same

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the vectors of tokens [texts, tokens]: [texts, tokens, hidden]."""
        return nn.functional.embedding(torch.searchsorted(self.ids, token_ids.contiguous()), self.vectors)


def table_of(model: nn.Module) -> nn.Embedding | None:
    """Return the table that a model looks its words up in, if its gradient is what `Words` can save.

    None where the table is frozen, where nothing is learnt, where its gradient is sparse or depends on how
    often a word is looked up, and where the model does not say which module it is.
    """
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:
        # What transformers raises for a model in which it finds no such table.
        return None
    if not isinstance(table, nn.Embedding) or not (torch.is_grad_enabled() and table.weight.requires_grad):
        return None
    return None if table.sparse or table.scale_grad_by_freq or table.max_norm is not None else table
