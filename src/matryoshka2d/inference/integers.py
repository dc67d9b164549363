"""Linear maps in whole numbers of 16 bits, twice as many a step as fp32 has, for processors with AVX2.

Processors multiply two pairs of 16-bit integers and add them in a step that takes as long as one product in
fp32. Eight bits would not be faster there, and lose what sixteen keep: an activation has 4,095 steps, as many
as its token's largest value fills, a weight as many as its channel's sums have room for in 32 bits.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WIDTHS = (32, 64, 128)
# Beyond this length only the library's blockwise attention has room.
_LONGEST = 512
_MOST_INPUTS = 4096
_COLUMNS = 16
_BLOCK = 48
Spans = Sequence[tuple[int, int, int]]
"""First row, texts and length of the texts of one length, for texts that are laid end to end."""
_THEN = {"none": 0, "gelu": 1, "add": 2}
# The largest activation, as in the C file.
_LARGEST = 2047


class IntegerKernels:
    """The compiled functions. They run on the calling thread alone, and let other threads run.

    Parameters
    ----------
    library
        The shared library.
    """

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        pointer, number, real = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
        self._linear = loaded.linear
        self._linear.argtypes = [*[pointer] * 6, *[number] * 3, ctypes.c_int]
        self._attention = loaded.attention
        self._attention.argtypes = [*[pointer] * 3, *[number] * 4, real]
        self._layers = loaded.layers
        self._layers.argtypes = [*[pointer] * 4, *[number] * 6, real, real]

    @staticmethod
    def maps(dtype: torch.dtype, inputs: int, outputs: int) -> bool:
        """Whether linear maps of this shape can be computed."""
        fits = inputs % _COLUMNS == 0 and inputs <= _MOST_INPUTS and outputs % _COLUMNS == 0
        return dtype == torch.float32 and fits

    @staticmethod
    def panels(weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return a weight [outputs, inputs] as `linear` reads it.

        Returns
        -------
        panels
            int16 [outputs / 16, inputs / 2, 16, 2].
        scales
            float32 [outputs]: what a whole number of each output is worth.
        """
        outputs, inputs = weight.shape
        most = whole_numbers(inputs)
        scales = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / most
        whole = (weight / scales[:, None]).round().to(torch.int16)
        panels = whole.view(outputs // _COLUMNS, _COLUMNS, inputs // 2, 2).transpose(1, 2)
        return panels.contiguous(), scales

    def linear(
        self,
        x: Tensor,
        weight: tuple[Tensor, Tensor],
        bias: Tensor,
        then: str = "none",
        other: Tensor | None = None,
    ) -> Tensor:
        """Return a linear map of float32 [rows, inputs] and what follows it, float32 [rows, outputs].

        Each row is rounded and summed by itself, whatever rows stand beside it. A row that is not finite
        gives no number in any output.

        Parameters
        ----------
        x
            float32 [rows, inputs].
        weight
            What `panels` gives.
        bias
            float32 [outputs].
        then
            ``"none"``, ``"gelu"`` (the exact one) or ``"add"``.
        other
            float32 [rows, outputs]: what is added.
        """
        panels, scales = weight
        x = x.contiguous()
        rows, inputs = x.shape
        outputs = len(bias)
        out = torch.empty((rows, outputs))
        added = out if other is None else other.contiguous()
        check(panels.dtype == torch.int16 and panels.is_contiguous(), "panels of another kind")
        check(panels.shape == (outputs // _COLUMNS, inputs // 2, _COLUMNS, 2), "panels of another shape")
        check(added.shape == out.shape and len(scales) == outputs, "outputs of another shape")
        check(all(part.dtype == torch.float32 for part in (x, scales, bias, added)), "not float32")
        pointers = (tensor.data_ptr() for tensor in (x, panels, scales, bias, added, out))
        check(self._linear(*pointers, rows, inputs, outputs, _THEN[then]) == 0, "a shape that does not fit")
        return out

    @staticmethod
    def attends(dtype: torch.dtype, width: int, length: int) -> bool:
        """Whether heads of this width and texts of this length have the compiled attention."""
        return dtype == torch.float32 and width in _WIDTHS and length <= _LONGEST

    def attention(self, qkv: Tensor, out: Tensor, spans: Spans, heads: int) -> None:
        """Write the attention of texts that are laid end to end, computed in fp32.

        Parameters
        ----------
        qkv
            float32 [rows, 3 * hidden], contiguous: queries, keys and values of all heads.
        out
            float32 [rows, hidden], contiguous: filled, but for rows after the last text.
        spans
            First row, texts and length of the texts of one length, in order.
        heads
            How many.
        """
        rows = check_attention(qkv, out, spans, torch.float32)
        places, scale = _places(spans), math.log2(math.e) * math.sqrt(heads / out.shape[1])
        pointers = (qkv.data_ptr(), out.data_ptr(), places.ctypes.data)
        done = self._attention(*pointers, len(places), rows, out.shape[1], heads, scale)
        check(done == 0, "a shape that does not fit")

    def layers(self, states: Tensor, spans: Spans, weights: LayerWeights, first: int, last: int) -> None:
        """Run layers `first` to `last` - 1, in one call, on the states of texts that are laid end to end.

        Parameters
        ----------
        states
            float32 [tokens, hidden], contiguous: changed.
        spans
            First token, texts and length of the texts of one length, in order.
        weights
            Those of all layers.
        first, last
            Which run.
        """
        rows, hidden = states.shape
        check(states.dtype == torch.float32 and states.is_contiguous(), "not contiguous float32")
        check(hidden == weights.hidden and 0 <= first <= last <= len(weights), "states of another shape")
        places = _places(spans)
        room = torch.empty(4 * rows * hidden + _BLOCK * (weights.inner + hidden))
        done = self._layers(
            states.data_ptr(),
            weights.address(first),
            places.ctypes.data,
            room.data_ptr(),
            last - first,
            len(places),
            rows,
            hidden,
            weights.inner,
            weights.heads,
            weights.eps,
            math.log2(math.e) * math.sqrt(weights.heads / hidden),
        )
        check(done == 0, "a shape that does not fit")


_Map = tuple[tuple[Tensor, Tensor], Tensor]


class LayerWeights:
    """The weights of some layers of a BERT-like model, as the compiled layers read them.

    Parameters
    ----------
    maps
        For each layer queries, keys and values joined, output of the attention, up and down: what
        `IntegerKernels.panels` gives, and the bias, float32 [outputs].
    norms
        For each layer that of the attention and that of the output: weight and bias, float32 [hidden].
    heads
        Attention heads.
    eps
        That of the norms.
    """

    def __init__(
        self,
        maps: Sequence[Sequence[_Map]],
        norms: Sequence[Sequence[Sequence[Tensor]]],
        heads: int,
        eps: float,
    ) -> None:
        self.heads, self.eps = heads, eps
        self.hidden, self.inner = len(maps[0][1][1]), len(maps[0][2][1])
        # Held, for addresses alone keep nothing alive.
        self._parts = [
            [*self._of_maps(layer), *(part for norm in both for part in norm)]
            for layer, both in zip(maps, norms, strict=True)
        ]
        every = [part for layer in self._parts for part in layer]
        check(all(part.is_contiguous() for part in every), "not contiguous")
        check(all(part.dtype in (torch.int16, torch.float32) for part in every), "not float32")
        check(
            all(part.shape == (self.hidden,) for layer in self._parts for part in layer[-4:]), "other norms"
        )
        self._addresses = np.array([part.data_ptr() for part in every], dtype=np.uintp).reshape(len(maps), -1)

    def _of_maps(self, maps: Sequence[_Map]) -> list[Tensor]:
        """Return panels, scales and bias of each map of a layer."""
        shapes = [(self.hidden, 3 * self.hidden), (self.hidden, self.hidden)]
        shapes += [(self.hidden, self.inner), (self.inner, self.hidden)]
        for ((panels, scales), bias), (inputs, outputs) in zip(maps, shapes, strict=True):
            check(panels.dtype == torch.int16 and scales.dtype == bias.dtype == torch.float32, "another map")
            check(len(scales) == len(bias) == outputs, "outputs of another shape")
            check(panels.shape == (outputs // _COLUMNS, inputs // 2, _COLUMNS, 2), "panels of another shape")
        return [part for (panels, scales), bias in maps for part in (panels, scales, bias)]

    def __len__(self) -> int:
        return len(self._parts)

    def address(self, layer: int) -> int:
        """Return where the weights of a layer and of those after it are listed."""
        return int(self._addresses[layer:].ctypes.data)


class FloatKernels(IntegerKernels):
    """The compiled attention alone: in fp32, linear maps are the library's."""

    @staticmethod
    def maps(dtype: torch.dtype, inputs: int, outputs: int) -> bool:  # noqa: ARG004
        """Whether linear maps are compiled: none are."""
        return False


def whole_numbers(inputs: int) -> int:
    """Return the largest weight whose products with any activations have room in a sum of 32 bits.

    >>> whole_numbers(384), whole_numbers(1536)
    (2732, 683)
    """
    return min(2**15 - 1, (2**31 - 1) // (_LARGEST * inputs))


def check_attention(qkv: Tensor, out: Tensor, spans: Spans, dtype: torch.dtype) -> int:
    """Return how many rows texts have, once all that is read and written is seen to be there."""
    check(qkv.dtype == out.dtype == dtype, f"not {dtype}")
    check(qkv.is_contiguous() and out.is_contiguous(), "not contiguous")
    check(qkv.shape == (len(out), 3 * out.shape[1]), "queries, keys, values of another shape")
    check(all(min(span) >= 0 for span in spans), "texts in no place")
    rows = max((start + texts * length for start, texts, length in spans), default=0)
    check(rows <= len(out), "an output of another shape")
    return rows


def _places(spans: Spans) -> NDArray[np.int64]:
    """Return spans as the compiled functions read them, int64 [groups, 3]."""
    return np.array(spans, dtype=np.int64).reshape(-1, 3)


def check(holds: bool, what: str) -> None:
    """Raise a `ValueError` before a compiled function reads memory that is not there."""
    if not holds:
        raise ValueError(what)
