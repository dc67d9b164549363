"""One pass of the encoder for all columns of a batch, without padding short texts to the longest one.

The columns of a training batch (anchors, positives, negatives) are put together, ordered by length and
run in a few groups of similar length. Sums over the batch come out the same; the work does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Features = Mapping[str, Any]
ROWS_PER_GROUP = 48
"""Texts that run together. Fewer pad less, more fill the processor better; on two cores 64 did no better."""


def exit_columns(
    run: Callable[..., dict[str, Any]],
    columns: Sequence[Features],
    layers: Sequence[int],
    rows_per_group: int = ROWS_PER_GROUP,
) -> dict[int, list[Tensor]]:
    """Return the exit vectors of every column of a batch.

    Parameters
    ----------
    run
        The encoder, or a wrapper of it: ``run(features, exits=layers)["exit_vectors"]``.
    columns
        The tokenised columns, each with tensors [batch, tokens].
    layers
        The exits to read.
    rows_per_group
        Texts that run together; groups hold texts of similar length.

    Returns
    -------
    dict
        layer → one float32 tensor [batch, width] per column, in the order of the rows.
    """
    results: dict[int, list[Tensor]] = {n: [torch.empty(0)] * len(columns) for n in layers}
    for members in _mergeable(columns):
        merged = _merge([columns[i] for i in members])
        vectors = _run_in_groups(run, merged, layers, rows_per_group)
        sizes = [len(columns[i]["attention_mask"]) for i in members]
        for n in layers:
            for i, part in zip(members, torch.split(vectors[n], sizes), strict=True):
                results[n][i] = part
    return results


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
    run: Callable[..., dict[str, Any]], merged: Features, layers: Sequence[int], rows_per_group: int
) -> dict[int, Tensor]:
    lengths = merged["attention_mask"].sum(dim=1)
    order = torch.argsort(lengths, stable=True)
    groups = [_take(merged, rows) for rows in order.chunk(max(1, -(-len(order) // rows_per_group)))]
    outputs = [run(group, exits=layers)["exit_vectors"] for group in groups]
    back = torch.argsort(order)
    return {n: torch.cat([output[n].float() for output in outputs])[back] for n in layers}


def _take(merged: Features, rows: Tensor) -> dict[str, Any]:
    """Return some rows, without the token positions that only pad them."""
    used = merged["attention_mask"][rows].any(dim=0).nonzero()
    tokens = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
    return {
        key: value[rows][:, tokens] if _is_token_tensor(merged, value) else value
        for key, value in merged.items()
    }
