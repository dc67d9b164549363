"""matryoshka2d evaluate: the layers x dims grid of a model, from one pass over the texts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from matryoshka2d.errors import UserError
from matryoshka2d.files import check_free

if TYPE_CHECKING:
    from matryoshka2d.evaluation import EncodedSts, Grid


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
            help="fp32, as papers report; bf16 is several times as fast on a CPU that has units for it, and "
            "moves scores by hundredths. auto takes bf16 where it pays; fp16 is for GPUs."
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
    from matryoshka2d.evaluation.record import check_folder

    cuts = list(dict.fromkeys(["prefix", *cut]))
    sides = {"query_sizes": query_size, "document_size": document_size}
    _check(sts, retrieval, sizes, metric, cuts, precision)
    _check_sides(sts, sizes, sides, save)
    prompts = {
        "query_prompt_name": query_prompt_name or prompt_name,
        "corpus_prompt_name": document_prompt_name or prompt_name,
    }
    ranking = {**prompts, "exclude_self": exclude_self}
    _check_retrieval(retrieval, qrels, query_prompt_name, document_prompt_name, exclude_self)
    if save:
        check_folder(model)
    if output is not None:
        check_free(output, overwrite=overwrite, inputs=[model, *sts, *retrieval])
    sets = _read(sts, retrieval, split, qrels)
    quiet_libraries()
    encoder = load(model, pooling, device, quiet=quiet)
    from matryoshka2d.evaluation.exits import Exits
    from matryoshka2d.evaluation.quality import with_full
    from matryoshka2d.inference.encoding import check_prompt

    for name in (prompt_name, query_prompt_name, document_prompt_name):
        check_prompt(encoder.prompts, name)
    if save and not isinstance(encoder, Exits):
        raise UserError(
            f"plan cannot use the quality of {model}, which has its full depth only: leave out --save"
        )
    model_exits = _in_precision(encoder, model, precision, quiet=quiet or json)
    encoding = {"batch_size": batch_size, "show_progress_bar": not (quiet or json)}
    measured = with_full(encoder, sizes) if save else sizes
    grids, encoded = _grids(
        model_exits,
        sets,
        name=Path(model).name,
        sizes=measured,
        sides=sides,
        metric=metric,
        cuts=cuts,
        prompt_name=prompt_name,
        ranking=ranking,
        **encoding,
    )
    if save:
        asked = encoding if encoded is not None else {**encoding, **ranking}
        _save(model, encoder, model_exits, encoded, sets[1], sizes=measured, split=split, **asked)
    if output is not None:
        _write(output, grids, overwrite)
    if json:
        print_json(_as_json(grids))
    else:
        _show(grids)
    for note in _notes(grids):
        say(f"note: {note}.", silent=quiet)
    if save:
        say(f"note: the quality is kept in {model}; matryoshka2d plan reads it.", silent=quiet or json)


def load(model: str, pooling: str | None, device: str | None, *, quiet: bool = False) -> Any:
    """Load an elastic encoder, or a plain model where the architecture is not in the table."""
    from matryoshka2d.encoder import loading
    from matryoshka2d.encoder.architectures import UnknownArchitectureError
    from matryoshka2d.encoder.default_model import resolve_model
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.encoder.hub import hub_arguments

    name = resolve_model(model)
    try:
        return ElasticEncoder(name, pooling=pooling, device=device)
    except UnknownArchitectureError as unknown:
        from sentence_transformers import SentenceTransformer

        say(f"note: {unknown}. Only its full depth is evaluated.", silent=quiet)
        with loading.in_one_line(name):
            choices = hub_arguments(name, {"device": device})
            plain = SentenceTransformer(**loading.init_arguments(name, None, pooling, choices))
            return loading.settled(plain, name)


def _in_precision(encoder: Any, model: str, precision: str, *, quiet: bool) -> Any:
    """Return what gives the exits: the encoder itself in fp32, else an engine with it."""
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.encoder.precision import resolve_precision

    chosen = resolve_precision(precision, str(encoder.device))
    if chosen.warning:
        say(f"note: {chosen.reason}", silent=quiet)
    if chosen.name == "fp32":
        return encoder
    if not isinstance(encoder, ElasticEncoder):
        raise UserError(f"{model} is measured in fp32 alone: its architecture is not in the table of layers")
    from matryoshka2d.inference.engine_exits import open_exits

    return open_exits(encoder, chosen.name)


def _check(
    sts: list[str],
    retrieval: list[str],
    sizes: str | None,
    metric: str,
    cuts: list[str],
    precision: str,
) -> None:
    """Find every mistake that can be found before a file is read or a model is loaded."""
    from matryoshka2d.encoder.precision import check_precision
    from matryoshka2d.evaluation.cosine import correlation_of
    from matryoshka2d.evaluation.exits import check_cut
    from matryoshka2d.size import parse_sizes

    if not sts and not retrieval:
        raise UserError("nothing to evaluate on: expected --sts FOLDER or --retrieval FOLDER")
    correlation_of(metric)
    check_precision(precision)
    for cut in cuts:
        check_cut(cut)
    if sizes is not None:
        parse_sizes(sizes)


def _check_sides(sts: list[str], sizes: str | None, sides: dict[str, str | None], save: bool) -> None:
    """Find what cannot be meant by sizes of queries and documents."""
    from matryoshka2d.evaluation.retrieval import check_sides

    if all(side is None for side in sides.values()):
        return
    if sts:
        raise UserError(
            "--query-size and --document-size are of retrieval alone: leave out --sts, or ask in two commands"
        )
    if save:
        raise UserError(
            "plan reads the quality of queries and documents of one size: leave out --save, or "
            "--query-size and --document-size"
        )
    check_sides(sizes, **sides)


def _check_retrieval(retrieval: list[str], *asked: object) -> None:
    """Find options of retrieval where there is none."""
    if not retrieval and any(one is not None for one in asked):
        raise UserError(
            "--qrels, --query-prompt-name, --document-prompt-name and --exclude-self are of retrieval alone: "
            "expected --retrieval FOLDER beside them"
        )


def _read(sts: list[str], retrieval: list[str], split: str, qrels: str | None) -> tuple[list[Any], list[Any]]:
    from matryoshka2d.evaluation import read_retrieval, read_sts

    pairs = read_sts(sts[0] if len(sts) == 1 else sts, split=split) if sts else []
    return pairs, [read_retrieval(folder, qrels=qrels) for folder in retrieval]


def _grids(
    encoder: Any,
    sets: tuple[list[Any], list[Any]],
    *,
    name: str,
    sizes: Any,
    sides: dict[str, Any],
    metric: str,
    cuts: list[str],
    prompt_name: str | None,
    ranking: dict[str, Any],
    **encoding: Any,
) -> tuple[dict[str, dict[str, Grid]], EncodedSts | None]:
    """Return task → cut → grid, and the sentence pairs as they were encoded."""
    from matryoshka2d.evaluation import encode_sts, retrieval_grids

    pairs, collections = sets
    grids: dict[str, dict[str, Grid]] = {}
    encoded = None
    if pairs:
        encoded = encode_sts(encoder, pairs, sizes=sizes, prompt_name=prompt_name, **encoding)
        grids["sts"] = {cut: encoded.grid(metric=metric, cut=cut, name=name) for cut in cuts}
    if collections:
        grids["retrieval"] = retrieval_grids(
            encoder, collections, sizes=sizes, cuts=cuts, name=name, **sides, **ranking, **encoding
        )
    return grids, encoded


def _save(
    model: str,
    encoder: Any,
    model_exits: Any,
    encoded: EncodedSts | None,
    collections: list[Any],
    *,
    sizes: Any,
    split: str,
    **encoding: Any,
) -> None:
    """Keep the quality of the first task in the model, for every precision of an index."""
    from matryoshka2d.evaluation.quality import labelled_qualities
    from matryoshka2d.evaluation.record import fingerprint, store_quality

    details = {"split": split} if encoded is not None else {}
    source: Any = collections if encoded is None else encoded
    qualities = labelled_qualities(model_exits, source, sizes=sizes, details=details, **encoding)
    store_quality(model, qualities.values(), fingerprint(encoder))


def _as_json(grids: dict[str, dict[str, Grid]]) -> dict[str, Any]:
    """Return the first task's prefix grid at the top, other cuts and tasks below it."""
    first, *others = grids
    value: dict[str, Any] = grids[first]["prefix"].to_dict()
    cuts = {cut: grid.to_dict() for cut, grid in grids[first].items() if cut != "prefix"}
    if cuts:
        value["cuts"] = cuts
    for task in others:
        value[task] = {cut: grid.to_dict() for cut, grid in grids[task].items()}
    return value


