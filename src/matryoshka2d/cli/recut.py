"""matryoshka2d recut: an index with another prefix or fewer dims, from the vectors that are stored."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from matryoshka2d.cli.common import Json, Quiet, print_json
from matryoshka2d.cli.search import Uri


def recut_command(
    index: Uri,
    dims: Annotated[
        int | None, typer.Option(min=1, help="Keep so many leading dims of every vector.")
    ] = None,
    prefix: Annotated[
        int | None, typer.Option(min=1, help="Let the first stage compare so many leading dims.")
    ] = None,
    codes: Annotated[
        str | None, typer.Option(help="How the first stage keeps a dim: float, half, int8 or bit.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(help="Write a new index, in any store, and leave this one. Default: in place."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give an index another prefix, other codes or fewer dims. Nothing is embedded.

    Example: matryoshka2d recut faiss:my-index --dims 128 --to faiss:my-index-128
    """
    from matryoshka2d.search import recut

    start = time.perf_counter()
    meta = recut(index, dims=dims, prefix=prefix, codes=codes, to=to)
    seconds = time.perf_counter() - start
    where = to or index
    if json:
        print_json(
            {
                "index": where,
                "size": str(meta.size),
                "prefix": meta.prefix,
                "codes": meta.codes,
                "seconds": seconds,
            }
        )
    elif not quiet:
        print(
            f"Wrote {where}: size {meta.size}, first stage over {meta.prefix} dims as {meta.codes}, "
            f"in {seconds:.1f} s."
        )
