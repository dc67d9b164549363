"""Shards written by a Ray cluster: Ray Data schedules whole shards, and each is the file of a local run.

A shard is written under a temporary name and renamed by whoever embeds it, so order, bytes and going on after
a kill follow from the shard, not from Ray. The cluster needs a file system that all its machines share.
"""

from __future__ import annotations

import importlib
import logging
import os
from dataclasses import dataclass
from typing import Any

from matryoshka2d.errors import UserError, needs
from matryoshka2d.inference.shards import Job, Run, ShardWriter

_RESERVED = 0.8
"""The share of the processors that the workers reserve: Ray's own tasks wait forever if nothing is left."""


@dataclass(frozen=True)
class Model:
    """How every worker opens the engine: the arguments of `open_engine`, all of them named."""

    model: str
    engine: str
    precision: str
    device: str
    size: str
    pooling: str | None = None


class EmbedShard:
    """A worker: it loads the model once, and writes one shard a call."""

    def __init__(self, model: Model, job: Job, threads: int) -> None:
        import torch

        from matryoshka2d.inference import open_engine

        torch.set_num_threads(threads)
        engine = open_engine(
            model.model,
            model.engine,
            model.precision,
            model.device,
            size=model.size,
            pooling=model.pooling,
        )
        self.writer = ShardWriter(engine, job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Write the shards of a batch, and return their numbers and how many texts they hold."""
        numbers = [int(number) for number in batch["item"]]
        for number in numbers:
            self.writer.write(number)
        return {"shard": numbers, "rows": [self.writer.job.rows(number) for number in numbers]}


def on_ray(
    model: Model,
    *,
    workers: int = 2,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float = 0,
    address: str | None = None,
) -> Run:
    """Return what writes shards on Ray, for `encode_shards`.

    Parameters
    ----------
    model
        How every worker opens the engine.
    workers
        How many load the model and embed side by side.
    cpus_per_worker
        Threads of each. Default: the processors of the cluster, shared out.
    gpus_per_worker
        GPUs of each; name a device of ``"cuda"`` with it.
    address
        A running cluster, as ``"auto"``; by default one is started on this machine.

    Raises
    ------
    UserError
        If Ray is not there, the cluster does not answer, or a worker fails for good.
    """
    needs("ray", "ray")
    if workers < 1:
        raise UserError(f"{workers} workers cannot be: expected at least 1")

    def run(job: Job, missing: list[int], bar: Any) -> None:
        ray: Any = importlib.import_module("ray")
        data: Any = importlib.import_module("ray.data")
        ours = not ray.is_initialized()
        if ours:
            _start(ray, address)
        try:
            processors = ray.cluster_resources().get("CPU", 1.0)
            threads = cpus_per_worker or max(1, int(processors // workers))
            active = max(1, min(workers, len(missing)))
            _quiet(data)
            rows = data.from_items(missing, override_num_blocks=max(1, len(missing))).map_batches(
                EmbedShard,
                batch_size=1,
                fn_constructor_args=(model, job, threads),
                num_cpus=min(float(threads), _RESERVED * processors / active),
                num_gpus=gpus_per_worker or None,
                compute=data.ActorPoolStrategy(size=active),
            )
            for row in rows.iter_rows() if missing else ():
                bar.update(int(row["rows"]))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"Ray gave up: {_last_line(error)}; run the same command again, and finished shards are kept"
            ) from error
        finally:
            if ours:
                ray.shutdown()

    return run


def _start(ray: Any, address: str | None) -> None:
    """Start Ray here, or join a cluster; what it reports of itself stays off the terminal."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray").setLevel(logging.ERROR)
    options = {"address": address} if address else {"include_dashboard": False}
    try:
        ray.init(logging_level="ERROR", log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"there is no Ray cluster at '{address}': {_last_line(error)}") from error


def _quiet(data: Any) -> None:
    """Leave progress to our own bar; a worker that dies is replaced, and its shard written again."""
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
