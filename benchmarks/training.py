"""Training speed and memory: every strategy against sentence-transformers' Matryoshka2dLoss, in one run.

    python benchmarks/training.py [--data TRIPLETS.jsonl --output training-nli]
    python benchmarks/training.py --busy 1 --output training-busy

With --busy every method is also measured beside processes that do nothing but count.

Same model, data, batch, precision, optimizer and dropout for all. Each method runs in a process of its own,
the methods take turns, and the median of the rounds counts. Results go to ``results/training.json`` and to
``results/training.md``, or to files of another name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from language_reference import sentences
from machine import facts

RESULTS = Path(__file__).resolve().parent / "results"
PEER = "sentence-transformers Matryoshka2dLoss"
STRATEGIES = ("full", "mrl", "2dmse", "ese", "starbucks", "matryoshka2d", "all-sizes", "all-sizes + heads")
BATCH, WARM_UP, MAX_LENGTH = 64, 3, 128


def triplets(data: str | None, count: int) -> dict[str, list[str]]:
    """Return columns of triplets: of a file, or sentences of Python's language reference."""
    if data:
        with Path(data).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
        return {name: [row[name] for row in rows] for name in ("anchor", "positive", "negative")}
    known = sentences()
    # Every column starts elsewhere, so that no row has a text twice.
    starts = {"anchor": 0, "positive": len(known) // 3, "negative": 2 * len(known) // 3}
    return {name: list(islice(cycle(known), start, start + count)) for name, start in starts.items()}


def trainer_arguments(folder: str, batch: int, bf16: bool) -> Any:
    """Return the settings of the trainer, the same for every method and library that is compared."""
    from sentence_transformers import SentenceTransformerTrainingArguments

    return SentenceTransformerTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        learning_rate=2e-5,
        optim="adamw_torch_fused",
        bf16=bf16,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )


def measure(method: str, dropout: float, bf16: bool, steps: int, data: str | None) -> dict[str, float]:
    """Train for some steps in this process; return seconds a step and peak memory in MB over the start."""
    from datasets import Dataset
    from transformers import TrainerCallback

    from matryoshka2d.cli.common import quiet_libraries

    quiet_libraries()
    rows = Dataset.from_dict(triplets(data, BATCH * (steps + WARM_UP)))
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = trainer_arguments(folder, BATCH, bf16)
        prepare = peer if method == PEER else ours
        with prepare(method, dropout, arguments, rows) as trainer:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            trainer.add_callback(Clock())
            trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = [later - earlier for earlier, later in zip(times[WARM_UP - 1 :], times[WARM_UP:], strict=False)]
    return {"seconds": statistics.fmean(spent), "memory": (peak - before) / 1024}


class Prepared:
    """A trainer in the settings that it runs in, as a context."""

    def __init__(self, steps: Callable[[], Iterator[Any]]) -> None:
        self.steps = steps()

    def __enter__(self) -> Any:
        return next(self.steps)

    def __exit__(self, *_: object) -> None:
        next(self.steps, None)


def peer(_: str, dropout: float, arguments: Any, rows: Any) -> Prepared:
    """Prepare the library's own 2D loss in its own trainer, as its documentation shows it."""
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer import losses

    from matryoshka2d.encoder.default_model import default_model_path
    from matryoshka2d.size import default_dims
    from matryoshka2d.training.model_settings import set_dropout

    def steps() -> Iterator[Any]:
        model = SentenceTransformer(default_model_path(), device="cpu")
        model.max_seq_length = MAX_LENGTH
        set_dropout(model[0].model, dropout)
        base = losses.MultipleNegativesRankingLoss(model)
        loss = losses.Matryoshka2dLoss(model, base, list(default_dims(384)))
        yield SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)

    return Prepared(steps)


def ours(method: str, dropout: float, arguments: Any, rows: Any) -> Prepared:
    """Prepare one of our strategies, in the settings that `train` uses."""
    from matryoshka2d.encoder.default_model import default_model_path
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.losses.elastic_loss import ElasticLoss
    from matryoshka2d.training.model_settings import set_dropout, training_settings
    from matryoshka2d.training.trainer import ElasticTrainer

    def steps() -> Iterator[Any]:
        encoder = ElasticEncoder(default_model_path(), device="cpu")
        strategy, plus, _ = method.partition(" + ")
        if plus:
            encoder.add_heads()
        set_dropout(encoder.base, dropout)
        with training_settings(encoder, MAX_LENGTH, on_cpu=True):
            loss = ElasticLoss(encoder, "infonce", strategy)
            yield ElasticTrainer(model=encoder, args=arguments, train_dataset=rows, loss=loss)

    return Prepared(steps)


