"""matryoshka2d quantise: a file of vectors → a byte or a bit a dim, and what that costs in recall."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matryoshka2d.cli.common import Json, Overwrite, Quiet, print_json

if TYPE_CHECKING:
    from matryoshka2d.quantisation import Vectors

_SAMPLE = 1000


def quantise(
    vectors: Annotated[Path, typer.Argument(help="Vectors that encode wrote: .npy.")],
    output: Annotated[Path, typer.Argument(help="Codes: .npy. The ranges go beside it, as .ranges.npy.")],
    precision: Annotated[str, typer.Option(help="int8, uint8, binary or ubinary.")] = "int8",
    calibration: Annotated[
        Path | None, typer.Option(help="Vectors that fix the ranges, .npy. Default: the vectors themselves.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="Query vectors to measure recall with, .npy. Default: 1000 of the vectors."),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="How many nearest the recall counts.")] = 10,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write vectors in a byte or a bit a dim, as sentence-transformers and Faiss read them.

    Example: matryoshka2d quantise vectors.npy codes.npy --precision int8
    """
    import numpy as np

    from matryoshka2d.files import check_file_free, staged_file
    from matryoshka2d.quantisation import Quantizer, recall_loss

    ranges = output.with_suffix(".ranges.npy")
    for path in (output, ranges):
        check_file_free(path, overwrite=overwrite)
    corpus = _read(vectors)
    quantizer = Quantizer.fit(corpus if calibration is None else _read(calibration), precision)
    _check_width(corpus.shape[1], quantizer.ranges.shape[1], calibration)
    rows = np.linspace(0, len(corpus) - 1, min(_SAMPLE, len(corpus))).astype(int)
    asked = corpus[rows] if queries is None else _read(queries)
    _check_width(corpus.shape[1], asked.shape[1], queries)
    codes = quantizer.encode(corpus)
    loss = recall_loss(asked, corpus, quantizer, k)
    for path, values in ((output, codes), (ranges, quantizer.ranges)):
        with staged_file(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
            np.save(file, values)
    if json:
        print_json(
            {"output": str(output), "rows": len(codes), "precision": precision, **dataclasses.asdict(loss)}
        )
    elif not quiet:
        print(
            f"Wrote {output}: {len(codes)} vectors of {loss.bytes_per_vector} bytes, {precision} "
            f"(float32: {loss.exact_bytes_per_vector}). Of the {loss.k} nearest {loss.recall:.1%} are found, "
            f"{loss.rescored:.1%} when four times as many are rescored."
        )


def _read(path: Path) -> Vectors:
    import numpy as np

    from matryoshka2d.errors import UserError
    from matryoshka2d.quantisation import check_vectors

    if not path.is_file():
        raise UserError(f"{path} does not exist: expected vectors, .npy, as matryoshka2d encode writes them")
    try:
        vectors: Vectors = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(
            f"{path} is not a .npy file of vectors: expected a float array, a row a text, as matryoshka2d "
            "encode writes it"
        ) from error
    check_vectors(vectors)
    return vectors


def _check_width(width: int, other: int, path: Path | None) -> None:
    from matryoshka2d.errors import UserError

    if width != other:
        raise UserError(f"{path} holds vectors of {other} dims, but those to write have {width}")
