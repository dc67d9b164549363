"""Gradient caching: memory against a small batch without it, speed against that of sentence-transformers.

    python benchmarks/large_batches.py [--only memory|fp32|bf16] [--data TRIPLETS.jsonl]

Memory: how far the resident memory of a fresh process grows over that before its first training step. Speed:
seconds a step with one exit, InfoNCE on pairs, for both libraries; model, rows, optimizer and dropout are the
same, each in its own trainer and settings. Every measurement has a process of its own, the methods take
turns, and the median of the rounds counts. Results go to ``results/large_batches.json`` and ``.md``; a part
that was left out stays there as it was.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import facts
from training import trainer_arguments, triplets

RESULTS = Path(__file__).resolve().parent / "results"
PEER = "CachedMultipleNegativesRankingLoss"
PARTS = ("memory", "fp32", "bf16")
SMALL, LARGE, MAX_LENGTH = 64, 1024, 128


def memory(field: str) -> float:
    """Return a figure of this process in MB: ``VmRSS``, what is resident now, or ``VmHWM``, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def forget_peak() -> None:
    """Let the peak of resident memory begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(work: dict[str, Any]) -> dict[str, float]:
    """Train in this process; return seconds a step after the first, and the growth of memory in MB."""
    from datasets import Dataset
    from transformers import TrainerCallback

    from matryoshka2d.cli.common import quiet_libraries

    quiet_libraries()
    columns = triplets(work["data"], work["batch"] * work["steps"])
    rows = Dataset.from_dict({name: columns[name] for name in ("anchor", "positive")})
    times: list[float] = []
    before: list[float] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not before:
                before.append(memory("VmRSS"))
                forget_peak()
            times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = trainer_arguments(folder, work["batch"], work["precision"] == "bf16")
        prepare = peer if work["method"] == PEER else ours
        with prepare(work, arguments, rows) as trainer:
            trainer.add_callback(Watch())
            trainer.train()
    growth = memory("VmHWM") - before[0]
    spent = [end - begin for begin, end in zip(times[::2], times[1::2], strict=True)]
    return {"seconds": statistics.fmean(spent[1:] or spent), "growth_mb": growth}


@contextmanager
def peer(work: dict[str, Any], arguments: Any, rows: Any) -> Iterator[Any]:
    """Prepare the library's own cached loss in its own trainer, as its documentation shows it."""
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer import losses

    from matryoshka2d.encoder.default_model import default_model_path

    model = SentenceTransformer(default_model_path(), device="cpu")
    model.max_seq_length = MAX_LENGTH
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=work["part"])
    yield SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)


@contextmanager
def ours(work: dict[str, Any], arguments: Any, rows: Any) -> Iterator[Any]:
    """Prepare one of our strategies, in the settings that `train` uses."""
    from matryoshka2d.encoder.default_model import default_model_path
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.losses.elastic_loss import ElasticLoss
    from matryoshka2d.training.model_settings import training_settings
    from matryoshka2d.training.trainer import ElasticTrainer

    encoder = ElasticEncoder(default_model_path(), device="cpu")
    with training_settings(encoder, MAX_LENGTH, on_cpu=True):
        loss = ElasticLoss(encoder, "infonce", work["method"], mini_batch_tokens=work["part"])
        yield ElasticTrainer(model=encoder, args=arguments, train_dataset=rows, loss=loss)


