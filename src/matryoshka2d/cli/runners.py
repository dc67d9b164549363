"""Where a command embeds: here, or on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from matryoshka2d.inference import Engine
    from matryoshka2d.inference.shards import Run

Runner = Annotated[str, typer.Option(help="local, or ray: whole shards on a Ray cluster (extra ray).")]
Workers = Annotated[int, typer.Option(min=1, help="Ray: how many load the model side by side.")]
CpusPerWorker = Annotated[
    int | None, typer.Option(min=1, help="Ray: threads of each. Default: the processors, shared out.")
]
GpusPerWorker = Annotated[float, typer.Option(min=0, help="Ray: GPUs of each; needs --device cuda.")]
Address = Annotated[
    str | None, typer.Option(help="Ray: a running cluster, as auto. Default: one on this machine.")
]


def check_runner(runner: str) -> None:
    """Raise a `UserError` unless there is such a runner, and its library."""
    from matryoshka2d.errors import UserError, needs

    if runner not in ("local", "ray"):
        raise UserError(f"no runner is called '{runner}': expected local or ray")
    if runner == "ray":
        needs("ray", "ray")


def runs_on(
    runner: str,
    engine: Engine,
    model: str,
    pooling: str | None,
    workers: int,
    cpus_per_worker: int | None,
    gpus_per_worker: float,
    address: str | None,
) -> Run | None:
    """Return what writes shards elsewhere with the same engine, or None to write them here."""
    if runner == "local":
        return None
    from matryoshka2d.inference.ray_runner import Model, on_ray

    return on_ray(
        Model(
            str(Path(model).resolve()) if Path(model).is_dir() else model,
            engine.name,
            engine.precision,
            engine.device,
            str(engine.size),
            pooling,
        ),
        workers=workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        address=address,
    )
