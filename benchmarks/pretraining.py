"""Pretraining measured: the same fine-tuning of a 4-layer encoder, with and without `pretrain` before it.

    python benchmarks/pretraining.py --texts FILE... --triplets FILE --sts FOLDER

The encoder is all-MiniLM-L6-v2 cut to its first 4 layers. For each seed it is fine-tuned with the strategy
``starbucks`` on some triplets, once as it is and once after pretraining on texts drawn from the files; all
else is equal. The grid is judged on the test split of the STS sets. What is done stays in a work folder, so
that a stopped run goes on. Results go to ``results/pretraining.json`` and to ``results/pretraining.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from machine import facts

RESULTS = Path(__file__).resolve().parent / "results"
LAYERS = 4
PLAIN, PRETRAINED = "fine-tuned", "pretrained, fine-tuned"


def drawn(files: list[str], count: int, seed: int, target: Path) -> str:
    """Write texts drawn from all text columns of the files, each text once; return the file."""
    from matryoshka2d_reproduction.pretraining.corpus import read_corpus

    texts = random.Random(seed).sample(read_corpus(files)["text"][:], count)
    target.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(target)


def drawn_lines(file: str, count: int, seed: int, target: Path) -> str:
    """Write lines drawn from a file; return the new file."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    target.write_text("\n".join(random.Random(seed).sample(lines, count)) + "\n")
    return str(target)


def body(work: Path) -> str:
    """Return the folder of the encoder that both start from."""
    from matryoshka2d.encoder.default_model import default_model_path
    from matryoshka2d.encoder.elastic import ElasticEncoder

    folder = work / "body"
    if not folder.is_dir():
        encoder = ElasticEncoder(default_model_path(), device="cpu")
        encoder.truncate(f"{LAYERS}x{encoder.width}").save(str(folder))
    return str(folder)


def pretrained(start: str, work: Path, seed: int, arguments: argparse.Namespace) -> tuple[str, float]:
    """Pretrain the encoder; return its folder and the processor seconds that took."""
    from matryoshka2d_reproduction.pretraining import pretrain

    texts = drawn(arguments.texts, arguments.count, seed, work / "texts.jsonl")
    output = str(work / f"pretrained-{seed}")
    before = time.process_time()
    pretrain(
        model=start,
        data=texts,
        output=output,
        seed=seed,
        predictions=arguments.predictions,
        learning_rate=arguments.learning_rate,
        checkpoints=False,
        report_to="none",
        overwrite=True,
        device="cpu",
        quiet=True,
    )
    return output, time.process_time() - before


def tuned(model: str, work: Path, seed: int, arguments: argparse.Namespace) -> Any:
    """Fine-tune a model with `starbucks`; the same for both."""
    from matryoshka2d.training import train

    triplets = drawn_lines(arguments.triplets, arguments.rows, seed, work / "triplets.jsonl")
    return train(
        model=model,
        data=triplets,
        output=str(work / "tuned"),
        strategy="starbucks",
        # The form for a model that ends in a Normalize module.
        strategy_options={"alignment": "retrieval"},
        seed=seed,
        checkpoints=False,
        report_to="none",
        overwrite=True,
        device="cpu",
        quiet=True,
    )


def scores(encoder: Any, sts: str) -> dict[str, float]:
    """Return size → Spearman x100, averaged over the test sets."""
    from matryoshka2d.evaluation import read_sts, sts_grid
    from matryoshka2d.size import default_sizes

    grid = sts_grid(encoder, read_sts(sts), sizes=default_sizes(encoder.depth, encoder.width))
    return {str(size): value for size, value in grid.values().items()}