def works(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is measured: memory in float32, speed in every precision; memory takes one step."""
    small, large = arguments.small, arguments.large
    common = {"data": arguments.data}
    found = []
    for method in ("full", "2dmse", "all-sizes"):
        step = {"what": "memory", "method": method, "precision": "fp32", "steps": 1, **common}
        found.append({**step, "batch": small, "part": None})
        found += [{**step, "batch": large, "part": tokens} for tokens in arguments.tokens]
    for precision in ("fp32", "bf16"):
        step = {"what": "speed", "precision": precision, "steps": arguments.steps, "batch": large, **common}
        found += [{**step, "method": PEER, "part": rows} for rows in arguments.peer_rows]
        found += [{**step, "method": "full", "part": tokens} for tokens in arguments.tokens]
    return [work for work in found if arguments.only in (None, part_of(work))]


def part_of(work: dict[str, Any]) -> str:
    """Return which part of the comparison a piece of work is: memory, or the precision of speed."""
    part: str = "memory" if work["what"] == "memory" else work["precision"]
    return part


def kept(work: dict[str, Any]) -> dict[str, Any]:
    """Return a piece of work as the results name it: the command says which data."""
    return {name: value for name, value in work.items() if name != "data"}


def in_process(work: dict[str, Any]) -> dict[str, float]:
    """Measure in a fresh process, so that nobody's memory or caches count for another."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, "--worker", json.dumps(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure everything in turn, round after round; return one row a piece of work."""
    planned = works(arguments)
    seen: list[list[dict[str, float]]] = [[] for _ in planned]
    for number in range(arguments.rounds):
        for work, results in zip(planned, seen, strict=True):
            if work["what"] == "memory" and number:
                continue
            results.append(in_process(work))
            print(f"round {number + 1}: {work}: {results[-1]}", file=sys.stderr, flush=True)
    return [
        {**kept(work), **{name: statistics.median(run[name] for run in runs) for name in runs[0]}}
        for work, runs in zip(planned, seen, strict=True)
    ]


def memory_table(rows: list[dict[str, Any]]) -> str:
    """Return the growth of memory, and its ratio to that of the small batch without caching."""
    measured = [row for row in rows if row["what"] == "memory"]
    small = {row["method"]: row["growth_mb"] for row in measured if not row["part"]}
    lines = ["| strategy | batch | mini-batch tokens | growth in MB | over the small batch |"]
    lines += ["|---|---|---|---|---|"]
    for row in measured:
        ratio = row["growth_mb"] / small[row["method"]]
        part = row["part"] or "no caching"
        lines.append(f"| {row['method']} | {row['batch']} | {part} | {row['growth_mb']:.0f} | {ratio:.2f} |")
    return "\n".join(lines)


def speed_table(rows: list[dict[str, Any]]) -> str:
    """Return the seconds of a step, and how many times as fast as the fastest peer that is."""
    lines = ["| precision | method | mini-batch | seconds a step | speed over the fastest peer |"]
    lines += ["|---|---|---|---|---|"]
    for row in (row for row in rows if row["what"] == "speed"):
        peers = [r for r in rows if r["method"] == PEER and r["precision"] == row["precision"]]
        ratio = min(r["seconds"] for r in peers) / row["seconds"]
        of_peer = row["method"] == PEER
        name = PEER if of_peer else f"ElasticLoss, {row['method']}"
        part = f"{row['part']} {'rows' if of_peer else 'tokens'}"
        lines.append(f"| {row['precision']} | {name} | {part} | {row['seconds']:.2f} | {ratio:.2f} |")
    return "\n".join(lines)


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page of results: each part with the command, machine and date that made it."""
    made = {part_of(row): row for row in rows}
    parts_by: dict[str, list[str]] = {}
    for part, row in made.items():
        machine = f"{row['processor']}, {row['threads']} threads, torch {row['torch']}, {row['date']}"
        parts_by.setdefault(f"`{row['command']}`, seed 0; {machine}", []).append(part)
    sources = [f"- {', '.join(parts)}: {source}" for source, parts in parts_by.items()]
    tables = [memory_table(rows)] if "memory" in made else []
    tables += [speed_table(rows)] if len(made) > len(tables) else []
    introduction = (
        "Memory is that of a whole first step in fp32, gradients and optimizer included, over what was\n"
        f"resident before it. The peer is sentence-transformers' {PEER}."
    )
    title = "# Large batches: memory and speed of gradient caching"
    return "\n\n".join([title, introduction, "\n".join(sources), *tables]) + "\n"


def main() -> None:
    """Measure one piece of work as a worker, or compare all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="JSONL file of triplets; sentences of Python's documentation by default"
    )
    parser.add_argument("--small", type=int, default=SMALL, help="batch without caching")
    parser.add_argument("--large", type=int, default=LARGE, help="batch with caching")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024], help="tokens of our mini-batches")
    parser.add_argument("--peer-rows", type=int, nargs="+", default=[32, 128], help="rows of the peer's")
    parser.add_argument("--steps", type=int, default=2, help="steps a run; the first does not count")
    parser.add_argument("--rounds", type=int, default=2, help="runs of every method, for speed")
    parser.add_argument("--only", choices=PARTS, help="measure one part; the others stay as they were")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(json.loads(arguments.worker))))
        return
    made_by = {**facts(), "command": command(arguments)}
    rows = [{**made_by, **row} for row in compare(arguments)]
    print(page(write(rows, RESULTS)))


def command(arguments: argparse.Namespace) -> str:
    """Return the command that measures the same again; data go by the name of their file."""
    words = ["python benchmarks/large_batches.py"]
    words += [f"--tokens {' '.join(map(str, arguments.tokens))}"]
    words += [f"--peer-rows {' '.join(map(str, arguments.peer_rows))}"]
    words += [f"--{name} {getattr(arguments, name)}" for name in ("small", "large", "steps", "rounds")]
    words += [f"--data {Path(arguments.data).name}"] if arguments.data else []
    return " ".join(words)


def write(rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Write the rows beside those of other parts that are there already; return all."""
    file = folder / "large_batches.json"
    new = {part_of(row) for row in rows}
    old = json.loads(file.read_text()) if file.is_file() else []
    kept = [row for row in old if part_of(row) not in new]
    rows = sorted([*rows, *kept], key=lambda row: PARTS.index(part_of(row)))
    file.write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "large_batches.md").write_text(page(rows))
    return rows


if __name__ == "__main__":
    main()
