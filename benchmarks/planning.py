"""Does a plan keep its word? Twenty budgets, judged on fresh measurements that the plan never saw.

    python benchmarks/planning.py --model FOLDER --sts FOLDER [--engine auto] [--state FILE]

1. Quality with intervals of every size and index precision, on the test rows of the STS sets.
2. The costs that the plans go by, measured as `matryoshka2d plan` does, on one half of the sentences.
3. Fresh measurements in a later step, on the other half: all sizes take turns, every width of its own.
4. Budgets drawn at random from a fixed seed: one to three limits each, of latency, throughput, index and
   quality. Those that no size satisfies are counted apart; the first twenty others are judged:
   - the chosen size obeys: its fresh p95 and throughput are within 15% of the limit, its index within it, and
     the lower end of its quality's interval reaches the floor;
   - no size that obeys by the fresh measurements is better by the paired interval. Without a quality floor,
     better is higher quality. With one, all that reach it are good enough, and better is less of the scarcest
     resource.

Steps 1 to 3 are kept in the state file; a run that is cut short goes on from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from machine import facts
from matryoshka2d import ElasticEncoder, Size
from matryoshka2d.cli.common import quiet_libraries
from matryoshka2d.evaluation import read_sts
from matryoshka2d.evaluation.cost import (
    INDEX_PRECISIONS,
    Cost,
    Costs,
    measure_costs,
    time_many_texts,
    time_single_texts,
)
from matryoshka2d.evaluation.quality import Quality, labelled_qualities
from matryoshka2d.inference import open_engine
from matryoshka2d.planning import Budget, Plan
from matryoshka2d.planning.budget import LATENCY, THROUGHPUT, Row, constraints_of
from matryoshka2d.planning.choose import obeys

RESULTS = Path(__file__).resolve().parent / "results"
BUDGETS = 20
TOLERANCE = 0.15
TEXTS = 512
RESAMPLES = 2000

State = dict[str, Any]


# --- measuring ----------------------------------------------------------------------------------------


def measure_quality(model: str, sts: str, state: State) -> None:
    """Add the quality of every index precision."""
    encoder = ElasticEncoder(model, device="cpu")
    found = labelled_qualities(encoder, read_sts(sts), name=Path(model).name)
    state["quality"] = {precision: quality.to_dict() for precision, quality in found.items()}


def halves(sts: str) -> tuple[list[str], list[str]]:
    """Return two samples of distinct sentences of the test rows that have none in common."""
    texts = list(dict.fromkeys(text for one in read_sts(sts) for text in (*one.sentence1, *one.sentence2)))
    drawn = np.random.default_rng(0).permutation(len(texts))[: 2 * TEXTS]
    return [texts[i] for i in drawn[:TEXTS]], [texts[i] for i in drawn[TEXTS:]]


def measure_planned_costs(arguments: argparse.Namespace, state: State) -> None:
    """Add the cost of every depth, as a plan measures it."""
    engine = open_engine(arguments.model, arguments.engine, arguments.precision, "cpu")
    texts, _ = halves(arguments.sts)
    details = {"engine": engine.name, "precision": engine.precision}
    costs = measure_costs(
        engine, range(1, engine.depth + 1), texts, seconds=arguments.seconds, details=details
    )
    state["costs"] = costs.to_dict()


def measure_fresh(arguments: argparse.Namespace, state: State) -> None:
    """Add timings of every size by itself: single texts in turn; and texts a second of every depth."""
    engine = open_engine(arguments.model, arguments.engine, arguments.precision, "cpu")
    _, texts = halves(arguments.sts)
    sizes = qualities(state)["float32"].sizes
    timings = time_single_texts(engine.embed, sizes, texts, seconds=arguments.fresh_seconds, seed=1)
    full = [size for size in sizes if size.dims == engine.width]
    rates = time_many_texts(engine.embed, full, texts[:256], seed=1)
    state["timings"] = {str(size): [round(t, 7) for t in values.tolist()] for size, values in timings.items()}
    state["rates"] = {str(size): rates[Size(size.layers, engine.width)] for size in sizes}


def qualities(state: State) -> dict[str, Quality]:
    """Return index precision → quality."""
    return {precision: Quality.from_dict(values) for precision, values in state["quality"].items()}


def planned_costs(state: State) -> Costs:
    """Return the costs that plans go by."""
    names = ("latency_p50", "latency_p95", "throughput")
    depths = {
        int(n): Cost(*(values[name] for name in names)) for n, values in state["costs"]["depths"].items()
    }
    return Costs(depths, {})


# --- budgets ------------------------------------------------------------------------------------------


def drawn_budgets(costs: Costs, seed: int = 0) -> Iterator[Budget]:
    """Yield budgets without end: limits within what some size can and some cannot do."""
    random = np.random.default_rng(seed)
    latencies = [cost.latency_p95 for cost in costs.depths.values()]
    rates = [cost.throughput for cost in costs.depths.values()]
    while True:
        kinds = random.permutation(["latency", "throughput", "index", "quality"])[: random.integers(1, 4)]
        limits: dict[str, Any] = {"precision": str(random.choice(list(INDEX_PRECISIONS)))}
        if "latency" in kinds:
            limits["max_latency"] = float(random.uniform(0.9 * min(latencies), 1.1 * max(latencies)))
        if "throughput" in kinds:
            limits["min_throughput"] = float(random.uniform(0.9 * min(rates), 1.1 * max(rates)))
        if "index" in kinds:
            limits["documents"] = int(10 ** random.uniform(5, 8))
            bits = 2 ** random.uniform(3, np.log2(32 * 400))
            limits["max_index"] = float(limits["documents"] * bits / 8)
        if "quality" in kinds:
            limits["min_quality"] = round(float(random.uniform(0.80, 0.995)), 3)
        yield Budget(**limits)


# --- judging ------------------------------------------------------------------------------------------


def fresh_row(row: Row, state: State) -> Row:
    """Return a row of a plan with its costs as they were measured afresh."""
    timings = state["timings"][str(row.size)]
    return replace(
        row,
        latency_p50=float(np.percentile(timings, 50)),
        latency_p95=float(np.percentile(timings, 95)),
        throughput=state["rates"][str(row.size)],
    )


def judge(plan: Plan, state: State) -> dict[str, Any]:
    """Return whether the chosen size obeys afresh, and which obeying sizes are better."""
    assert plan.row is not None
    fresh = {row.size: fresh_row(row, state) for row in plan.rows}
    chosen = fresh[plan.row.size]
    uses = {one.field: one.use(chosen) for one in constraints_of(plan.budget)}
    slack = {LATENCY.field: TOLERANCE, THROUGHPUT.field: TOLERANCE}
    obeying = [row for row in fresh.values() if obeys(row, plan.budget) and row.size != chosen.size]
    higher = [row.size for row in obeying if plan.quality.better(row.size, chosen.size)]
    cheaper = [row.size for row in obeying if is_cheaper(row, chosen, plan, state, len(obeying))]
    better = higher if plan.budget.min_quality is None else cheaper
    return {
        "budget": str(plan.budget),
        "chosen": str(plan.size),
        "scarcest": plan.choice.scarcest.resource.name if plan.choice.scarcest else None,
        "kept": round(plan.row.kept, 4),
        "kept_low": round(plan.row.kept_low, 4),
        "planned_p95_ms": round(1000 * plan.row.latency_p95, 3),
        "fresh_p95_ms": round(1000 * chosen.latency_p95, 3),
        "share_of_limit": {name: round(use, 3) for name, use in uses.items()},
        "obeys": all(use <= 1 + slack.get(name, 1e-9) for name, use in uses.items()),
        "obeys_strictly": all(use <= 1 + 1e-9 for use in uses.values()),
        "obeying_sizes": len(obeying) + int(obeys(chosen, plan.budget)),
        "better": [str(size) for size in better],
        "better_only_afresh": not any(row.size in better for row in plan.choice.obeying),
        "of_higher_quality": [str(size) for size in higher],
    }


def is_cheaper(row: Row, chosen: Row, plan: Plan, state: State, rivals: int) -> bool:
    """Return whether a size uses less of the scarcest resource; times by a paired interval over turns."""
    scarcest = plan.choice.scarcest
    resource = scarcest.resource if scarcest is not None else LATENCY
    if resource is not LATENCY:
        # Index bytes are computed. Rates are medians of few rounds: within 5% they count as equal.
        return resource.cost(row) < resource.cost(chosen) * (0.95 if resource is THROUGHPUT else 1)
    own, its = (np.array(state["timings"][str(one.size)]) for one in (chosen, row))
    random = np.random.default_rng(0)
    turns = random.integers(len(own), size=(RESAMPLES, len(own)))
    leads = np.percentile(own[turns], 95, axis=1) - np.percentile(its[turns], 95, axis=1)
    return bool(np.quantile(leads, 0.025 / max(1, rivals)) > 0)


def widths_alike(state: State) -> dict[str, float]:
    """Return depth → the largest p50 of its widths over the smallest."""
    medians: dict[int, list[float]] = {}
    for size, values in state["timings"].items():
        medians.setdefault(Size.parse(size).layers, []).append(float(np.median(values)))
    return {str(n): round(max(values) / min(values), 3) for n, values in sorted(medians.items())}


def result_of(arguments: argparse.Namespace, state: State) -> dict[str, Any]:
    """Return the judgment of all budgets."""
    known, costs = qualities(state), planned_costs(state)
    judged: list[dict[str, Any]] = []
    nothing = 0
    for budget in drawn_budgets(costs):
        plan = Plan(budget, known[budget.precision], costs, Path(arguments.model).name)
        if plan.row is None:
            nothing += 1
        else:
            judged.append(judge(plan, state))
        if len(judged) == BUDGETS:
            break
    return {
        **state["facts"],
        "engine": state["costs"]["engine"],
        "precision": state["costs"]["precision"],
        "quality": dict(known["float32"].units),
        "timings_a_size": len(next(iter(state["timings"].values()))),
        "budgets": len(judged),
        "drawn_without_a_size": nothing,
        "obey_within_15_percent": sum(one["obeys"] for one in judged),
        "obey_strictly": sum(one["obeys_strictly"] for one in judged),
        "none_better": sum(not one["better"] for one in judged),
        "p50_of_widths_max_over_min": widths_alike(state),
        "depths": {
            n: {
                "planned_p95_ms": round(1000 * cost.latency_p95, 3),
                "fresh_p95_ms": round(
                    1000 * float(np.percentile(state["timings"][f"{n}x{_width(state)}"], 95)), 3
                ),
            }
            for n, cost in costs.depths.items()
        },
        "plans": judged,
    }


def _width(state: State) -> int:
    return max(Size.parse(size).dims for size in state["timings"])


# --- writing ------------------------------------------------------------------------------------------


def page(result: Mapping[str, Any]) -> str:
    """Return the result as Markdown."""
    count = result["budgets"]
    lines = [
        "# Twenty budgets, judged afresh",
        "",
        "Made by `python benchmarks/planning.py --model MODEL --sts STS`; the model is the default one "
        "trained on 20,000 NLI triplets, seed 0.",
        "",
        f"{result['engine']} {result['precision']}, {result['processor']}, {result['threads']} threads, "
        f"{result['date']}; quality on {sum(result['quality'].values()):,} pairs of "
        f"{', '.join(result['quality'])}; {result['timings_a_size']} timings a size, all sizes in turn, on "
        "sentences that the plan was not timed on.",
        "",
        f"- The chosen size obeys its budget within 15% in **{result['obey_within_15_percent']} of {count}** "
        f"(strictly in {result['obey_strictly']}).",
        f"- No measured size that obeys is better by the paired interval in **{result['none_better']} of "
        f"{count}**. Better is higher quality where the budget sets no floor, and less of the scarcest "
        "resource where it does.",
        *[
            f"  {one['budget']}: {', '.join(one['better'])} obeyed in the fresh measurements, not in those "
            "that the plan went by: it stands on the limit."
            for one in result["plans"]
            if one["better"] and one["better_only_afresh"]
        ],
        f"- {result['drawn_without_a_size']} more budgets were drawn that no size satisfies.",
        "- Largest over smallest median latency of the widths of one depth: "
        + ", ".join(f"{n} layers {ratio}" for n, ratio in result["p50_of_widths_max_over_min"].items())
        + ".",
        "",
        "| budget | chosen | scarcest | kept (low) | planned p95 ms | fresh p95 ms | of the limit | better |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in result["plans"]:
        cells = [
            one["budget"],
            one["chosen"],
            one["scarcest"] or "–",
            f"{one['kept']:.1%} ({one['kept_low']:.1%})",
            one["planned_p95_ms"],
            one["fresh_p95_ms"],
            f"{max(one['share_of_limit'].values()):.2f}" + ("" if one["obeys"] else " **over**"),
            ", ".join(one["better"]) or "none",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


STEPS = ("quality", "costs", "timings")


def main() -> None:
    """Go on from the state file, and judge when everything is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of an elastic model")
    parser.add_argument("--sts", required=True, help="folder of STS files")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seconds", type=float, default=20.0, help="timing that the plans go by")
    parser.add_argument("--fresh-seconds", type=float, default=60.0, help="timing that they are judged on")
    parser.add_argument("--state", type=Path, default=Path("planning-state.json"))
    parser.add_argument("--only", choices=[*STEPS, "judge"], help="one step, and stop")
    arguments = parser.parse_args()
    quiet_libraries()
    state: State = json.loads(arguments.state.read_text()) if arguments.state.exists() else {}
    work = {
        "quality": lambda: measure_quality(arguments.model, arguments.sts, state),
        "costs": lambda: measure_planned_costs(arguments, state),
        "timings": lambda: measure_fresh(arguments, state),
    }
    for step in STEPS:
        if step not in state and arguments.only in (None, step):
            work[step]()
            state["facts"] = facts()
            arguments.state.write_text(json.dumps(state))
    if all(step in state for step in STEPS) and arguments.only in (None, "judge"):
        result = result_of(arguments, state)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "planning.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "planning.md").write_text(page(result))
        print(page(result))


if __name__ == "__main__":
    main()