def _notes(grids: dict[str, dict[str, Grid]]) -> list[str]:
    """Return what stands in the details of the grids for a reader, each line once."""
    every = [
        note
        for by_cut in grids.values()
        for grid in by_cut.values()
        for note in grid.details.get("notes", ())
    ]
    return list(dict.fromkeys(every))


def _show(grids: dict[str, dict[str, Grid]]) -> None:
    from rich.console import Console

    from matryoshka2d.evaluation.report import grid_table
    from matryoshka2d.evaluation.report.color_scale import two_decimals

    console = Console()
    for by_cut in grids.values():
        for grid in by_cut.values():
            console.print(grid_table(grid))
            console.print(f"mean over {len(grid.sizes)} sizes: {two_decimals(grid.mean_over_sizes())}\n")


def _write(output: Path, grids: dict[str, dict[str, Grid]], overwrite: bool) -> None:
    import json

    from matryoshka2d.evaluation.report import heatmap, save_figure, write_report
    from matryoshka2d.files import staged_folder

    with staged_folder(output, overwrite=overwrite) as folder:
        (folder / "grid.json").write_text(json.dumps(_as_json(grids), indent=1), encoding="utf-8")
        for task, by_cut in grids.items():
            # The first task has the plain names.
            suffix = "" if task == next(iter(grids)) else f"-{task}"
            main, *_ = by_cut.values()
            (folder / f"grid{suffix}.csv").write_text(main.to_csv(), encoding="utf-8")
            named = {f"{cut} cut": grid for cut, grid in by_cut.items()}
            save_figure(heatmap(named if len(named) > 1 else main), folder / f"heatmap{suffix}.png")
            others = {f"{cut} cut": grid for cut, grid in by_cut.items() if cut != "prefix"}
            provenance = {"command": shlex.join(["matryoshka2d", *sys.argv[1:]])}
            write_report(folder / f"report{suffix}.html", main, comparisons=others, provenance=provenance)
