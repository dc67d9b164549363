"""Compiled linear maps, attention, embeddings and LayerNorm for bf16 and int16, where a machine allows.

Short texts leave a library's kernels mostly idle: a softmax over eleven scores is all overhead, and so is
making ready a matrix product of a shape not seen before. The C file beside this one does attention in one
pass over the queries, keys and values as they lie in memory, and a linear map with what follows it in
another. It is compiled once, into the user's cache, in a few seconds; `integers` has the one for int16.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import os
import shutil
import stat
import subprocess
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from matryoshka2d.encoder.precision import kernel_flags
from matryoshka2d.errors import UserError
from matryoshka2d.files import staged_file, user_cache
from matryoshka2d.inference.integers import FloatKernels, IntegerKernels, Spans, check, check_attention

SWITCH = "MATRYOSHKA2D_KERNELS"
"""Environment variable: ``0`` leaves the compiled kernels out."""

_SOURCE = Path(__file__).with_suffix(".c")
_INTEGERS = Path(__file__).with_name("integers.c")
_FLAGS = ("-O3", "-march=native", "-fno-strict-aliasing", "-shared", "-fPIC")
_WIDTHS = (32, 64)
# Up to this length vector registers beat the matrix unit (AMX).
_SHORT = 40
# Beyond this length only the library's blockwise attention has room.
_LONGEST = 512
_WIDEST = 4096
_MOST_INPUTS = 4096
_LANES = 16
# Columns of a linear map that are summed together.
_COLUMNS = 32
_THEN = {"none": 0, "gelu": 1, "add": 2}

logger = logging.getLogger(__name__)


class Kernels:
    """The compiled functions. They run on the calling thread alone, and let other threads run.

    Parameters
    ----------
    library
        The shared library.
    """

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        pointer, number, real = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
        self._attention = loaded.attention
        self._attention.argtypes = [pointer, pointer, number, number, number, number, real, ctypes.c_int]
        self._layer_norm = loaded.layer_norm
        self._layer_norm.argtypes = [pointer, pointer, pointer, pointer, number, number, real]
        self._linear = loaded.linear
        self._linear.argtypes = [*[pointer] * 5, *[number] * 3, ctypes.c_int]
        # A processor without AMX, or a kernel that does not let this process use it, does without.
        self.tiles = loaded.permit_tiles() == 0
        self._embed = loaded.embed
        self._embed.argtypes = [*[pointer] * 7, number, number, real]

    def attends(self, dtype: torch.dtype, width: int, length: int) -> bool:
        """Whether heads of this width and texts of this length are worth the compiled attention."""
        return dtype == torch.bfloat16 and width in _WIDTHS and length <= _LONGEST

    def attention(self, qkv: Tensor, out: Tensor, spans: Spans, heads: int) -> None:
        """Write the attention of texts that are laid end to end.

        Parameters
        ----------
        qkv
            bf16 [rows, 3 * hidden], contiguous: queries, keys and values of all heads.
        out
            bf16 [rows, hidden], contiguous: filled, but for rows after the last text.
        spans
            First row, texts and length of the texts of one length, in order.
        heads
            How many.
        """
        check_attention(qkv, out, spans, torch.bfloat16)
        hidden = out.shape[1]
        width = hidden // heads
        check(width * heads == hidden, "heads that do not fit")
        scale = math.log2(math.e) / math.sqrt(width)
        for start, texts, length in spans:
            own, filled = qkv[start:].data_ptr(), out[start:].data_ptr()
            tiles = self.tiles and length > _SHORT
            done = self._attention(own, filled, texts, length, heads, width, scale, tiles)
            check(done == 0, "a shape that does not fit")

    def maps(self, dtype: torch.dtype, inputs: int, outputs: int) -> bool:
        """Whether linear maps of this shape are worth the compiled one; the matrix unit is the library's."""
        fits = inputs % 2 == 0 and inputs <= _MOST_INPUTS and outputs % _COLUMNS == 0
        return dtype == torch.bfloat16 and fits and not self.tiles

    @staticmethod
    def panels(weight: Tensor) -> Tensor:
        """Return a weight [outputs, inputs] as `linear` reads it: [outputs / 32, inputs / 2, 32, 2]."""
        outputs, inputs = weight.shape
        return weight.view(outputs // _COLUMNS, _COLUMNS, inputs // 2, 2).transpose(1, 2).contiguous()

    def linear(
        self, x: Tensor, panels: Tensor, bias: Tensor, then: str = "none", other: Tensor | None = None
    ) -> Tensor:
        """Return a linear map of bf16 [rows, inputs] and what follows it, bf16 [rows, outputs].

        Each row is summed in the same order, whatever rows stand beside it.

        Parameters
        ----------
        x
            bf16 [rows, inputs], contiguous.
        panels
            What `panels` gives of the weight.
        bias
            float32 [outputs].
        then
            ``"none"``, ``"gelu"`` (the exact one) or ``"add"``.
        other
            bf16 [rows, outputs], contiguous: what is added.
        """
        rows, inputs = x.shape
        out = torch.empty((rows, len(bias)), dtype=torch.bfloat16)
        added = out if other is None else other
        check(x.is_contiguous() and added.is_contiguous() and panels.is_contiguous(), "not contiguous")
        check(x.dtype == added.dtype == panels.dtype == torch.bfloat16, "not bfloat16")
        check(bias.dtype == torch.float32 and added.shape == out.shape, "outputs of another shape")
        check(panels.shape == (len(bias) // _COLUMNS, inputs // 2, _COLUMNS, 2), "panels of another shape")
        pointers = (tensor.data_ptr() for tensor in (x, panels, bias, added, out))
        done = self._linear(*pointers, rows, inputs, len(bias), _THEN[then])
        check(done == 0, "a shape that does not fit")
        return out

    @staticmethod
    def normalizes(dtype: torch.dtype, hidden: int) -> bool:
        """Whether rows of this width are worth the compiled LayerNorm."""
        return dtype == torch.bfloat16 and hidden % _LANES == 0 and hidden <= _WIDEST

    def layer_norm(self, states: Tensor, norm: list[Tensor], eps: float) -> Tensor:
        """Return the LayerNorm of bf16 [rows, hidden], contiguous; weight and bias are float32 [hidden]."""
        out = torch.empty_like(states)
        rows, hidden = states.shape
        check(states.dtype == torch.bfloat16 and states.is_contiguous(), "not contiguous bfloat16")
        check(all(part.dtype == torch.float32 and part.shape == (hidden,) for part in norm), "another norm")
        pointers = (tensor.data_ptr() for tensor in (states, out, *norm))
        check(self._layer_norm(*pointers, rows, hidden, eps) == 0, "a shape that does not fit")
        return out

    def embed(
        self, ids: Tensor, positions: Tensor, tables: tuple[Tensor, Tensor], norm: list[Tensor], eps: float
    ) -> Tensor:
        """Return the LayerNorm of the sum of two rows for each token, bf16 [tokens, hidden].

        Parameters
        ----------
        ids, positions
            int64 [tokens], contiguous: rows of the first and of the second table.
        tables
            float32 [rows, hidden] each, contiguous.
        norm
            Weight and bias, float32 [hidden].
        eps
            That of the norm.
        """
        words, places = tables
        for rows, table in ((ids, words), (positions, places)):
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
                raise IndexError(f"rows {int(rows.min())} to {int(rows.max())} of a table of {len(table)}")
        out = torch.empty((len(ids), words.shape[1]), dtype=torch.bfloat16)
        hidden = (words.shape[1],)
        check(len(ids) == len(positions) and places.shape[1:] == hidden, "tables of other shapes")
        check(all(part.dtype == torch.float32 and part.shape == hidden for part in norm), "another norm")
        check(all(part.is_contiguous() for part in (ids, positions, *tables)), "not contiguous")
        pointers = (tensor.data_ptr() for tensor in (ids, positions, words, places, out, *norm))
        check(self._embed(*pointers, *out.shape, eps) == 0, "a shape that does not fit")
        return out


@lru_cache(maxsize=4)
def load_kernels(precision: str = "bf16") -> Kernels | IntegerKernels | None:
    """Return the compiled kernels of a precision, or None where this machine has no use for them.

    Parameters
    ----------
    precision
        ``"bf16"``, ``"int16"`` or ``"fp32"``; others have none.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    needed = {"bf16": {"avx512_bf16"}, "int16": {"avx2", "fma"}, "fp32": {"avx2", "fma"}}.get(precision)
    if os.environ.get(SWITCH) == "0" or compiler is None or needed is None:
        return None
    if not needed <= kernel_flags():
        return None
    try:
        if precision in ("int16", "fp32"):
            made = _compiled(compiler, _INTEGERS)
            return IntegerKernels(made) if precision == "int16" else FloatKernels(made)
        return Kernels(_compiled(compiler, _SOURCE))
    except (OSError, subprocess.SubprocessError, UserError, AttributeError) as error:
        logger.info("kernels are left out, torch's own are used: %s", error)
        return None


def _compiled(compiler: str, file: Path) -> Path:
    source = file.read_bytes()
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30).stdout
    processor = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    model = [line for line in processor.splitlines() if line.startswith(("flags", "model name"))]
    digest = hashlib.sha256(b"\0".join([source, version, *map(str.encode, [*_FLAGS, *model])]))
    library = user_cache("kernels") / f"{digest.hexdigest()[:16]}.so"
    if not (library.is_file() and _is_ours(library)):
        with staged_file(library) as temporary:
            command = [compiler, *_FLAGS, "-o", str(temporary), str(file)]
            subprocess.run(command, capture_output=True, check=True, timeout=120)
        library.chmod(0o700)
    return library


def _is_ours(library: Path) -> bool:
    """Whether nobody but this user can have written a library, which would run as this user."""
    found = library.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
