"""matryoshka2d truncate: cut one size out of a model."""

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
    print_json,
    quiet_libraries,
)


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
    from matryoshka2d.export.run import export_model

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
