"""Train methods over seeds on NLI triplets and judge them at 48 sizes on the seven STS sets.

    python benchmarks/quality.py --data NLI.jsonl --sts STS_FOLDER --methods all-sizes 2dmse --seeds 0 1 2

Every run is one JSON file under ``results/quality`` with the command that made it; a run that is there is not
repeated, so a killed benchmark goes on where it was. ``--table`` writes the table of what is there.
Each run uses the threads that OMP_NUM_THREADS allows, so several may run side by side on one machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from scipy import stats

from machine import facts
from matryoshka2d.cli.common import quiet_libraries
from matryoshka2d.default_model import default_model_path
from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.evaluation import Grid, read_sts, sts_grid
from matryoshka2d.files import staged_file
from matryoshka2d.report import heatmap, save_figure
from matryoshka2d.training import TrainingOptions, train
from matryoshka2d.training.model_card import command_of

SIZES = "1-6x8,16,32,64,128,192,256,384"
ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "results" / "quality"
PICTURE = ROOT / "docs" / "heatmap.png"
UNTOUCHED = "untouched"
SHOWN = ("6x384", "3x384", "3x128", "1x384", "1x32", "6x8", "1x8")


def run(method: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Train and judge one method with one seed, unless that was done before."""
    target = FOLDER / f"{method}-{seed}.json"
    if target.exists():
        return target
    options = TrainingOptions(
        data=[arguments.data],
        output="model",
        strategy=method,
        seed=seed,
        limit=arguments.limit,
        checkpoints=False,
    )
    sets = read_sts(arguments.sts)
    with tempfile.TemporaryDirectory() as folder:
        if method == UNTOUCHED:
            encoder = ElasticEncoder(default_model_path())
        else:
            encoder = train(dataclasses.replace(options, output=f"{folder}/model"), quiet=True)
    grid = sts_grid(encoder, sets, sizes=SIZES, name=method)
    write(target, grid, method, seed, "" if method == UNTOUCHED else shown(options))
    return target


def shown(options: TrainingOptions) -> str:
    """Return the command that repeats the training, with the data's name and not its place."""
    return command_of(dataclasses.replace(options, data=[Path(path).name for path in options.data]))


def write(target: Path, grid: Grid, method: str, seed: int, command: str) -> None:
    """Write one result with what made it."""
    result = {
        "method": method,
        "seed": seed,
        **facts(),
        "train": command,
        "mean_of_sizes": grid.mean_over_sizes(),
        **grid.to_dict(),
    }
    with staged_file(target) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def results() -> dict[str, list[dict[str, Any]]]:
    """Return method → the results of its seeds, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(FOLDER.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(result["method"], []).append(result)
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return a markdown table of every method: mean over seeds with its 95% interval."""
    first = {size: row["mean"] for size, row in found[UNTOUCHED][0]["grid"].items()}
    lines = [
        f"| method | seeds | mean of 48 | {' | '.join(SHOWN)} | inner sizes above untouched |",
        "|---|---|---|" + "---|" * (len(SHOWN) + 1),
    ]
    for method, runs in found.items():
        cells = [interval([run["mean_of_sizes"] for run in runs])]
        cells += [interval([run["grid"][size]["mean"] for run in runs]) for size in SHOWN]
        inner = [size for size in first if not size.startswith("6x")]
        risen = [size for size in inner if min(run["grid"][size]["mean"] for run in runs) > first[size]]
        lines.append(f"| {method} | {len(runs)} | {' | '.join(cells)} | {len(risen)} of {len(inner)} |")
    return "\n".join(lines) + "\n"


def interval(values: list[float]) -> str:
    """Return the mean and half the width of its 95% t interval over seeds."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    return f"{mean:.2f} ± {quantile * statistics.stdev(values) / len(values) ** 0.5:.2f}"


def mean_grid(runs: list[dict[str, Any]]) -> Grid:
    """Return the grid of the means over seeds."""
    grids = [Grid.from_dict(run) for run in runs]
    scores = {
        name: tuple(statistics.fmean(column) for column in zip(*(g.scores[name] for g in grids), strict=True))
        for name in grids[0].sets
    }
    return Grid(grids[0].sizes, scores, grids[0].metric, grids[0].cut, grids[0].name)


def picture(found: dict[str, list[dict[str, Any]]]) -> None:
    """Draw the untouched and the trained model side by side, for the README."""
    runs = found["all-sizes"]
    shown = {"untouched": mean_grid(found[UNTOUCHED]), f"trained, mean of {len(runs)} seeds": mean_grid(runs)}
    title = "all-MiniLM-L6-v2 at every size: mean Spearman x100 over seven STS sets"
    save_figure(heatmap(shown, title=title), PICTURE)


def main() -> None:
    """Run what was asked for, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="JSONL file of triplets: anchor, positive, negative")
    parser.add_argument("--sts", help="folder of the seven STS sets")
    parser.add_argument("--methods", nargs="*", default=[UNTOUCHED, "all-sizes", "2dmse"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=20_000)
    parser.add_argument("--table", action="store_true", help="only write the table of what is there")
    arguments = parser.parse_args()
    quiet_libraries()
    if not arguments.table:
        for seed in arguments.seeds:
            for method in arguments.methods:
                if method != UNTOUCHED or seed == arguments.seeds[0]:
                    print(run(method, seed, arguments), flush=True)
    found = results()
    with staged_file(FOLDER / "README.md") as temporary:
        temporary.write_text(_PAGE + table(found), encoding="utf-8")
    if "all-sizes" in found and UNTOUCHED in found:
        picture(found)


_PAGE = """# Quality at 48 sizes

all-MiniLM-L6-v2 trained on 20,000 NLI triplets (one epoch, batch 64), Spearman x100 averaged over STS12-16,
STS-B and SICK-R (test), at the sizes 1-6 x 8, 16, 32, 64, 128, 192, 256, 384. Mean over seeds with its 95% t
interval. Nothing was chosen on these sets: `results/dev-choice.md` has what was chosen and where. Each run's
file beside this page holds its command, versions, date and processor. Made by
`python benchmarks/quality.py --data FILE --sts FOLDER`.

"""

if __name__ == "__main__":
    main()
