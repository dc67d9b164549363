"""Export: write a size for other software, load it again, compare it, and say what it is."""

from __future__ import annotations

import copy
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matryoshka2d.encoder.architectures import layers_of
from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.finite import check_weights
from matryoshka2d.errors import UserError, needs
from matryoshka2d.export.check import (
    TOLERANCES,
    Agreement,
    compare,
    costs_of,
    provenance,
    quality_of,
    quality_row,
    refuse_unless_equal,
)
from matryoshka2d.export.export_card import write_export_card
from matryoshka2d.export.formats import Format, check_precision, format_named
from matryoshka2d.export.signature import RECORD
from matryoshka2d.files import check_free, full_disk_in_one_line, staged_folder
from matryoshka2d.size import Size, parse_sizes

# Precisions whose numbers end before those of float32.
_WRITTEN_IN = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Export:
    """A folder that other software loads.

    Parameters
    ----------
    folder
        Where it is.
    sizes
        The sizes in it.
    agreements
        Size → how it agreed with its source when it was loaded again.
    record
        What ``export.json`` holds.
    """

    folder: Path
    sizes: tuple[Size, ...]
    agreements: Mapping[Size, Agreement]
    record: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Bytes of all files of the export."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def export_model(
    model: str | Path | ElasticEncoder,
    to: str | Path,
    *,
    size: str | Size | None = None,
    sizes: str | Iterable[str | Size] | None = None,
    format: str = "sentence-transformers",
    precision: str = "fp32",
    pooling: str | None = None,
    device: str | None = None,
    command: str | None = None,
    overwrite: bool = False,
) -> Export:
    """Write a size, or several, as a folder that other software loads, and check it.

    The folder is loaded again with the libraries of its format, and its vectors are compared with those of
    the source; an export that disagrees is not kept.

    Parameters
    ----------
    model
        A folder, a hub name, ``"default"``, or an encoder.
    to
        The folder to write. It appears whole or not at all.
    size
        The size, as ``"3x128"``. Default: the model's size, usually the full one.
    sizes
        Several sizes instead, as ``"1-6x384"``: one graph each, over one file of weights. ONNX only.
    format
        ``"sentence-transformers"`` for Python and servers, ``"onnx"`` for ONNX Runtime in any language,
        ``"openvino"`` for Intel processors.
    precision
        ``"fp32"``, and as the format allows ``"bf16"``, ``"fp16"``, ``"int8"``. fp32 is equal to the source
        within 1e-5; take a smaller one where disk or speed matters more, and look at the agreement.
    pooling, device
        As in `ElasticEncoder`; the export itself is of no device.
    command
        What to write into the card as the command that made it. Default: the command line that does.
    overwrite
        Whether an existing folder may be replaced.

    Returns
    -------
    Export

    Raises
    ------
    UserError
        If a choice is not possible, the model lacks the size, the folder cannot be written, or the export
        disagrees with its source; nothing is left behind.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export = export_model("default", f"{folder}/small", size="1x32")
    ...     export.agreements[Size(1, 32)].difference < 1e-5
    True
    """
    target = Path(to)
    form = _check(format, precision, size, sizes)
    inputs = [] if isinstance(model, ElasticEncoder) else [model]
    check_free(target, overwrite=overwrite, inputs=inputs)
    name, encoder = _open(model, pooling, device)
    wanted = _sizes(encoder, size, sizes)
    source = _in_fp32(encoder)
    check_weights(source, name, _WRITTEN_IN.get(precision))
    with full_disk_in_one_line(target), staged_folder(target, overwrite=overwrite) as folder:
        files = form.write(source, wanted, folder, precision)
        loaded = {one: form.load(folder, file) for one, file in files.items()}
        agreements = {one: compare(source, one, export) for one, export in loaded.items()}
        for one, found in agreements.items():
            refuse_unless_equal(one, found, precision)
        costs = costs_of(loaded)
        # Runtimes keep the files open, and some systems do not rename a folder with open files.
        loaded.clear()
        quality = quality_of(encoder)
        record = {
            "format": format,
            "precision": precision,
            "source": {
                "model": name,
                "full size": f"{source.depth}x{source.width}",
                "parameters": _numbers(source),
            },
            "sizes": {
                str(one): {
                    "file": files[one] or ".",
                    "parameters": parameters_at(source, one),
                    "agreement": agreements[one].to_dict(),
                    "cost": costs[one],
                    "quality": None if quality is None else quality_row(quality, one),
                }
                for one in wanted
            },
            "allowed": str(TOLERANCES[precision]),
            "quality": None if quality is None else provenance(quality),
            **form.facts(source),
            "bytes": {"export": _bytes_of(folder), "full model": _full_bytes(encoder)},
            "command": command or _command(name, target, size, sizes, format, precision, pooling),
            "made by": _versions(form),
            "machine": {"processors": os.cpu_count() or 1, "kind": platform.machine()},
            "date": date.today().isoformat(),
        }
        write_export_card(folder, target.name, source, record)
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")
    return Export(target, tuple(wanted), agreements, record)


