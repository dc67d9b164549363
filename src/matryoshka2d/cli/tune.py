"""matryoshka2d tune: the cheapest way to search an index that reaches a recall."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matryoshka2d.cli.common import Device, Json, Overwrite, Quiet, print_json, quiet_libraries, say
from matryoshka2d.cli.search import Uri
from matryoshka2d.errors import UserError, needs

if TYPE_CHECKING:
    from matryoshka2d.search.tuning import Tuned

_NOT_REACHED = 3


def tune_command(
    index: Uri,
    queries: Annotated[
        Path,
        typer.Option(help="Queries like those to come: a file of texts, or a BEIR folder (with nDCG then)."),
    ],
    recall: Annotated[
        float, typer.Option(help="Share of what exact search finds that must be found.")
    ] = 0.99,
    k: Annotated[int, typer.Option(min=1, help="How many results it counts.")] = 10,
    prefixes: Annotated[
        str | None, typer.Option(help="Prefixes to try, as 64,128. Default: the index's, half and double.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers of the query to try, as 1,6. Default: all that meet the documents."),
    ] = None,
    limit: Annotated[int, typer.Option(min=20, help="Use at most so many queries.")] = 500,
    model: Annotated[
        str | None, typer.Option(help="The model of the index, if it is not where it was.")
    ] = None,
    device: Device = None,
    save: Annotated[bool, typer.Option(help="Write the choice into the index.")] = True,
    output: Annotated[Path | None, typer.Option(help="Folder for tune.json and front.png.")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the query depth, prefix and oversampling that reach a recall in the least time.

    Exits with code 3 if nothing that was tried reaches it.

    Example: matryoshka2d tune faiss:my-index --queries queries.txt --recall 0.99
    """
    from matryoshka2d.files import check_free
    from matryoshka2d.search.index import open_index
    from matryoshka2d.search.queries import read_queries
    from matryoshka2d.search.tuning import tune

    if output is not None:
        needs("report", "matplotlib")
        check_free(output, overwrite=overwrite, inputs=[queries])
    asked, qrels = read_queries(queries, limit)
    quiet_libraries()
    silent = quiet or json
    with open_index(index, model, device=device) as opened:
        tuned = tune(
            opened,
            asked,
            recall=recall,
            k=k,
            prefixes=_numbers("prefixes", prefixes),
            layers=_numbers("layers", layers),
            qrels=qrels,
            save=save,
            show=lambda line: say(f"measuring: {line}", silent=silent),
        )
    if output is not None:
        _write(output, tuned, overwrite)
    if json:
        print_json(tuned.to_dict())
    elif not quiet:
        _print(tuned, index, save)
    if tuned.chosen is None:
        raise typer.Exit(_NOT_REACHED)


def _numbers(name: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise UserError(f"--{name} is '{text}': expected whole numbers, as 64,128")
    return [int(part) for part in parts]


def _write(output: Path, tuned: Tuned, overwrite: bool) -> None:
    import json

    from matryoshka2d.evaluation.report import save_figure
    from matryoshka2d.files import staged_folder

    with staged_folder(output, overwrite=overwrite) as folder:
        (folder / "tune.json").write_text(json.dumps(tuned.to_dict(), indent=1) + "\n", encoding="utf-8")
        save_figure(tuned.figure(), folder / "front.png")


def _print(tuned: Tuned, index: str, save: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "", "query layers", "prefix", "oversample", "effort", f"recall@{tuned.k}", "held out", "ms", box=None
    )
    judged = tuned.exact_ndcg is not None
    if judged:
        table.add_column(f"nDCG@{tuned.k}")
    for one in tuned.front:
        cells = [
            "→" if one == tuned.chosen else "",
            str(one.query_layers),
            str(one.prefix),
            str(one.oversample),
            str(one.effort or "-"),
            f"{one.recall:.4f}",
            f"{one.held_out:.4f}",
            f"{one.milliseconds:.2f}",
        ]
        table.add_row(*cells, *([f"{one.ndcg:.4f}"] if one.ndcg is not None else []))
    console = Console()
    console.print(table)
    exact = f"{tuned.exact_milliseconds:.2f} ms" + (f", nDCG {tuned.exact_ndcg:.4f}" if judged else "")
    console.print(f"exact search: {exact}", style="dim")
    if tuned.chosen is None:
        console.print(
            f"Nothing reaches {tuned.target:g} by two standard errors: try longer --prefixes or more queries."
        )
    elif save:
        console.print(f"{index} is searched so from now on.")
