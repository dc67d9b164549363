"""matryoshka2d export: a size as a folder that other software loads, checked after writing."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from matryoshka2d.cli.common import (
    Device,
    Json,
    Model,
    Overwrite,
    Pooling,
    Quiet,
    SizeOption,
    print_json,
    quiet_libraries,
)


def export(
    model: Model,
    to: Annotated[Path, typer.Option(help="Folder that the export is written to.")],
    size: SizeOption = None,
    sizes: Annotated[
        str | None, typer.Option(help="Several sizes over one file of weights, as 1-6x384. ONNX only.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="sentence-transformers, onnx or openvino.")
    ] = "sentence-transformers",
    precision: Annotated[str, typer.Option(help="fp32; bf16 or fp16; int8 for onnx and openvino.")] = "fp32",
    pooling: Pooling = None,
    device: Device = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a size for other software: sentence-transformers, ONNX Runtime or OpenVINO.

    The folder is loaded again and compared with the model; if it disagrees, it is not kept.

    Example: matryoshka2d export my-model --size 3x128 --to my-model-3x128 --format onnx
    """
    quiet_libraries()
    from matryoshka2d.export.exporter import export_model

    done = export_model(
        model,
        to,
        size=size,
        sizes=sizes,
        format=format,
        precision=precision,
        pooling=pooling,
        device=device,
        overwrite=overwrite,
    )
    if json:
        print_json({"output": str(to), **done.record})
        return
    if quiet:
        return
    named = ", ".join(map(str, done.sizes)) if len(done.sizes) < 9 else f"{len(done.sizes)} sizes"
    share = done.bytes / done.record["bytes"]["full model"]
    print(f"Wrote {to}: {named} as {format} {precision}, {done.bytes / 1e6:.1f} MB, {share:.0%} of {model}.")
    worst = min(done.agreements, key=lambda one: done.agreements[one].cosine)
    where = f" at {worst}" if len(done.sizes) > 1 else ""
    print(f"Loaded again and compared{where}: {done.agreements[worst]} (allowed: {done.record['allowed']}).")


def truncate(
    model: Model,
    size: Annotated[str, typer.Argument(help="The size to cut out, LAYERSxDIMS, as 3x128.")],
    output: Annotated[Path, typer.Argument(help="Folder that the smaller model is written to.")],
    pooling: Pooling = None,
    device: Device = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Cut one size out of a model, as a plain sentence-transformers model that needs nothing of this package.

    Example: matryoshka2d truncate my-model 3x128 my-model-3x128
    """
    quiet_libraries()
    from matryoshka2d.export.exporter import export_model

    words = [
        "matryoshka2d",
        "truncate",
        model,
        size,
        str(output),
        *(["--pooling", pooling] if pooling else []),
    ]
    done = export_model(
        model,
        output,
        size=size,
        pooling=pooling,
        device=device,
        command=shlex.join(words),
        overwrite=overwrite,
    )
    (wanted,) = done.sizes
    parameters = {
        "full": done.record["source"]["parameters"],
        "cut": done.record["sizes"][str(wanted)]["parameters"],
    }
    if json:
        print_json({"output": str(output), "size": str(wanted), "parameters": parameters})
    elif not quiet:
        share = parameters["cut"] / parameters["full"]
        print(
            f"Wrote {output}: {wanted}, {parameters['cut'] / 1e6:.1f} M parameters, {share:.0%} of {model}."
        )
