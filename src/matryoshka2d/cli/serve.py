"""matryoshka2d serve: one process that answers requests for every size."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from matryoshka2d.cli.common import Device, EngineName, PrecisionChoice, Quiet, quiet_libraries

_KEYS = "MATRYOSHKA2D_API_KEYS"


def serve_command(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Models: folders, hub names, 'default'; or name=MODEL."),
    ],
    index: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="An index to search at /v1/search, of a model that is served: faiss:FOLDER, "
            "postgresql://…?table=NAME, qdrant:FOLDER or qdrant:URL.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8000,
    sizes: Annotated[
        str | None, typer.Option(help="Sizes offered, as 1-6x64,128. Default: those that the model shows.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="The size of a request that names none. Default: the full size.")
    ] = None,
    any_size: Annotated[bool, typer.Option("--any-size", help="Offer every layers x dims there is.")] = False,
    engine: EngineName = "auto",
    precision: PrecisionChoice = "auto",
    device: Device = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(help=f"A file of keys, one a line. Default: ${_KEYS}, with commas; none: open to all."),
    ] = None,
    max_inputs: Annotated[int, typer.Option(help="Texts a request.")] = 2048,
    max_request_tokens: Annotated[int, typer.Option(help="Tokens a request.")] = 300_000,
    max_body: Annotated[str, typer.Option(help="Bytes a request, as 32MB.")] = "32MB",
    max_queue_tokens: Annotated[
        int, typer.Option(help="Tokens that may wait; what is beyond them is answered with 429.")
    ] = 400_000,
    deadline: Annotated[str, typer.Option(help="How long a request may wait, as 60s.")] = "60s",
    on_too_long: Annotated[str, typer.Option(help="cut or refuse texts over the model's limit.")] = "cut",
    token_ids: Annotated[
        str, typer.Option(help="refuse or accept token ids; they are mostly of another vocabulary.")
    ] = "refuse",
    grace: Annotated[str, typer.Option(help="How long accepted requests have at the end, as 30s.")] = "30s",
    root_path: Annotated[str, typer.Option(help="The path under which a proxy shows the server.")] = "",
    cors: Annotated[
        list[str], typer.Option(help="An origin whose pages may call the server; repeat to add.")
    ] = [],  # noqa: B006 - typer reads the default, nobody changes it
    playground: Annotated[
        bool, typer.Option("--playground/--no-playground", help="Show the page to try sizes on at /.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Serve every size of a model over OpenAI's embeddings API, and a page to try it.

    With --index, documents are searched at any size too.

    Example: matryoshka2d serve my-model --port 8000
    """
    from matryoshka2d.errors import needs
    from matryoshka2d.planning.units import read_bytes, read_seconds

    needs("serve", "fastapi", "uvicorn", "orjson", "prometheus_client")
    from matryoshka2d.serving import ServeOptions, serve

    options = ServeOptions(
        index=index,
        host=host,
        port=port,
        sizes=sizes,
        size=size,
        any_size=any_size,
        engine=engine,
        precision=precision,
        device=device,
        keys=_keys(api_keys),
        max_inputs=max_inputs,
        max_request_tokens=max_request_tokens,
        max_body=int(read_bytes(max_body, "--max-body")),
        max_queue_tokens=max_queue_tokens,
        deadline=read_seconds(deadline, "--deadline"),
        on_too_long=on_too_long,  # type: ignore[arg-type]
        token_ids=token_ids,  # type: ignore[arg-type]
        grace=read_seconds(grace, "--grace"),
        root_path=root_path,
        cors=tuple(cors),
        page=playground,
    )
    quiet_libraries()
    serve(models, options, note=lambda line: None if quiet else print(line, file=sys.stderr, flush=True))


def _keys(path: Path | None) -> tuple[str, ...]:
    """Return the keys of a file, or else those of the environment."""
    from matryoshka2d.errors import UserError

    if path is None:
        found = os.environ.get(_KEYS, "").split(",")
    else:
        found = path.read_text(encoding="utf-8").splitlines()
    keys = tuple(key.strip() for key in found if key.strip() and not key.strip().startswith("#"))
    if path is not None and not keys:
        raise UserError(f"{path} holds no key: expected one a line")
    return keys
