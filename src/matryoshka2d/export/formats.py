"""The formats of an export, as a table: what each can hold, how it is written and how it is read again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.export import check as loaded
from matryoshka2d.export.graph import example_inputs
from matryoshka2d.export.onnx_files import write_onnx
from matryoshka2d.export.openvino_files import write_openvino
from matryoshka2d.export.sentence_transformers_files import (
    older_releases,
    write_sentence_transformers,
    write_tokenizer,
)
from matryoshka2d.export.signature import OPSET
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder

Write = Callable[["ElasticEncoder", Sequence[Size], Path, str], dict[Size, str]]
"""(encoder, sizes, folder, precision) → size → the file that is loaded, or "" for the folder itself."""


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Parameters
    ----------
    write
        Writes the sizes into a folder.
    load
        Loads one of them again: (folder, file) → texts → vectors.
    precisions
        What its weights may be.
    refusal
        Why not in the others.
    facts
        Encoder → what ``export.json`` says of the format.
    libraries, extra
        What it needs, and the extra that brings it.
    several
        Whether one folder holds several sizes.
    """

    write: Write
    load: Callable[[Path, str], loaded.Loaded]
    precisions: tuple[str, ...]
    refusal: str
    facts: Callable[[ElasticEncoder], dict[str, Any]]
    libraries: tuple[str, ...] = ()
    extra: str = ""
    several: bool = False


def format_named(name: str) -> Format:
    """Return a format by name, or raise a `UserError` that names those there are."""
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError(
            f"format '{name}' is not known: expected one of {known}.{did_you_mean(name, FORMATS)}"
        )
    return FORMATS[name]


def check_precision(name: str, precision: str) -> None:
    """Raise a `UserError` unless a format holds a precision."""
    form = format_named(name)
    if precision not in form.precisions:
        known = ", ".join(form.precisions)
        raise UserError(
            f"{name} does not come in precision '{precision}': expected one of {known} ({form.refusal})."
            f"{did_you_mean(precision, form.precisions)}"
        )


def _write_sentence_transformers(
    encoder: ElasticEncoder, sizes: Sequence[Size], folder: Path, precision: str
) -> dict[Size, str]:
    (size,) = sizes
    write_sentence_transformers(encoder, size, folder, precision=precision)
    return {size: ""}


def _write_onnx(
    encoder: ElasticEncoder, sizes: Sequence[Size], folder: Path, precision: str
) -> dict[Size, str]:
    paths = write_onnx(encoder, sizes, folder, precision=precision)
    _write_beside(encoder, sizes, folder)
    if len(paths) == 1:
        (path,) = paths.values()
        return {sizes[0]: path.rename(folder / "model.onnx").name}
    return {size: path.name for size, path in paths.items()}


def _write_openvino(
    encoder: ElasticEncoder, sizes: Sequence[Size], folder: Path, precision: str
) -> dict[Size, str]:
    (size,) = sizes
    path = write_openvino(encoder, size, folder, precision=precision)
    _write_beside(encoder, sizes, folder)
    for file in (path, path.with_suffix(".bin")):
        file.rename(folder / f"openvino_model{file.suffix}")
    return {size: "openvino_model.xml"}


def _write_beside(encoder: ElasticEncoder, sizes: Sequence[Size], folder: Path) -> None:
    """Write what a graph leaves out: the tokenizer, the settings of the model, its prompts."""
    import json

    write_tokenizer(encoder, folder)
    plain = encoder.truncate(max(sizes))
    plain[0].model.config.save_pretrained(str(folder))
    prompts = {"prompts": dict(encoder.prompts), "default_prompt_name": encoder.default_prompt_name}
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(prompts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _graph(encoder: ElasticEncoder) -> dict[str, Any]:
    return {"opset": OPSET, "inputs": list(example_inputs(encoder))}


FORMATS: dict[str, Format] = {
    "sentence-transformers": Format(
        _write_sentence_transformers,
        loaded.load_sentence_transformers,
        ("fp32", "bf16", "fp16"),
        refusal="its modules multiply floating-point numbers; int8 comes as onnx and openvino",
        facts=older_releases,
    ),
    "onnx": Format(
        _write_onnx,
        loaded.load_onnx,
        ("fp32", "fp16", "int8"),
        refusal="ONNX Runtime has no bf16 for processors",
        libraries=("onnx", "onnxscript", "onnxruntime"),
        extra="onnx",
        several=True,
        facts=_graph,
    ),
    "openvino": Format(
        _write_openvino,
        loaded.load_openvino,
        ("fp32", "fp16", "int8"),
        refusal="OpenVINO chooses to compute in bf16 when it compiles, from any weights",
        libraries=("openvino", "onnx", "onnxscript"),
        extra="openvino",
        facts=_graph,
    ),
}
"""Name on the command line → format."""
