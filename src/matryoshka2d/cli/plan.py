"""matryoshka2d plan: a budget → the size to take, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matryoshka2d.cli.common import (
    Device,
    EngineName,
    ExcludeSelf,
    Json,
    Model,
    Overwrite,
    Pooling,
    PrecisionChoice,
    Qrels,
    Quiet,
    print_json,
    quiet_libraries,
    say,
)
from matryoshka2d.errors import UserError, needs

if TYPE_CHECKING:
    from matryoshka2d.planning import Plan

_NOTHING_SATISFIES = 3


def plan_command(
    model: Model,
    max_latency: Annotated[
        str | None, typer.Option(help="How long one text may take, at the 95th percentile: 2ms.")
    ] = None,
    min_throughput: Annotated[str | None, typer.Option(help="Texts a second, many at once: 500.")] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Peak memory of a process that embeds: 600MB.")
    ] = None,
    max_index: Annotated[
        str | None, typer.Option(help="Bytes of all vectors: 4GB. Needs --documents.")
    ] = None,
    min_quality: Annotated[
        str | None, typer.Option(help="Share of the full size's quality that must be kept: 97%.")
    ] = None,
    documents: Annotated[str | None, typer.Option(help="How many vectors the index holds: 20M.")] = None,
    index: Annotated[
        str | None,
        typer.Option(
            help="An index that tune has measured: its documents are counted, and its search is taken off "
            "--max-latency."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="How the index keeps a coordinate: float32, int8 or binary.")
    ] = "float32",
    sts: Annotated[
        list[str], typer.Option(help="Measure quality on sentence pairs with scores: file or folder; repeat.")
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    retrieval: Annotated[
        list[str], typer.Option(help="Measure quality on a BEIR folder; repeat to add.")
    ] = [],  # noqa: B006
    texts: Annotated[
        Path | None,
        typer.Option(help="No labels: a file of texts on which to measure agreement with the full size."),
    ] = None,
    qrels: Qrels = None,
    exclude_self: ExcludeSelf = None,
    split: Annotated[str, typer.Option(help="Which rows of STS files: test, dev or train.")] = "test",
    fidelity: Annotated[
        str, typer.Option(help="What --texts measures: similarity, or recall of neighbors for search.")
    ] = "similarity",
    time_on: Annotated[
        Path | None, typer.Option(help="A file of texts to time. Default: those that quality is measured on.")
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Sizes, as 1-6x8,16,32. Default: those the model was trained for.")
    ] = None,
    engine: EngineName = "auto",
    engine_precision: PrecisionChoice = "auto",
    memory: Annotated[
        bool,
        typer.Option("--memory", help="Measure peak memory too, some seconds a depth; --max-memory does."),
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long to time single texts.")] = 10.0,
    save: Annotated[
        bool, typer.Option("--save", help="Keep the measured quality inside the model's folder.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for plan.json, front.png and plan.html.")
    ] = None,
    pooling: Pooling = None,
    device: Device = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose a size for a budget, from measured quality and from cost measured on this machine.

    Quality is what the model carries (evaluate --save), or is measured on --sts, --retrieval or --texts.
    Exits with code 3 if no size satisfies the budget.

    Example: matryoshka2d plan my-model --max-latency 2ms --min-quality 97% --max-index 4GB --documents 20M
    """
    from matryoshka2d.files import check_free
    from matryoshka2d.planning import Budget, plan

    within: str | float | None = max_latency
    if index is not None:
        documents, within = _with_index(index, documents, max_latency, silent=quiet or json)
    budget = Budget(
        max_latency=within,
        min_throughput=min_throughput,
        max_memory=max_memory,
        max_index=max_index,
        min_quality=min_quality,
        documents=documents,
        precision=precision,
    )
    if output is not None:
        needs("report", "matplotlib")
        check_free(output, overwrite=overwrite, inputs=[model, *sts, *retrieval])
    quiet_libraries()
    made = plan(
        model,
        budget,
        sts=sts or None,
        retrieval=retrieval or None,
        texts=texts,
        time_on=time_on,
        split=split,
        qrels=qrels,
        exclude_self=exclude_self,
        fidelity_by=fidelity,
        sizes=sizes,
        engine=engine,
        engine_precision=engine_precision,
        device=device,
        pooling=pooling,
        memory=memory,
        seconds=seconds,
        save=save,
        show_progress_bar=not (quiet or json),
    )
    if output is not None:
        _write(output, made, overwrite)
    if json:
        print_json(made.to_dict())
    else:
        from rich.console import Console

        from matryoshka2d.planning.view import print_plan

        print_plan(made, Console())
    if (sts or retrieval) and not save:
        say("note: the quality was not kept; --save keeps it in the model.", silent=quiet or json)
    if made.size is None:
        raise typer.Exit(_NOTHING_SATISFIES)


def _write(output: Path, made: Plan, overwrite: bool) -> None:
    import json

    from matryoshka2d.evaluation.report import save_figure
    from matryoshka2d.files import staged_folder
    from matryoshka2d.planning.view import plan_figure, plan_page

    with staged_folder(output, overwrite=overwrite) as folder:
        (folder / "plan.json").write_text(json.dumps(made.to_dict(), indent=1) + "\n", encoding="utf-8")
        (folder / "plan.html").write_text(plan_page(made), encoding="utf-8")
        save_figure(plan_figure(made), folder / "front.png")


def _with_index(
    uri: str, documents: str | None, max_latency: str | None, *, silent: bool
) -> tuple[str, str | float | None]:
    """Return the documents of an index, and what its search leaves of the time for a query, in seconds."""
    from matryoshka2d.planning.units import read_seconds
    from matryoshka2d.search.index import open_index

    with open_index(uri) as index:
        count, tuned = len(index), index.meta.choice.tuned
    if max_latency is None:
        return documents or str(count), None
    if not tuned:
        raise UserError(f"{uri} was not measured: run matryoshka2d tune on it first")
    searching = tuned["search_milliseconds"] / 1e3
    left = read_seconds(max_latency, "max latency") - searching
    if left <= 0:
        raise UserError(
            f"searching {uri} takes {1e3 * searching:.2f} ms already: {max_latency} cannot be kept with it"
        )
    say(
        f"searching {uri} takes {1e3 * searching:.2f} ms, {1e3 * left:.2f} are left for the query.",
        silent=silent,
    )
    return documents or str(count), left
