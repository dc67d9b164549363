"""matryoshka2d encode: a file of texts → a file, or a folder of shards, of vectors at a size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matryoshka2d.cli.common import (
    Device,
    EngineName,
    Json,
    Model,
    Overwrite,
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

if TYPE_CHECKING:
    from matryoshka2d.encoder.quantization import RecallLoss


def encode(
    model: Model,
    input: Annotated[
        Path,
        typer.Argument(
            help="Texts: .txt (one a line; blank lines get no vector), JSONL, CSV, TSV, Parquet; or a folder."
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="Vectors: .npy, .parquet or .jsonl; or a folder, for shards and resuming.")
    ],
    size: SizeOption = None,
    column: Annotated[
        str | None, typer.Option(help="The column that holds the texts, if it is not recognized.")
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(help="A prompt of the model to put before every text, as query.")
    ] = None,
    codes: Annotated[
        str | None,
        typer.Option(
            help="int8, uint8, binary or ubinary: a byte or a bit a dim in a .npy output, ranges beside it, "
            "as .ranges.npy."
        ),
    ] = None,
    shard_rows: Annotated[
        int | None, typer.Option(min=1, help="Texts a shard, when the output is a folder. Default: 65536.")
    ] = None,
    shard_format: Annotated[
        str | None, typer.Option(help="parquet, jsonl or npy, when the output is a folder. Default: parquet.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="i/n: write only the i-th of n parts of the shards; n processes write them all."),
    ] = None,
    runner: Runner = "local",
    workers: Workers = 2,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = 0,
    address: Address = None,
    engine: EngineName = "auto",
    precision: PrecisionChoice = "auto",
    pooling: Pooling = None,
    device: Device = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Embed a file of texts at a size; only the layers of that size are loaded and run.

    JSONL and Parquet outputs keep the input's other columns and add one called embedding. An output
    without an ending is a folder of shards: run the same command again after a kill and it goes on.

    Example: matryoshka2d encode my-model texts.jsonl vectors.npy --size 3x128
    """
    from matryoshka2d.errors import UserError
    from matryoshka2d.inference.encoding import check_coded, check_files, encode_codes, encode_file
    from matryoshka2d.inference.shards import ROWS_PER_SHARD, check_folder, check_part, encode_shards
    from matryoshka2d.size import Size

    wanted = None if size is None else Size.parse(size)
    check_runner(runner)
    sharded = output.suffix == "" or output.is_dir()
    suffix = f".{shard_format or 'parquet'}"
    part = _part(shard)
    if codes is not None:
        check_coded(output, codes, overwrite=overwrite)
    if sharded:
        check_part(part, overwrite=overwrite)
        check_folder(input, output, suffix, column=column, overwrite=overwrite)
    elif shard_rows is not None or shard_format is not None or shard is not None or runner != "local":
        raise UserError(f"{output} is one file: name a folder as output to have shards")
    else:
        check_files(input, output, column=column, overwrite=overwrite)
    quiet_libraries()
    from matryoshka2d.inference import open_engine

    opened = open_engine(model, engine, precision, device, size=wanted, pooling=pooling)
    # A prompt that the model lacks is said now, before a bar is drawn.
    if prompt_name is not None:
        opened.embed([""], opened.size, prompt_name=prompt_name)
    common: dict[str, Any] = {
        "size": opened.size,
        "column": column,
        "prompt_name": prompt_name,
        "overwrite": overwrite,
        "show_progress_bar": not (quiet or json),
    }
    summary: dict[str, Any] = {
        "output": str(output),
        "size": str(opened.size),
        "engine": opened.name,
        "precision": opened.precision,
    }
    if sharded:
        run = runs_on(runner, opened, model, pooling, workers, cpus_per_worker, gpus_per_worker, address)
        done = encode_shards(
            opened,
            input,
            output,
            suffix=suffix,
            rows_per_shard=shard_rows or ROWS_PER_SHARD,
            part=part,
            run=run,
            **common,
        )
        rows = done.rows
        summary |= {"shards": done.shards, "found": done.found}
    elif codes is not None:
        rows, loss = encode_codes(opened, input, output, codes, **common)
        summary |= {"codes": codes, **dataclasses.asdict(loss)}
    else:
        rows = encode_file(opened, input, output, **common)
    if json:
        print_json({**summary, "rows": rows})
    elif not quiet and codes is not None:
        print(f"Wrote {output}: {rows} vectors at size {opened.size} {_cost_of(loss, codes)}")
    elif not quiet:
        shards = f" in {done.shards} shards, {done.found} of them from before" if sharded else ""
        print(f"Wrote {output}: {rows} vectors of {opened.size.dims} dims at size {opened.size}{shards}.")


def _part(shard: str | None) -> tuple[int, int]:
    from matryoshka2d.errors import UserError

    if shard is None:
        return 1, 1
    number, slash, of = shard.partition("/")
    if not slash or not number.strip().isdigit() or not of.strip().isdigit():
        raise UserError(f"'{shard}' is no part of the shards: expected i/n, as 1/4")
    return int(number), int(of)


def quantize(
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

    Example: matryoshka2d quantize vectors.npy codes.npy --precision int8
    """
    from matryoshka2d.encoder.quantization import quantize_file

    rows, loss = quantize_file(
        vectors, output, precision, calibration=calibration, queries=queries, k=k, overwrite=overwrite
    )
    if json:
        print_json({"output": str(output), "rows": rows, "precision": precision, **dataclasses.asdict(loss)})
    elif not quiet:
        print(f"Wrote {output}: {rows} vectors {_cost_of(loss, precision)}")


def _cost_of(loss: RecallLoss, codes: str) -> str:
    return (
        f"of {loss.bytes_per_vector} bytes, {codes} (float32: {loss.exact_bytes_per_vector}). Of the "
        f"{loss.k} nearest {loss.recall:.1%} are found, {loss.rescored:.1%} when four times as many are "
        "rescored."
    )
