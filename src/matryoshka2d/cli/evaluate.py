"""matryoshka2d evaluate: the layers x dims grid of a model, from one pass over the texts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matryoshka2d.cli.common import (
    Device,
    ExcludeSelf,
    Json,
    Model,
    Overwrite,
    Pooling,
    Qrels,
    Quiet,
    print_json,
    quiet_libraries,
    say,
)
from matryoshka2d.errors import needs
from matryoshka2d.files import check_free

if TYPE_CHECKING:
    from matryoshka2d.evaluation import Evaluation


def evaluate(
    model: Model,
    sts: Annotated[
        list[str], typer.Option(help="Folder or file of sentence pairs with scores; repeat to add files.")
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    retrieval: Annotated[
        list[str],
        typer.Option(
            help="BEIR folder (corpus.jsonl, queries.jsonl, qrels.tsv), SQuAD or XSum file; repeat."
        ),
    ] = [],  # noqa: B006
    sizes: Annotated[
        str | None, typer.Option(help="Sizes, as 1-6x8,16,32. Default: those the model was trained for.")
    ] = None,
    query_size: Annotated[
        str | None,
        typer.Option(
            help="Instead of --sizes: sizes of the queries alone, as 1-6x128, over documents of one size. "
            "Default: every depth at the documents' dims. Retrieval only."
        ),
    ] = None,
    document_size: Annotated[
        str | None,
        typer.Option(help="The size of the documents, as 6x128. Default: full depth at the queries' dims."),
    ] = None,
    qrels: Qrels = None,
    exclude_self: ExcludeSelf = None,
    split: Annotated[str, typer.Option(help="Which rows of STS files: test, dev or train.")] = "test",
    metric: Annotated[
        str, typer.Option(help="spearman, as papers report, or pearson. STS only.")
    ] = "spearman",
    cut: Annotated[
        list[str],
        typer.Option(help="prefix; add pca or random to see what a cut without training gives."),
    ] = ["prefix"],  # noqa: B006
    output: Annotated[
        Path | None, typer.Option(help="Folder for grid.json, grid.csv, heatmap.png and report.html.")
    ] = None,
    save: Annotated[
        bool,
        typer.Option("--save", help="Keep the quality, with intervals, inside the model: plan reads it."),
    ] = False,
    prompt_name: Annotated[
        str | None,
        typer.Option(
            help="A prompt of the model for every text. Default: its default prompt for STS, its query and "
            "document prompts for retrieval."
        ),
    ] = None,
    query_prompt_name: Annotated[
        str | None, typer.Option(help="A prompt of the model for queries alone, instead of its query prompt.")
    ] = None,
    document_prompt_name: Annotated[
        str | None,
        typer.Option(help="A prompt of the model for documents alone, instead of its document prompt."),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, as papers report; bf16 is several times as fast on a CPU that has units for it, "
            "int16 1.5 times on one with AVX2; both move scores by hundredths. auto takes what pays; fp16 "
            "is for GPUs."
        ),
    ] = "fp32",
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts a batch. In bf16 and fp16 batches are filled by tokens instead.")
    ] = 64,
    pooling: Pooling = None,
    device: Device = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model at every size: Spearman x100 on STS, nDCG@10 on retrieval, from one pass a text.

    Takes any sentence-transformers model; one of an unknown architecture has its full depth only.

    Example: matryoshka2d evaluate my-model --sts STS_FOLDER --sizes 1-6x8,16,32 --output my-report
    """
    from matryoshka2d.encoder.precision import check_precision
    from matryoshka2d.evaluation import evaluate as measure
    from matryoshka2d.inference.engine_exits import PRECISIONS, exits_in

    check_precision(precision, PRECISIONS)

    def note(text: str) -> None:
        say(f"note: {text}", silent=quiet)

    if output is not None:
        needs("report", "matplotlib")
        check_free(output, overwrite=overwrite, inputs=[model, *sts, *retrieval])
    quiet_libraries()
    found = measure(
        model,
        sts=sts,
        retrieval=retrieval,
        sizes=sizes,
        query_sizes=query_size,
        document_size=document_size,
        cuts=cut,
        metric=metric,
        split=split,
        qrels=qrels,
        exclude_self=exclude_self,
        prompt_name=prompt_name,
        query_prompt_name=query_prompt_name,
        document_prompt_name=document_prompt_name,
        save=save,
        exits=lambda loaded: exits_in(loaded, precision, note),
        pooling=pooling,
        device=device,
        batch_size=batch_size,
        show_progress_bar=not (quiet or json),
        on_note=note,
    )
    if output is not None:
        from matryoshka2d.evaluation.report import write_folder

        command = shlex.join(["matryoshka2d", *sys.argv[1:]])
        write_folder(output, found, provenance={"command": command}, overwrite=overwrite)
    if json:
        print_json(found.to_dict())
    else:
        _show(found)
    for text in found.notes:
        note(f"{text}.")
    if save:
        say(f"note: the quality is kept in {model}; matryoshka2d plan reads it.", silent=quiet or json)


def _show(found: Evaluation) -> None:
    """Print the table of every task and cut."""
    from rich.console import Console

    from matryoshka2d.evaluation.report import grid_table
    from matryoshka2d.evaluation.report.color_scale import two_decimals

    console = Console()
    for by_cut in found.grids.values():
        for grid in by_cut.values():
            console.print(grid_table(grid))
            console.print(f"mean over {len(grid.sizes)} sizes: {two_decimals(grid.mean_over_sizes())}\n")
