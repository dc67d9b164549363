"""matryoshka2d encode: a file of texts → a file of vectors at a size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matryoshka2d.cli.common import Device, Json, Overwrite, Pooling, Quiet, print_json, quiet_libraries


def encode(
    model: Annotated[str, typer.Argument(help="The model: a folder, a hub name, or 'default'.")],
    input: Annotated[Path, typer.Argument(help="Texts: .txt (one a line), .jsonl or .parquet.")],
    output: Annotated[Path, typer.Argument(help="Vectors: .npy, .parquet or .jsonl.")],
    size: Annotated[
        str | None, typer.Option(help="The size, LAYERSxDIMS, as 3x128. Default: the full size.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="The column that holds the texts, if it is not recognised.")
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="A prompt of the model to put before every text, as query.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a batch.")] = 64,
    pooling: Pooling = None,
    device: Device = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Embed a file of texts at a size; only the layers of that size are loaded and run.

    JSONL and Parquet outputs keep the input's other columns and add one called embedding.

    Example: matryoshka2d encode my-model texts.jsonl vectors.npy --size 3x128
    """
    from matryoshka2d.encoding import check_files, encode_file
    from matryoshka2d.size import Size

    wanted = None if size is None else Size.parse(size)
    check_files(input, output, column=column, overwrite=overwrite)
    quiet_libraries()
    from matryoshka2d.default_model import resolve_model
    from matryoshka2d.encoder import ElasticEncoder

    encoder = ElasticEncoder(resolve_model(model), size=wanted, pooling=pooling, device=device)
    rows = encode_file(
        encoder,
        input,
        output,
        column=column,
        prompt_name=prompt_name,
        batch_size=batch_size,
        overwrite=overwrite,
        show_progress_bar=not (quiet or json),
    )
    if json:
        print_json({"output": str(output), "rows": rows, "size": str(encoder.size)})
    elif not quiet:
        print(f"Wrote {output}: {rows} vectors of {encoder.size.dims} dims at size {encoder.size}.")