def measure(arguments: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Return one row a method and seed; those that are in the work folder are not made again."""
    from matryoshka2d.encoder.elastic import ElasticEncoder

    start = body(work)
    rows = []
    for seed in range(arguments.seeds):
        for method in (PLAIN, PRETRAINED):
            file = work / f"{method.replace(', ', '-')}-{seed}.json"
            if not file.is_file():
                model, seconds = (start, 0.0) if method == PLAIN else pretrained(start, work, seed, arguments)
                before = time.process_time()
                encoder = tuned(model, work, seed, arguments)
                spent = {"pretraining": round(seconds), "fine-tuning": round(time.process_time() - before)}
                found = scores(encoder, arguments.sts)
                file.write_text(
                    json.dumps({"method": method, "seed": seed, "seconds": spent, "scores": found})
                )
                print(f"{method}, seed {seed}: {spent}", file=sys.stderr, flush=True)
            rows.append(json.loads(file.read_text()))
    untouched = work / "untouched.json"
    if not untouched.is_file():
        found = scores(ElasticEncoder(start, device="cpu"), arguments.sts)
        untouched.write_text(json.dumps({"method": "cut, untouched", "seed": None, "scores": found}))
    return [*rows, json.loads(untouched.read_text())]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the scores of the trained sizes, their mean and the grid's, with the intervals of the lead."""
    from matryoshka2d.losses.strategies.starbucks import default_pairs
    from matryoshka2d_reproduction.comparisons import seed_interval

    width = max(int(size.partition("x")[2]) for size in rows[0]["scores"])
    diagonal = [str(size) for size in default_pairs(LAYERS, width)]
    groups = {size: [size] for size in diagonal}
    groups |= {"mean of these": diagonal, f"mean of {len(rows[0]['scores'])} sizes": list(rows[0]["scores"])}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    by_method = {
        method: np.array(
            [
                [np.mean([row["scores"][size] for size in sizes]) for sizes in groups.values()]
                for row in rows
                if row["method"] == method
            ]
        )
        for method in methods
    }
    means = {method: found.mean(axis=0) for method, found in by_method.items()}
    lead, low, high = seed_interval(by_method[PRETRAINED], by_method[PLAIN])
    order = [methods[-1], *methods[:-1]]
    lines = [f"| size | {' | '.join(order)} | difference [95% interval] |", "|---" * (len(order) + 2) + "|"]
    for place, name in enumerate(groups):
        figures = " | ".join(f"{means[method][place]:.2f}" for method in order)
        lines.append(f"| {name} | {figures} | {lead[place]:+.2f} [{low[place]:+.2f}, {high[place]:+.2f}] |")
    return "\n".join(lines) + "\n"


def page(made_by: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the page of results."""
    seconds = [row["seconds"] for row in rows if row["method"] == PRETRAINED]
    minutes = {what: np.mean([one[what] for one in seconds]) / 60 for what in seconds[0]}
    m = made_by
    machine = f"{m['processor']}, {m['threads']} thread, torch {m['torch']}, {m['date']}"
    return (
        "# Pretraining before fine-tuning\n\n"
        f"all-MiniLM-L6-v2 cut to {LAYERS} layers, pretrained on {m['count']} texts and fine-tuned with\n"
        f"`starbucks` on {m['rows']} triplets; Spearman x100, mean of the test sets of\n{m['sets']};\n"
        f"mean of seeds 0 to {m['seeds'] - 1}. The interval is that of a paired t test\n"
        "over seeds. A run took "
        + " and ".join(f"{value:.1f} processor minutes of {what}" for what, value in minutes.items())
        + f".\n\n`{m['command']}`; {machine}\n\n"
        + table(rows)
    )


def command(arguments: argparse.Namespace) -> str:
    """Return the command that measures the same again; data go by the names of their files."""
    words = ["python benchmarks/pretraining.py --texts", *(Path(file).name for file in arguments.texts)]
    words += [f"--triplets {Path(arguments.triplets).name} --sts {Path(arguments.sts).name}"]
    words += [f"--{name} {getattr(arguments, name)}" for name in ("count", "rows", "seeds", "predictions")]
    return " ".join([*words, f"--learning-rate {arguments.learning_rate:g}"])


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", nargs="+", required=True, help="files whose texts are pretrained on")
    parser.add_argument("--triplets", required=True, help="JSONL file of triplets to fine-tune on")
    parser.add_argument("--sts", required=True, help="folder of STS sets")
    parser.add_argument("--count", type=int, default=20_000, help="texts that are drawn for each seed")
    parser.add_argument("--rows", type=int, default=8_000, help="triplets that are drawn for each seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--predictions", type=int, default=128, help="as the option of pretrain")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="that of pretraining")
    parser.add_argument("--work", default="pretraining-work", help="folder of what is done so far")
    arguments = parser.parse_args()

    from matryoshka2d.cli.common import quiet_libraries
    from matryoshka2d.evaluation import read_sts

    quiet_libraries()
    work = Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    rows = measure(arguments, work)
    made_by = {
        **facts(),
        "command": command(arguments),
        **{name: getattr(arguments, name) for name in ("count", "rows", "seeds")},
        "sets": ", ".join(pairs.name for pairs in read_sts(arguments.sts)),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pretraining.json").write_text(json.dumps({**made_by, "runs": rows}, indent=1) + "\n")
    (RESULTS / "pretraining.md").write_text(page(made_by, rows))
    print(page(made_by, rows))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
