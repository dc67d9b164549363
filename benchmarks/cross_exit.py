"""Cross-exit training against none: queries of every depth over one index at full depth.

    python benchmarks/cross_exit.py --data PAIRS.jsonl --retrieval BEIR_FOLDER --runs FOLDER

Both arms are trained on the same rows with the same seeds and settings; they differ in ``cross_exit`` alone,
whose weight is the recommended 1 and was not chosen on any set. The teacher is the full size as it is being
trained. A lead is that of cross-exit training, with 95% intervals over seeds and queries, paired in both.
The scores of each query are kept in the folder of runs: a killed benchmark goes on with what is missing.
Results go to ``results/cross_exit.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from machine import facts
from matryoshka2d import ElasticEncoder, train
from matryoshka2d.cli.common import quiet_libraries
from matryoshka2d.encoder.precision import best_precision
from matryoshka2d.evaluation import (
    Replicates,
    RetrievalSet,
    bootstrap_means,
    compare,
    read_retrieval,
    retrieval_scores,
)
from matryoshka2d.evaluation.grid import MEAN
from matryoshka2d.files import staged_file
from matryoshka2d.size import Size
from matryoshka2d_reproduction.keys import key_of, key_of_file

RESULTS = Path(__file__).resolve().parent / "results"
FULL_INDEX, SAME_SIZE = "over full depth", "over the same depth"
RESAMPLES = 10_000

Scores = dict[str, NDArray[np.float64]]


class EncodedOnce:
    """An encoder that keeps the vectors of every list of texts, computed in bf16 where there are units."""

    def __init__(self, encoder: ElasticEncoder) -> None:
        self.encoder = encoder
        self.depth, self.width = encoder.depth, encoder.width
        self.kept: dict[str, dict[int, NDArray[np.float32]]] = {}

    def exits(
        self, texts: Sequence[str], *, layers: Sequence[int] | None = None, **options: Any
    ) -> dict[int, NDArray[np.float32]]:
        """Return layer → vectors; the texts alone tell one list from another."""
        key = key_of(list(texts))
        if key not in self.kept:
            on_units = best_precision(str(self.encoder.device)).name == "bf16"
            with torch.autocast("cpu", torch.bfloat16, enabled=on_units):
                self.kept[key] = self.encoder.exits(texts, batch_size=options["batch_size"])
        return {n: self.kept[key][n] for n in layers or self.kept[key]}


def sizes_of(encoder: ElasticEncoder, dims: Iterable[int]) -> list[Size]:
    """Return every depth at some dims, ascending."""
    return sorted(Size(n, d) for n in range(1, encoder.depth + 1) for d in dims)


def measure(folder: Path, sets: Sequence[RetrievalSet], dims: Sequence[int], length: int) -> Scores:
    """Return the nDCG@10 of each query: ``set/case`` → float64 [queries, sizes]."""
    encoder = ElasticEncoder(str(folder), device="cpu")
    encoder.max_seq_length = length
    model, sizes = EncodedOnce(encoder), sizes_of(encoder, dims)
    scores = {}
    for one in sets:
        full = retrieval_scores(model, one, query_sizes=sizes)["prefix"]
        same = retrieval_scores(model, one, sizes=sizes)["prefix"]
        for case, found in ((FULL_INDEX, full), (SAME_SIZE, same)):
            scores[f"{one.name}/{case}"] = np.stack([found[size] for size in sizes], axis=1)
    return scores


def run(arguments: argparse.Namespace, sets: Sequence[RetrievalSet], weight: float, seed: int) -> Scores:
    """Train and measure one model, or read what an earlier call measured."""
    training = {
        "limit": arguments.limit,
        "batch_size": arguments.batch,
        "max_length": arguments.length,
        "cross_exit": weight,
        "seed": seed,
        "teacher": "self",
    }
    files = [key_of_file(path) for path in (*arguments.data, *arguments.retrieval)]
    key = key_of(training, files, arguments.dims, torch.__version__)
    name = f"cross-exit-{weight:g}-seed-{seed}-{key}"
    path, model = arguments.runs / f"{name}.npz", arguments.runs / name
    if not path.is_file():
        started = time.perf_counter()
        if not model.is_dir():
            options: dict[str, Any] = {"checkpoints": False, "report_to": "none", "device": "cpu"}
            train(data=arguments.data, output=str(model), **training, **options, quiet=True)
        trained = time.perf_counter()
        found = measure(model, sets, arguments.dims, arguments.length)
        with staged_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **found)
        shutil.rmtree(model)
        spent = f"{trained - started:.0f} s to train, {time.perf_counter() - trained:.0f} s to measure"
        print(f"cross_exit {weight:g}, seed {seed}: {spent}", file=sys.stderr, flush=True)
    with np.load(path) as kept:
        return {part: kept[part] for part in kept.files}


def replicates(runs: Sequence[Scores], names: Sequence[str], case: str) -> Replicates:
    """Return the resampled scores of one arm in one case: a row a seed."""
    tables = {name: np.stack([scores[f"{name}/{case}"] for scores in runs]) for name in names}
    return bootstrap_means(tables, resamples=RESAMPLES)


def compared(
    arms: Mapping[float, Sequence[Scores]], names: Sequence[str], dims: Sequence[int], weight: float
) -> list[dict[str, Any]]:
    """Return one entry a case, set and width: the scores of both arms at every depth, and the lead."""
    entries = []
    for case in (FULL_INDEX, SAME_SIZE):
        crossed, plain = (replicates(arms[arm], names, case) for arm in (weight, 0.0))
        columns = crossed.scores[names[0]].shape[1]
        for place in (*names, MEAN):
            for position, width in enumerate(dims):
                # Sizes are ascending: all widths of a depth stand side by side.
                own = range(position, columns, len(dims))
                pair = crossed.take(own), plain.take(own)
                lead = compare(*pair, set_name=place)
                sizes = [Size(n + 1, width) for n in range(len(own))]
                means = [arm.of(place)[0].mean(axis=0).round(4).tolist() for arm in pair]
                entry = {"case": case, "set": place, "dims": width, "with": means[0], "without": means[1]}
                entries.append({**entry, "lead": lead.to_dict(sizes)})
    return entries


def table(entries: Sequence[Mapping[str, Any]], place: str, width: int) -> str:
    """Return a depth a row: both arms over the full index, their lead, the same over a shallow index."""
    full, same = (
        next(e for e in entries if (e["case"], e["set"], e["dims"]) == (case, place, width))
        for case in (FULL_INDEX, SAME_SIZE)
    )
    heads = "without", "with cross-exit", "lead [95%]"
    titles = ["queries", *heads, *(f"same depth: {head}" for head in heads)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row, size in enumerate(full["lead"]["sizes"]):
        cells = [size]
        for entry in (full, same):
            cells += [f"{entry[arm][row]:.2f}" for arm in ("without", "with")]
            cells.append(interval(entry["lead"]["sizes"][size]))
        lines.append(f"| {' | '.join(cells)} |")
    means = [[f"{np.mean(e[arm]):.2f}" for arm in ("without", "with")] for e in (full, same)]
    leads = [interval(entry["lead"]["mean over sizes"]) for entry in (full, same)]
    cells = ["mean of depths", *means[0], leads[0], *means[1], leads[1]]
    return "\n".join([*lines, f"| {' | '.join(cells)} |"])


def interval(values: Sequence[float]) -> str:
    """Return an estimate with its interval; a star where the bounds for all depths at once leave out 0.

    >>> interval([1.5, 1.0, 2.0, 0.5, 2.5])
    '+1.50 [+1.00, +2.00] *'
    """
    estimate, low, high, *together = values
    sure = together and (together[0] > 0 or together[1] < 0)
    return f"{estimate:+.2f} [{low:+.2f}, {high:+.2f}]" + (" *" if sure else "")


def page(result: Mapping[str, Any]) -> str:
    """Return the page of results."""
    seeds = ", ".join(map(str, result["seeds"]))
    machine = f"{result['processor']}, threads: {result['threads']}, torch {result['torch']}"
    about = (
        "Mean nDCG@10 x100 of the queries of a depth over documents at full depth and, beside it, over\n"
        "documents at the queries' own depth; both sides have the same dims.\n\n"
        f"Default model, all-sizes with the teacher `self`,\n{result['rows']},\n"
        f"batch {result['batch']}, one epoch, {result['precision']}; the arms differ in `cross_exit` alone, "
        f"{result['weight']:g} or 0.\n"
        f"The weight was not tuned. Texts are cut at {result['length']} tokens.\n\n"
        "Lead: with less without, 95% over seeds and queries, paired in both. A star: the simultaneous\n"
        "interval of all depths of the column leaves out 0 too."
    )
    made = f"`{result['command']}`; seeds {seeds}; {machine}; {result['date']}."
    parts = ["# Cross-exit training: shallow queries over a full-depth index", made, about]
    several = [MEAN] if len(result["queries"]) > 1 else []
    for place in (*result["queries"], *several):
        count = result["queries"].get(place)
        title = f"{place}, {count} queries" if count else "Mean of the sets"
        for width in result["dims"]:
            parts += [f"## {title}, {width} dims", table(result["comparisons"], place, width)]
    return "\n\n".join(parts) + "\n"


def command(arguments: argparse.Namespace) -> str:
    """Return the command that measures the same again; files and folders go by their names."""
    words = ["python benchmarks/cross_exit.py"]
    words += [f"--data {Path(path).name}" for path in arguments.data]
    words += [f"--retrieval {Path(path).name}" for path in arguments.retrieval]
    words += [f"--runs RUNS --seeds {' '.join(map(str, arguments.seeds))}"]
    words += [f"--dims {' '.join(map(str, arguments.dims))}"]
    words += [f"--{name} {getattr(arguments, name)}" for name in ("weight", "batch", "length")]
    words += [f"--limit {arguments.limit}"] if arguments.limit else []
    return " ".join(words)


def main() -> None:
    """Train and measure both arms for every seed, compare, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", action="append", required=True, help="file of pairs or triplets; repeat")
    parser.add_argument("--retrieval", action="append", required=True, help="BEIR folder; repeat")
    parser.add_argument("--runs", type=Path, required=True, help="folder for scores, and models meanwhile")
    parser.add_argument("--limit", type=int, help="first rows of each file that are used; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--weight", type=float, default=1.0, help="of the cross-exit terms")
    parser.add_argument("--batch", type=int, default=64, help="rows a step")
    parser.add_argument("--length", type=int, default=128, help="tokens a text, in training and measuring")
    arguments = parser.parse_args()
    arguments.dims = sorted(arguments.dims)
    quiet_libraries()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    sets = [read_retrieval(folder) for folder in arguments.retrieval]
    arms: dict[float, list[Scores]] = {0.0: [], arguments.weight: []}
    for seed in arguments.seeds:
        for weight, runs in arms.items():
            runs.append(run(arguments, sets, weight, seed))
    files = ", ".join(Path(path).name for path in arguments.data)
    first = f"the first {arguments.limit} rows of each of" if arguments.limit else "all rows of"
    result = {
        **facts(),
        "command": command(arguments),
        "rows": f"{first} {files}",
        "precision": best_precision("cpu").name,
        **{name: getattr(arguments, name) for name in ("seeds", "dims", "weight", "batch", "length")},
        "resamples": RESAMPLES,
        "queries": {one.name: len(one.judged) for one in sets},
        "comparisons": compared(arms, [one.name for one in sets], arguments.dims, arguments.weight),
    }
    (RESULTS / "cross_exit.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "cross_exit.md").write_text(page(result))
    print(page(result))


if __name__ == "__main__":
    main()
