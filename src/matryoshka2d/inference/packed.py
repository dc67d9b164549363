"""BERT-like layers on texts that are laid end to end: no padding, few passes over memory.

Matrix products, and with them biases, GELU and residual sums, run over all tokens at once; only attention
needs to know where a text ends, and texts of one length share one batched product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from matryoshka2d.encoder.architectures import PostNormParts, architecture_of, layers_of
from matryoshka2d.encoder.saved_model import SavedModel
from matryoshka2d.inference.integers import IntegerKernels, LayerWeights
from matryoshka2d.inference.kernels import Kernels
from matryoshka2d.inference.tokens import Tokens

AnyKernels = Kernels | IntegerKernels
Weight = Callable[[str], Tensor]
"""Name of a weight in the base model → the weight."""

# Up to so many tokens a batch has a multiple of so many rows.
_STEPS = ((64, 4), (256, 16), (1024, 64))
_LARGEST_STEP = 256
# Short texts that differ by so many tokens, or by a quarter, attend together.
_APART = 8
# Longer texts attend through the library's blockwise kernel, which keeps no square of scores.
_SHORT = 64


@dataclass(frozen=True)
class Groups:
    """Where the texts of one length lie among the tokens: (first token, texts, length) for each length."""

    spans: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, tokens: Tokens) -> Groups:
        """Return the groups of a batch, whose texts should be ordered by length."""
        return cls(tuple(tokens.groups()))


class PackedLayers:
    """The embeddings and layers of a BERT-like model, ready for one precision.

    Parameters
    ----------
    model
        A transformers base model, or a saved one; it is not changed.
    dtype
        What to compute in.
    kernels
        Compiled kernels, where there are any.
    """

    def __init__(
        self, model: nn.Module | SavedModel, dtype: torch.dtype, kernels: AnyKernels | None = None
    ) -> None:
        config: Any = model.config
        architecture = architecture_of(config)
        parts = architecture.post_norm
        assert parts is not None
        weights: Weight
        if isinstance(model, SavedModel):
            weights, depth = model.weights(), model.depth
        else:
            weights, depth = model.get_parameter, len(layers_of(model))
        self.dtype = dtype
        self.kernels = kernels
        self.heads = int(getattr(config, parts.attention_heads))
        self.embeddings = _Embeddings(weights, config, parts, dtype)
        paths = [f"{architecture.layers}.{n}" for n in range(depth)]
        eps = parts.eps(config)
        self.layers = [_Layer(weights, path, parts, eps, dtype, kernels) for path in paths]
        self.whole: LayerWeights | None = None
        if isinstance(kernels, IntegerKernels) and all(layer.compiled for layer in self.layers):
            maps = [layer.maps for layer in self.layers]
            norms = [layer.norms for layer in self.layers]
            self.whole = LayerWeights(maps, norms, self.heads, eps)

    @classmethod
    def of(
        cls, model: nn.Module, dtype: torch.dtype, kernels: AnyKernels | None = None
    ) -> PackedLayers | None:
        """Return the packed form of a model, or None where its architecture has none."""
        parts = architecture_of(model.config).post_norm
        return cls(model, dtype, kernels) if parts is not None and parts.fits(model.config) else None

    @property
    def bytes(self) -> list[int]:
        """Bytes of the embeddings, then of each layer."""
        return [self.embeddings.bytes, *(layer.bytes for layer in self.layers)]

    def __call__(self, tokens: Tokens, groups: Groups, layers: int) -> Tensor:
        """Return the token states [rows, hidden] after so many layers; see `exits`."""
        run = self._whole(tokens, groups)
        if run is not None:
            return run(0, layers)
        *_, states = self.exits(tokens, groups, layers)
        return states

    def exits(self, tokens: Tokens, groups: Groups, layers: int) -> Iterator[Tensor]:
        """Yield the token states [rows, hidden] after each layer; rows after the last token are padding.

        The states of one layer are gone when those of the next are asked for.
        """
        run = self._whole(tokens, groups)
        if run is not None:
            yield from (run(n, n + 1) for n in range(layers))
            return
        states = self.embeddings(tokens, groups, self.kernels)
        buckets = _buckets(groups)
        if self.layers[0].up.fused:
            states = functional.pad(states, (0, 0, 0, rows_of(len(states)) - len(states)))
        for layer in self.layers[:layers]:
            states = layer(states, groups, buckets, self.heads, self.kernels)
            yield states

    def _whole(self, tokens: Tokens, groups: Groups) -> Callable[[int, int], Tensor] | None:
        """Return what runs layers of a batch in one compiled call, where all of them can be."""
        kernels, weights = self.kernels, self.whole
        if weights is None or not isinstance(kernels, IntegerKernels):
            return None
        width = weights.hidden // self.heads
        if not all(kernels.attends(torch.float32, width, length) for *_, length in groups.spans):
            return None
        states = self.embeddings(tokens, groups, kernels)

        def run(first: int, last: int) -> Tensor:
            kernels.layers(states, groups.spans, weights, first, last)
            return states

        return run


def rows_of(tokens: int) -> int:
    """Return how many rows a batch of so many tokens gets: some more, so that few shapes are ever multiplied.

    oneDNN makes a program for every shape, in about a millisecond, and keeps the last thousand.

    >>> [rows_of(tokens) for tokens in (1, 12, 13, 100, 1000, 8000)]
    [4, 12, 16, 112, 1024, 8192]
    """
    step = next((step for most, step in _STEPS if tokens <= most), _LARGEST_STEP)
    return -(-tokens // step) * step


class _Embeddings:
    """Word, position and token type embeddings, summed and normalized."""

    def __init__(self, weights: Weight, config: Any, parts: PostNormParts, dtype: torch.dtype) -> None:
        self.word = _copy(weights(f"{parts.word}.weight"), torch.float32)
        self.position = _copy(weights(f"{parts.position}.weight"), torch.float32).clone()
        if parts.token_type is not None:
            # A text alone is all of type 0.
            self.position += _copy(weights(f"{parts.token_type}.weight"), torch.float32)[0]
        self.norm = _Norm(weights, parts.embedding_norm, parts.eps(config), torch.float32)
        self.dtype = dtype
        self.padding = int(config.pad_token_id or 0) if parts.positions_follow_padding else None

    @property
    def bytes(self) -> int:
        return sum(table.nbytes for table in (self.word, self.position))

    def __call__(self, tokens: Tokens, groups: Groups, kernels: AnyKernels | None) -> Tensor:
        ids = torch.from_numpy(tokens.ids)
        positions = self._positions(tokens, ids, groups)
        if isinstance(kernels, Kernels) and kernels.normalizes(self.dtype, self.word.shape[1]):
            tables = (self.word, self.position)
            return kernels.embed(ids, positions, tables, self.norm.exact, self.norm.eps)
        return self.norm(self.word[ids] + self.position[positions], None).to(self.dtype)

    def _positions(self, tokens: Tokens, ids: Tensor, groups: Groups) -> Tensor:
        """Return the position of each token in its text, int64 [total]."""
        if self.padding is None:
            starts = np.cumsum(tokens.lengths) - tokens.lengths
            return torch.from_numpy(np.arange(len(tokens.ids)) - np.repeat(starts, tokens.lengths))
        positions = torch.empty_like(ids)
        for start, texts, length in groups.spans:
            span = slice(start, start + texts * length)
            written = (ids[span] != self.padding).view(texts, length)
            positions[span] = (torch.cumsum(written, dim=1) * written + self.padding).flatten()
        return positions


class _Layer:
    """One layer: attention, add and norm, feed-forward, add and norm."""

    def __init__(
        self,
        weights: Weight,
        path: str,
        parts: PostNormParts,
        eps: float,
        dtype: torch.dtype,
        kernels: AnyKernels | None,
    ) -> None:
        def linear(*names: str) -> _Linear:
            return _Linear(weights, [f"{path}.{name}" for name in names], dtype, kernels)

        self.qkv = linear(parts.query, parts.key, parts.value)
        self.attention_output = linear(parts.attention_output)
        self.attention_norm = _Norm(weights, f"{path}.{parts.attention_norm}", eps, dtype)
        self.up = linear(parts.up)
        self.down = linear(parts.down)
        self.output_norm = _Norm(weights, f"{path}.{parts.output_norm}", eps, dtype)

    @property
    def bytes(self) -> int:
        return sum(linear.bytes for linear in self._linears)

    @property
    def compiled(self) -> bool:
        """Whether every map has a compiled form."""
        return all(linear.kernels is not None for linear in self._linears)

    @property
    def maps(self) -> list[tuple[Any, Tensor]]:
        """Weight and bias of each map, in order."""
        return [(linear.weight, linear.bias) for linear in self._linears]

    @property
    def norms(self) -> list[list[Tensor]]:
        """Weight and bias, float32, of both norms."""
        return [norm.exact for norm in (self.attention_norm, self.output_norm)]

    @property
    def _linears(self) -> tuple[_Linear, ...]:
        return self.qkv, self.attention_output, self.up, self.down

    def __call__(
        self,
        states: Tensor,
        groups: Groups,
        buckets: Sequence[_Bucket],
        heads: int,
        kernels: AnyKernels | None,
    ) -> Tensor:
        attended = _attention(self.qkv(states), groups, buckets, heads, kernels)
        states = self.attention_norm(self.attention_output.plus(attended, states), kernels)
        return self.output_norm(self.down.plus(self.up.gelu(states), states), kernels)


@dataclass(frozen=True)
class _Bucket:
    """Texts of nearly one length that attend together, padded to the longest where they differ."""

    rows: slice
    """Their tokens."""
    texts: int
    length: int
    gather: Tensor | None = None
    """int64 [texts * length]: which of the rows stands at each place; None where all are of one length."""
    scatter: Tensor | None = None
    """int64 [rows]: the place of each."""
    bias: Tensor | None = None
    """float32 [texts, 1, 1, length]: minus infinity at places that are padding."""


def _buckets(groups: Groups) -> list[_Bucket]:
    """Return the texts of a batch in few buckets: operations cost more than some padding of short texts."""
    found: list[_Bucket] = []
    together: list[tuple[int, int, int]] = []
    for span in groups.spans:
        shortest = together[0][2] if together else 0
        if together and (span[2] > _SHORT or not 0 <= span[2] - shortest <= max(_APART, shortest // 4)):
            found.append(_bucket(together))
            together = []
        together.append(span)
    return [*found, _bucket(together)] if together else found


def _bucket(spans: Sequence[tuple[int, int, int]]) -> _Bucket:
    start, end = spans[0][0], spans[-1][0] + spans[-1][1] * spans[-1][2]
    lengths = np.repeat([length for _, _, length in spans], [texts for _, texts, _ in spans])
    longest = int(lengths.max())
    bucket = _Bucket(slice(start, end), len(lengths), longest)
    if len(spans) == 1:
        return bucket
    starts = np.cumsum(lengths) - lengths
    places = np.arange(longest)
    real = places < lengths[:, None]
    gather = np.where(real, starts[:, None] + places, starts[:, None])
    bias = np.where(real, np.float32(0), np.float32(-np.inf))[:, None, None, :]
    return replace(
        bucket,
        gather=torch.from_numpy(gather.ravel()),
        scatter=torch.from_numpy(np.flatnonzero(real)),
        bias=torch.from_numpy(bias),
    )


def _attention(
    qkv: Tensor, groups: Groups, buckets: Sequence[_Bucket], heads: int, kernels: AnyKernels | None
) -> Tensor:
    """Return attention [rows, hidden] of queries, keys and values [rows, 3 hidden]."""
    hidden = qkv.shape[1] // 3
    width = hidden // heads
    out = torch.zeros((len(qkv), hidden), dtype=qkv.dtype)
    if kernels is not None and all(kernels.attends(qkv.dtype, width, length) for *_, length in groups.spans):
        kernels.attention(qkv, out, groups.spans, heads)
        return out
    for bucket in buckets:
        own = qkv[bucket.rows] if bucket.gather is None else qkv[bucket.rows].index_select(0, bucket.gather)
        parts = own.to(multiplied_in(qkv.dtype)).view(bucket.texts, bucket.length, 3, heads, width)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attend = _attend_short if bucket.length <= _SHORT else _attend_long
        found = attend(query, key, value, bucket.bias).transpose(1, 2)
        if bucket.scatter is None:
            out[bucket.rows].view(bucket.texts, bucket.length, heads, width).copy_(found)
        else:
            out[bucket.rows] = found.reshape(-1, hidden).index_select(0, bucket.scatter)
    return out


def _attend_long(query: Tensor, key: Tensor, value: Tensor, _: Tensor | None) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value)


def _attend_short(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Plain attention [texts, heads, length, width]: two batched products around a softmax."""
    texts, heads, length, width = query.shape
    query, key, value = (part.reshape(texts * heads, length, width) for part in (query, key, value))
    scores = torch.bmm(query, key.transpose(1, 2)).mul_(1 / math.sqrt(width))
    if bias is not None:
        scores.view(texts, heads, length, length).add_(bias)
    return torch.bmm(torch.softmax(scores, dim=-1), value).view(texts, heads, length, width)


