"""matryoshka2d evaluate: the layers x dims grid of a model, from one pass over the texts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matryoshka2d.cli.common import Device, Json, Overwrite, Pooling, Quiet, print_json, quiet_libraries
from matryoshka2d.errors import UserError

if TYPE_CHECKING:
    from matryoshka2d.evaluation import Grid


def evaluate(
    model: Annotated[str, typer.Argument(help="The model: a folder, a hub name, or 'default'.")],
    sts: Annotated[
        list[str], typer.Option(help="Folder or file of sentence pairs with scores; repeat to add files.")
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    retrieval: Annotated[
        list[str], typer.Option(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels.tsv; repeat to add.")
    ] = [],  # noqa: B006
    sizes: Annotated[
        str | None, typer.Option(help="Sizes, as 1-6x8,16,32. Default: those the model was trained for.")
    ] = None,
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
    prompt_name: Annotated[str | None, typer.Option(help="A prompt of the model for every STS text.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a batch.")] = 64,
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
    _check(sts, retrieval, output, overwrite)
    sets = _read(sts, retrieval, split)
    quiet_libraries()
    encoder = load(model, pooling, device)
    grids = _grids(
        encoder,
        sets,
        name=Path(model).name,
        sizes=sizes,
        metric=metric,
        cuts=list(dict.fromkeys(["prefix", *cut])),
        prompt_name=prompt_name,
        batch_size=batch_size,
        show_progress_bar=not (quiet or json),
    )
    if output is not None:
        _write(output, grids, overwrite)
    if json:
        print_json(_as_json(grids))
    else:
        _show(grids)


def load(model: str, pooling: str | None, device: str | None) -> Any:
    """Load an elastic encoder, or a plain model where the architecture is not in the table."""
    from matryoshka2d.architectures import UnknownArchitectureError
    from matryoshka2d.default_model import resolve_model
    from matryoshka2d.encoder import ElasticEncoder

    name = resolve_model(model)
    try:
        return ElasticEncoder(name, pooling=pooling, device=device)
    except UnknownArchitectureError as unknown:
        from sentence_transformers import SentenceTransformer

        print(f"note: {unknown} Only its full depth is evaluated.", file=sys.stderr)
        return SentenceTransformer(name, device=device)


def _check(sts: list[str], retrieval: list[str], output: Path | None, overwrite: bool) -> None:
    from matryoshka2d.files import check_free

    if not sts and not retrieval:
        raise UserError("nothing to evaluate on: expected --sts FOLDER or --retrieval FOLDER")
    if output is not None:
        check_free(output, overwrite=overwrite)


def _read(sts: list[str], retrieval: list[str], split: str) -> tuple[list[Any], list[Any]]:
    from matryoshka2d.evaluation import read_retrieval, read_sts

    pairs = read_sts(sts[0] if len(sts) == 1 else sts, split=split) if sts else []
    return pairs, [read_retrieval(folder) for folder in retrieval]


def _grids(
    encoder: Any,
    sets: tuple[list[Any], list[Any]],
    *,
    name: str,
    sizes: str | None,
    metric: str,
    cuts: list[str],
    prompt_name: str | None,
    **encoding: Any,
) -> dict[str, dict[str, Grid]]:
    """Return task → cut → grid."""
    from matryoshka2d.evaluation import encode_sts, retrieval_grids

    pairs, collections = sets
    grids: dict[str, dict[str, Grid]] = {}
    if pairs:
        encoded = encode_sts(encoder, pairs, sizes=sizes, prompt_name=prompt_name, **encoding)
        grids["sts"] = {cut: encoded.grid(metric=metric, cut=cut, name=name) for cut in cuts}
    if collections:
        grids["retrieval"] = retrieval_grids(
            encoder, collections, sizes=sizes, cuts=cuts, name=name, **encoding
        )
    return grids


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


def _show(grids: dict[str, dict[str, Grid]]) -> None:
    from rich.console import Console

    from matryoshka2d.report import grid_table

    console = Console()
    for by_cut in grids.values():
        for grid in by_cut.values():
            console.print(grid_table(grid))
            console.print(f"mean over {len(grid.sizes)} sizes: {grid.mean_over_sizes():.2f}\n")


def _write(output: Path, grids: dict[str, dict[str, Grid]], overwrite: bool) -> None:
    import json

    from matryoshka2d.files import staged_folder
    from matryoshka2d.report import heatmap, save_figure, write_report

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
            provenance = {"command": " ".join(["matryoshka2d", *sys.argv[1:]])}
            write_report(folder / f"report{suffix}.html", main, comparisons=others, provenance=provenance)