def in_process(method: str, dropout: float, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure in a fresh process, so that nobody's memory or caches count for another."""
    command = [sys.executable, __file__, "--worker", method, "--dropout", str(dropout)]
    command += ["--steps", str(arguments.steps), "--precision", arguments.precision]
    command += ["--data", arguments.data] if arguments.data else []
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Let so many processes count meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every method in turn, round after round; return one row a method and dropout."""
    # `full` is what the others are compared with.
    methods = tuple(dict.fromkeys((PEER, "full", *(arguments.methods or STRATEGIES))))
    seen: dict[tuple[str, float], list[dict[str, float]]] = {}
    for number in range(arguments.rounds):
        for dropout in (0.1, 0.0):
            for method in methods:
                result = in_process(method, dropout, arguments)
                if arguments.busy:
                    with busy(arguments.busy):
                        result["busy seconds"] = in_process(method, dropout, arguments)["seconds"]
                seen.setdefault((method, dropout), []).append(result)
                print(
                    f"round {number + 1}: {method}, dropout {dropout}: {result}", file=sys.stderr, flush=True
                )
    middle = {
        key: {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        for key, runs in seen.items()
    }
    return [row(method, dropout, middle) for method, dropout in seen]


def row(method: str, dropout: float, middle: dict[tuple[str, float], dict[str, float]]) -> dict[str, Any]:
    """Return a method's figures beside those of the peer and of `full`."""
    own, peers, full = (middle[name, dropout] for name in (method, PEER, "full"))
    slower = {"times_slower_when_busy": own["busy seconds"] / own["seconds"]} if "busy seconds" in own else {}
    return {
        **slower,
        "method": method,
        "dropout": dropout,
        "triplets_per_second": BATCH / own["seconds"],
        "speed_over_peer": peers["seconds"] / own["seconds"],
        "time_over_full": own["seconds"] / full["seconds"],
        "memory_over_full": own["memory"] / full["memory"],
        "memory_mb": own["memory"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as markdown."""
    header = "| method | dropout | triplets/s | speed over peer | time over full | memory over full | MB |"
    lines = [f"{header} times slower when busy |", "|---|---|---|---|---|---|---|---|"]
    for r in sorted(rows, key=lambda r: -r["dropout"]):
        slower = r.get("times_slower_when_busy")
        lines.append(
            f"| {r['method']} | {r['dropout']:g} | {r['triplets_per_second']:.1f} | "
            f"{r['speed_over_peer']:.2f} | "
            f"{r['time_over_full']:.2f} | {r['memory_over_full']:.2f} | {r['memory_mb']:,.0f} | "
            f"{'' if slower is None else f'{slower:.2f}'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure one method as a worker, or compare all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="JSONL file of triplets; sentences of Python's documentation by default"
    )
    parser.add_argument("--output", default="training", help="name of the result files")
    parser.add_argument("--steps", type=int, default=15, help="counted steps a run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every method")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--busy", type=int, default=0, help="processes that count beside, in a second run")
    parser.add_argument("--methods", nargs="+", choices=STRATEGIES, help="default: all")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--dropout", type=float, default=0.1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        bf16 = arguments.precision == "bf16"
        print(json.dumps(measure(arguments.worker, arguments.dropout, bf16, arguments.steps, arguments.data)))
        return
    rows = compare(arguments)
    made_by = {
        **facts(),
        "data": Path(arguments.data).name if arguments.data else "sentences of Python's documentation",
        "precision": arguments.precision,
        "batch": BATCH,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "busy": arguments.busy,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{arguments.output}.json").write_text(json.dumps({**made_by, "rows": rows}, indent=1) + "\n")
    options = f" --data DATA/{made_by['data']}" if arguments.data else ""
    options += f" --output {arguments.output}" if arguments.output != "training" else ""
    options += f" --precision {arguments.precision} --steps {arguments.steps} --rounds {arguments.rounds}"
    options += f" --busy {arguments.busy}" if arguments.busy else ""
    options += f" --methods {' '.join(arguments.methods)}" if arguments.methods else ""
    page = f"# Training speed and memory\n\nMade by `python benchmarks/training.py{options}`. "
    page += f"The peer is {PEER}.\n\n`{json.dumps(made_by)}`\n\n"
    (RESULTS / f"{arguments.output}.md").write_text(page + table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
