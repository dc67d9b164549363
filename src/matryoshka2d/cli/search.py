"""matryoshka2d search: the documents of an index that are nearest to a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from matryoshka2d.cli.common import Device, Json, print_json, quiet_libraries

if TYPE_CHECKING:
    from matryoshka2d.search import Answer

Uri = Annotated[
    str,
    typer.Argument(help="The index: faiss:FOLDER, postgresql://…?table=NAME, qdrant:FOLDER or qdrant:URL."),
]


def search(
    index: Uri,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option(min=1, help="How many documents to find.")] = 10,
    query_size: Annotated[
        str | None,
        typer.Option(help="Embed the query with fewer layers than the documents, as 1x384: approximate."),
    ] = None,
    prefix: Annotated[
        int | None,
        typer.Option(min=1, help="Compare another prefix than the index has, without its graph: to try it."),
    ] = None,
    oversample: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates that the prefix finds for each result. Default: tuned, or 10."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare whole vectors with every document.")
    ] = False,
    where: Annotated[
        list[str], typer.Option(help="FIELD=VALUE that a document must have; repeat for more.")
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    model: Annotated[
        str | None, typer.Option(help="The model of the index, if it is not where it was.")
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Find documents: first by the prefix, then by whole vectors.

    Example: matryoshka2d search faiss:my-index "how do I reset my password" --k 5
    """
    from matryoshka2d.errors import UserError
    from matryoshka2d.search.filters import read_filters
    from matryoshka2d.search.index import Index
    from matryoshka2d.search.stores import open_store

    if not query.strip():
        raise UserError("the query is empty: expected a text")
    filters = read_filters(where)
    quiet_libraries()
    # The model is checked at the depth that embeds the query: deeper layers are not loaded for that.
    with Index(open_store(index), model, device) as opened:
        (answer,) = opened.search(
            query,
            k,
            query_size=query_size,
            prefix=prefix,
            oversample=oversample,
            exact=exact,
            where=filters or None,
        )
    if json:
        print_json(
            {
                "results": [hit.to_dict() for hit in answer.hits],
                "milliseconds": answer.milliseconds,
                "approximate": answer.approximate,
            }
        )
    else:
        _print(answer)


def _print(answer: Answer) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "cosine", "first stage", "text", box=None)
    for hit in answer.hits:
        first = "" if hit.first_score is None else f"{hit.first_score:.3f}"
        text = hit.text if len(hit.text) <= 90 else f"{hit.text[:89]}…"
        table.add_row(hit.id, f"{hit.score:.3f}", first, text.replace("\n", " "))
    console = Console()
    console.print(table)
    stages = ", ".join(f"{stage} {taken:.1f}" for stage, taken in answer.milliseconds.items())
    note = "; the query has fewer layers than the documents: approximate" if answer.approximate else ""
    console.print(f"milliseconds: {stages}{note}", style="dim")
