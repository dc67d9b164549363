"""matryoshka2d quickstart: an elastic model, its grid and a cut model, from nothing but this installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matryoshka2d.cli.common import Json, Overwrite, Quiet, print_json, quiet_libraries


def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the models, the report and the heatmap.")] = Path(
        "quickstart"
    ),
    sts: Annotated[
        str | None, typer.Option(help="Folder of STS files: adds their grid, before and after.")
    ] = None,
    size: Annotated[str, typer.Option(help="The size to cut out at the end.")] = "3x128",
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    sentences: Annotated[
        int | None,
        typer.Option(min=64, help="Train on so many sentences instead of 16,000, for a faster look."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make all-MiniLM-L6-v2 elastic in minutes, without a hub, a download or labels.

    The model learns from its own full size on the documentation of Python, which every installation has,
    and is judged on modules held out from training.

    Example: matryoshka2d quickstart
    """
    from matryoshka2d.files import check_free
    from matryoshka2d.size import Size

    wanted = Size.parse(size)
    check_free(output, overwrite=overwrite, inputs=[sts] if sts else [])
    quiet_libraries()
    from matryoshka2d.quickstart.run import quickstart as run

    result = run(
        output, sts=sts, size=wanted, seed=seed, sentences=sentences, overwrite=overwrite, quiet=quiet or json
    )
    if json:
        print_json(result.to_dict())