def _check(format: str, precision: str, size: object, sizes: object) -> Format:
    """Find every mistake that can be found before a model is loaded."""
    form = format_named(format)
    check_precision(format, precision)
    if size is not None and sizes is not None:
        raise UserError("expected a size or several sizes, not both: leave out --size or --sizes")
    if sizes is not None and not form.several:
        raise UserError(
            f"a folder of {format} holds one size: give --size, or use --format onnx, whose sizes share one "
            "file of weights and which OpenVINO reads too"
        )
    if size is not None:
        Size.parse(str(size))
    needs(form.extra, *form.libraries)
    return form


def _open(
    model: str | Path | ElasticEncoder, pooling: str | None, device: str | None
) -> tuple[str, ElasticEncoder]:
    if isinstance(model, ElasticEncoder):
        return str(getattr(model.base.config, "name_or_path", "") or "an encoder"), model
    name = str(model)
    return name, ElasticEncoder(resolve_model(name), pooling=pooling, device=device)


def _sizes(
    encoder: ElasticEncoder, size: str | Size | None, sizes: str | Iterable[str | Size] | None
) -> list[Size]:
    named = parse_sizes(sizes) if sizes is not None else (encoder.size if size is None else size,)
    return [encoder.check(one) for one in named]


def _in_fp32(encoder: ElasticEncoder) -> ElasticEncoder:
    """Return the encoder, or a copy of it in fp32: what every precision is compared with."""
    return encoder if encoder.dtype == torch.float32 else copy.deepcopy(encoder).float()


def parameters_at(encoder: ElasticEncoder, size: Size) -> int:
    """Return how many parameters a size has: those of its layers, its head and cut, and the shared ones."""
    encoder = encoder.answering(size.layers)
    deeper = list(layers_of(encoder.base))[size.layers :]
    heads = encoder.heads
    head = heads is not None and heads.at(size.layers) is not None
    cut = size.dims * encoder.width if head or size.dims < encoder.width else 0
    aside = [module for module in (heads, encoder.tower) if module is not None]
    left_out = [*deeper, *aside]
    return _numbers(encoder) - sum(map(_numbers, left_out)) + cut


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _full_bytes(encoder: ElasticEncoder) -> int:
    return sum(one.numel() * one.element_size() for one in encoder.parameters())


def _command(
    name: str,
    target: Path,
    size: object,
    sizes: str | Iterable[str | Size] | None,
    format: str,
    precision: str,
    pooling: str | None,
) -> str:
    """Return the command line that makes this export."""
    import shlex

    words = ["matryoshka2d", "export", name]
    if size is not None:
        words += ["--size", str(size)]
    if sizes is not None:
        words += ["--sizes", sizes if isinstance(sizes, str) else " ".join(map(str, sizes))]
    words += ["--to", str(target), "--format", format]
    if precision != "fp32":
        words += ["--precision", precision]
    if pooling is not None:
        words += ["--pooling", pooling]
    return shlex.join(words)


def _versions(form: Format) -> dict[str, str]:
    libraries = ("torch", "transformers", "sentence-transformers", *form.libraries)
    return {"matryoshka2d": version("matryoshka2d"), **{name: version(name) for name in libraries}}
