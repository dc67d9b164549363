"""matryoshka2d index: documents → an index that is searched by a prefix and rescored by whole vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matryoshka2d.cli.common import (
    Device,
    EngineName,
    Json,
    Model,
    Pooling,
    PrecisionChoice,
    Quiet,
    SizeOption,
    print_json,
    quiet_libraries,
)
from matryoshka2d.cli.runners import (
    Address,
    CpusPerWorker,
    GpusPerWorker,
    Runner,
    Workers,
    check_runner,
    runs_on,
)


def index(
    model: Model,
    documents: Annotated[
        Path,
        typer.Argument(
            help="Documents: .jsonl, .csv, .tsv, .parquet or .txt, or a BEIR folder. Ids and fields are kept."
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="The index: faiss:FOLDER, postgresql://HOST/DATABASE?table=NAME, qdrant:FOLDER or "
            "qdrant:http://HOST:6333/NAME."
        ),
    ],
    size: SizeOption = None,
    prefix: Annotated[
        int | None,
        typer.Option(min=1, help="Leading dims that the first stage compares. Default: a third of the dims."),
    ] = None,
    codes: Annotated[
        str, typer.Option(help="How the first stage keeps a dim: float, half, int8 or bit.")
    ] = "float",
    exact_prefix: Annotated[
        bool, typer.Option("--exact-prefix", help="Compare every prefix instead of searching a graph.")
    ] = False,
    column: Annotated[
        str | None, typer.Option(help="The column that holds the texts, if it is not recognized.")
    ] = None,
    document_prompt: Annotated[
        str | None, typer.Option(help="Text before every document. Default: the model's own.")
    ] = None,
    query_prompt: Annotated[
        str | None, typer.Option(help="Text before every query. Default: the model's own.")
    ] = None,
    delete: Annotated[
        bool,
        typer.Option("--delete", help="Remove the documents with these ids instead (.txt: an id a line)."),
    ] = False,
    runner: Runner = "local",
    workers: Workers = 2,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = 0,
    address: Address = None,
    work: Annotated[
        Path | None, typer.Option(help="Ray: a folder that all machines share. Default: the user's cache.")
    ] = None,
    engine: EngineName = "auto",
    precision: PrecisionChoice = "auto",
    pooling: Pooling = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Embed documents into an index. Run it again after a kill, or with more documents, and it goes on.

    A document whose id is there is skipped if nothing changed, and replaced if it did.

    Example: matryoshka2d index my-model docs.jsonl --to faiss:my-index --prefix 128
    """
    from matryoshka2d.search import delete_documents, index_documents
    from matryoshka2d.search.documents import documents as look_over
    from matryoshka2d.search.stores import store_of
    from matryoshka2d.size import Size

    store_of(to)
    check_runner(runner)
    if delete:
        gone, left = delete_documents(documents, to)
        if json:
            print_json({"index": to, "deleted": gone, "documents": left})
        elif not quiet:
            print(f"Deleted {gone} documents from {to}: {left} are left.")
        return
    wanted = None if size is None else Size.parse(size)
    corpus = look_over(documents, column)
    quiet_libraries()
    from matryoshka2d.inference import open_engine

    opened = open_engine(model, engine, precision, device, size=wanted, pooling=pooling)
    built = index_documents(
        opened,
        corpus,
        to,
        model=str(Path(model).resolve()) if Path(model).is_dir() else model,
        prefix=prefix,
        codes=codes,
        graph=not exact_prefix,
        document_prompt=document_prompt,
        query_prompt=query_prompt,
        run=runs_on(runner, opened, model, pooling, workers, cpus_per_worker, gpus_per_worker, address),
        work=work,
        show_progress_bar=not (quiet or json),
    )
    if json:
        print_json(
            {
                "index": to,
                "size": str(opened.size),
                "documents": built.documents,
                "added": built.added,
                "found": built.found,
                "bytes": built.bytes,
            }
        )
    elif not quiet:
        print(
            f"Wrote {to}: {built.documents} documents at size {opened.size}, {built.added} embedded now, "
            f"{sum(built.bytes.values()) / 1e6:.1f} MB."
        )