class _Norm:
    """A LayerNorm that gives back the precision it gets."""

    def __init__(self, weights: Weight, path: str, eps: float, dtype: torch.dtype) -> None:
        self.exact = [_copy(weights(f"{path}.{name}"), torch.float32) for name in ("weight", "bias")]
        self.weight, self.bias = (tensor.to(dtype) for tensor in self.exact)
        self.eps = eps

    def __call__(self, states: Tensor, kernels: AnyKernels | None) -> Tensor:
        if isinstance(kernels, Kernels) and kernels.normalizes(states.dtype, states.shape[1]):
            return kernels.layer_norm(states, self.exact, self.eps)
        return functional.layer_norm(states, self.weight.shape, self.weight, self.bias, self.eps)


class _Linear:
    """One or more linear maps of the same input, joined; what follows is computed in the same pass.

    The weights are laid out once as the compiled kernel or oneDNN wants them. Where neither has products of
    bf16, they are rounded to bf16 and multiplied in fp32.
    """

    def __init__(
        self, weights: Weight, paths: Sequence[str], dtype: torch.dtype, kernels: AnyKernels | None
    ) -> None:
        self.weight: Any = _copy(torch.cat([weights(f"{path}.weight") for path in paths]), dtype)
        self.bias = _copy(torch.cat([weights(f"{path}.bias") for path in paths]), dtype)
        outputs, inputs = self.weight.shape
        self.kernels: Any = kernels if kernels is not None and kernels.maps(dtype, inputs, outputs) else None
        has_library: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self.fused = has_library and multiplied_in(dtype) == dtype and self.kernels is None
        if self.kernels is None:
            self.weight, self.bias = (part.to(multiplied_in(dtype)) for part in (self.weight, self.bias))
        self.bytes = self.weight.nbytes + self.bias.nbytes
        if self.kernels is not None:
            self.weight, self.bias = self.kernels.panels(self.weight), self.bias.float()
        elif self.fused:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)

    def __call__(self, x: Tensor) -> Tensor:
        if self.kernels is not None:
            return cast(Tensor, self.kernels.linear(x, self.weight, self.bias))
        return self._pointwise(x, "none") if self.fused else self._plain(x).to(x.dtype)

    def gelu(self, x: Tensor) -> Tensor:
        """Return GELU of the map."""
        if self.kernels is not None:
            return cast(Tensor, self.kernels.linear(x, self.weight, self.bias, "gelu"))
        if self.fused:
            return self._pointwise(x, "gelu")
        return functional.gelu(self._plain(x)).to(x.dtype)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the map of `x`, plus `other`."""
        if self.kernels is not None:
            return cast(Tensor, self.kernels.linear(x, self.weight, self.bias, "add", other))
        if self.fused:
            added: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
            return added
        return self._plain(x).add_(other).to(x.dtype)

    def _plain(self, x: Tensor) -> Tensor:
        """Return the map of `x` in the precision of the weights."""
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def _pointwise(self, x: Tensor, then: str) -> Tensor:
        mapped: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, then, [], "none")
        return mapped


def library_has_bf16() -> bool:
    """Whether oneDNN multiplies in bf16 here: natively, or in its own emulation, which needs AVX-512."""
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]


def multiplied_in(dtype: torch.dtype) -> torch.dtype:
    """Return what products of a precision run in: fp32 for bf16 where only torch's slow loops have it."""
    return torch.float32 if dtype == torch.bfloat16 and not library_has_bf16() else dtype


def _copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=dtype).contiguous()
