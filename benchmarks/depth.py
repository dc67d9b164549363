"""What search finds at few layers: nDCG@10, and the share of it that the full size finds and a size keeps.

    python benchmarks/depth.py --sets dev english --model untouched=default --model distill=FOLDER

Three ways to use a size ``n x d``:

- **same size**: queries and documents at ``n x d``;
- **full index**: queries at ``n x d`` over documents at full depth, an index that was there before;
- **rescored**: the best 100 of *same size*, put in order by the full-size vectors of queries and documents.

A share is of what the same model finds at full size. A mean of shares is the plain mean over sets. The first
interval is over queries, the sets being what they are; the second draws the sets anew too. Both are of 95 %,
and say nothing of seeds: a model is one run of training.

``dev`` sets are those that recipes may be chosen on; ``english`` and ``other`` ones are for reporting alone.
The folder of `--data` (or ``$MATRYOSHKA2D_DATA``) holds ``retrieval/NAME`` in BEIR form. Of a set with more
than 1,000 judged queries 1,000 are drawn, the same for every model.

A text is run once through each stack of layers: vectors wait in the user's cache under a key of the weights
that made them. So a model with other heads, or with a shallow tower, takes from there what it shares with the
untouched one. Results are written after every set; a killed run goes on with what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytrec_eval
from numpy.typing import NDArray

from machine import facts
from matryoshka2d import ElasticEncoder
from matryoshka2d.cli.common import quiet_libraries
from matryoshka2d.evaluation import RetrievalSet, bootstrap_means, ndcg, read_retrieval, retrieval_scores
from matryoshka2d.evaluation.cosine import block_cosines, top_k
from matryoshka2d.evaluation.exits import side_exits
from matryoshka2d.evaluation.own_documents import own_documents
from matryoshka2d.files import staged_file, user_cache
from matryoshka2d.inference.engine_exits import exits_in
from matryoshka2d.size import Size
from matryoshka2d_reproduction.keys import key_of, key_of_texts

RESULTS = Path(__file__).resolve().parent / "results"
GROUPS = {
    "dev": ("cisi", "squad_paragraphs", "cacm", "scifact/train"),
    "english": (
        *("time", "lisa", "pubmedqa", "xsum_test", "scifact", "npl", "nfcorpus_stopped", "dbpedia_pool"),
        *("squadshifts_wiki", "squadshifts_amazon", "squad_dev_sentences", "cosqa_test"),
    ),
    "other": (
        *("arcd_test", "persianqa_test", "tquad_dev", "cmrc2018_dev", "drcd_dev", "jaquad_dev"),
        *("korquad_dev", "xquad/ar", "xquad/de", "xquad/el", "xquad/es", "xquad/hi", "xquad/ro"),
        *("xquad/ru", "xquad/th", "xquad/tr", "xquad/vi", "xquad/zh"),
    ),
}
"""Group → sets, the quick ones first. After a slash stands a language, or another file of judgments."""

WAYS = ("same size", "full index", "rescored")
K, POOL, MOST_QUERIES, RESAMPLES = 10, 100, 1000, 2000

Floats = NDArray[np.float64]
Scores = dict[str, Floats]
"""``way/size`` → nDCG@10 of each judged query: float64 [queries]."""


# --- one pass a text --------------------------------------------------------------------------------------


class Stack:
    """The layers of a model and what follows them, without heads; vectors of its exits are kept on disk."""

    def __init__(self, encoder: ElasticEncoder, folder: Path, precision: str) -> None:
        self.heads = encoder.heads
        self.precision = precision
        self.plain = encoder.first_layers(encoder.depth)
        digest = hashlib.sha256(repr([self.plain.max_seq_length, self.plain.depth]).encode())
        for name, weight in sorted(self.plain.state_dict().items()):
            digest.update(name.encode() + weight.cpu().numpy().tobytes())
        self.key = f"{digest.hexdigest()[:16]}{'' if precision == 'fp32' else f'-{precision}'}"
        self.folder = folder / self.key

    def exits(self, texts: Sequence[str], prompt: str, layers: Sequence[int]) -> dict[int, Any]:
        """Return layer → float32 [texts, width], of unit length, behind the heads."""
        file = self.folder / f"{key_of(prompt, key_of_texts(texts))}.npy"
        if not file.is_file():
            found = exits_in(self.plain, self.precision).exits(texts, prompt=prompt)
            self.folder.mkdir(parents=True, exist_ok=True)
            with staged_file(file) as temporary, temporary.open("wb") as opened:
                np.save(opened, np.stack([found[n] for n in sorted(found)]))
        kept = np.load(file, mmap_mode="r")
        return {n: self._behind_head(np.array(kept[n - 1]), n) for n in layers}

    def _behind_head(self, vectors: Any, layer: int) -> Any:
        head = None if self.heads is None else self.heads.at(layer)
        if head is None:
            return vectors
        # A head is linear and has no bias: the length of what it takes makes no difference.
        turned = vectors @ head.linear.weight.detach().cpu().numpy().T
        return turned / np.linalg.norm(turned, axis=1, keepdims=True)


class KeptModel:
    """A model as the evaluation asks for it, of one stack, or of two where it has a shallow tower."""

    def __init__(self, name: str, folder: Path, precision: str) -> None:
        encoder = ElasticEncoder(name, device="cpu")
        self.depth, self.width = encoder.depth, encoder.width
        self.prompts, self.default_prompt_name = encoder.prompts, encoder.default_prompt_name
        parts = [one for one in (encoder, encoder.tower) if one is not None]
        stacks = {id(one): Stack(one, folder, precision) for one in parts}
        self.stacks = {n: stacks[id(encoder.answering(n))] for n in range(1, self.depth + 1)}
        heads = [
            own.linear.weight.detach().cpu().numpy().tobytes()
            for n, stack in self.stacks.items()
            if stack.heads is not None and (own := stack.heads.at(n)) is not None
        ]
        self.key = key_of(
            [stack.key for stack in self.stacks.values()], hashlib.sha256(b"".join(heads)).hexdigest()
        )

    def exits(
        self,
        texts: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        prompt: str | None = None,
        **_: Any,  # prompts are settled before, and the size of a batch makes no difference
    ) -> dict[int, Any]:
        """Return layer → vectors; each stack is asked for the layers that it answers."""
        layers = list(layers or self.stacks)
        found: dict[int, Any] = {}
        for stack in {id(self.stacks[n]): self.stacks[n] for n in layers}.values():
            found |= stack.exits(texts, prompt or "", [n for n in layers if self.stacks[n] is stack])
        return dict(sorted(found.items()))


# --- the three ways ---------------------------------------------------------------------------------------


def read_set(data: Path, name: str) -> RetrievalSet:
    """Return a set with at most 1,000 of its judged queries."""
    folder, _, split = name.partition("/")
    if (data / name).is_dir():
        found = read_retrieval(data / name, name=name)
    else:
        found = read_retrieval(data / folder, qrels=split or None, name=name)
    judged = found.judged
    if len(judged) > MOST_QUERIES:
        drawn = np.random.default_rng(0).choice(len(judged), MOST_QUERIES, replace=False)
        kept = [judged[i] for i in sorted(drawn)]
        found = replace(found, relevance={query: found.relevance[query] for query in kept})
    if own_documents(found):
        raise SystemExit(f"{name}: queries are documents of the set, which `rescored` does not leave out")
    return found


def measure(model: Any, data: RetrievalSet, sizes: Sequence[Size]) -> Scores:
    """Return the nDCG@10 of every query in every way at every size."""
    full = Size(model.depth, model.width)
    wanted = sorted({*sizes, full})
    scores: Scores = {}
    alike = retrieval_scores(model, data, sizes=wanted, k=K)["prefix"]
    over_full = retrieval_scores(model, data, query_sizes=wanted, k=K)["prefix"]
    for way, found in (("same size", alike), ("full index", over_full)):
        scores |= {f"{way}/{size}": values for size, values in found.items()}
    for size in wanted:
        scores[f"rescored/{size}"] = rescored(model, data, size, full)
    if not np.allclose(scores[f"rescored/{full}"], scores[f"same size/{full}"]):
        raise SystemExit(f"{data.name}: rescoring what the full size found has changed what it found")
    return scores


def rescored(model: Any, data: RetrievalSet, size: Size, full: Size) -> Floats:
    """Return the nDCG@10 of the best 100 of a size in the order of the full size; trec_eval must agree."""
    # Where documents are equally similar, trec_eval ranks the greater id first.
    ids = sorted(data.corpus, reverse=True)
    layers = sorted({size.layers, full.layers})
    asked = side_exits(model, [data.queries[query] for query in data.judged], "query", layers=layers)
    there = side_exits(model, [data.corpus[key] for key in ids], "document", layers=layers)
    runs: dict[str, list[str]] = {}
    for rows, _, similar in block_cosines(asked[size.layers], there[size.layers], [size.dims]):
        for row, pool in zip(range(rows.start, rows.stop), np.sort(top_k(similar, POOL)), strict=True):
            nearness = there[full.layers][pool] @ asked[full.layers][row]
            best = pool[np.argsort(-np.round(nearness.astype(np.float64), 7), kind="stable")[:K]]
            runs[data.judged[row]] = [ids[i] for i in best]
    scores = [
        ndcg([data.relevance[q].get(key, 0) for key in runs[q]], data.relevance[q].values(), K)
        for q in data.judged
    ]
    check_against_trec_eval(data, runs, scores)
    return np.array(scores)


def check_against_trec_eval(
    data: RetrievalSet, runs: Mapping[str, Sequence[str]], scores: Sequence[float]
) -> None:
    """End the program if pytrec_eval gives another nDCG to one of the queries."""
    judged = {query: dict(data.relevance[query]) for query in data.judged}
    run = {query: {key: -float(rank) for rank, key in enumerate(keys)} for query, keys in runs.items()}
    theirs = pytrec_eval.RelevanceEvaluator(judged, {f"ndcg_cut.{K}"}).evaluate(run)
    for query, score in zip(data.judged, scores, strict=True):
        if abs(theirs[query][f"ndcg_cut_{K}"] - score) > 1e-9:
            raise SystemExit(f"{data.name}, query {query}: {score} here, {theirs[query]} in pytrec_eval")


# --- shares and their intervals ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """Percent of the full size's nDCG@10 that is kept, with its intervals over queries, and over sets too."""

    ndcg: float
    share: float
    over_queries: tuple[float, float]
    over_sets: tuple[float, float]

    def rounded(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "nDCG@10": round(self.ndcg, 2),
            "share": round(self.share, 2),
            "over queries": [round(end, 2) for end in self.over_queries],
            "over sets and queries": [round(end, 2) for end in self.over_sets],
        }


def shares(by_set: Mapping[str, Scores], case: str, full: str) -> dict[str, Share]:
    """Return set → share of one case, and that of their mean under ``mean``.

    Parameters
    ----------
    by_set
        Set → what `measure` gives.
    case, full
        ``way/size`` of what is asked about, and of the full size.
    """
    tables = {name: np.stack([scores[case], scores[full]], axis=1) for name, scores in by_set.items()}
    replicates = bootstrap_means(tables, resamples=RESAMPLES)
    found, draws = {}, []
    for name in tables:
        score, drawn = replicates.of(name)
        ratio = 100 * drawn[:, 0, 0] / drawn[:, 0, 1]
        draws.append(ratio)
        own, whole = float(score[0, 0]), float(score[0, 1])
        found[name] = Share(own, 100 * own / whole, middle(ratio), middle(ratio))
    each = np.array(draws)
    drawn_sets = np.random.default_rng(0).integers(len(each), size=each.shape)
    anew = each[drawn_sets, np.arange(each.shape[1])].mean(axis=0)
    own, whole = (
        float(np.mean([getattr(one, name) for one in found.values()])) for name in ("ndcg", "share")
    )
    return {**found, "mean": Share(own, whole, middle(each.mean(axis=0)), middle(anew))}


def middle(draws: Floats) -> tuple[float, float]:
    """Return the bounds of the middle 95 %."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


# --- the page ---------------------------------------------------------------------------------------------


def sections(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of the page: for every group of sets the means in three ways, then the sets."""
    models = result["models"]
    for group, means in next(iter(models.values()))["means"].items():
        names = [name for name in GROUPS[group] if name in result["sets"]]
        queries = sum(result["sets"][name]["queries"] for name in names)
        yield f"## Mean of the {group} sets\n\n{len(names)} sets, {queries} queries: {', '.join(names)}."
        for way in WAYS:
            cases = [case for case in means if case.startswith(f"{way}/")]
            rows = {
                size_of(c): [with_intervals(own["means"][group][c]) for own in models.values()] for c in cases
            }
            yield f"### {group}: {way}\n\n{table(['size', *models], rows)}"
        yield f"### {group}: each set, queries of a depth over the full index\n\n{set_table(models, names)}"


def set_table(models: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return a set a row: what the full size finds, and the share at every lesser depth of every model."""
    first = next(iter(models.values()))["sets"][names[0]]
    full = max(map(Size.parse, map(size_of, first)))
    cases = [
        f"full index/{n}x{full.dims}" for n in range(1, full.layers) if f"full index/{n}x{full.dims}" in first
    ]
    rows = {}
    for name in names:
        entries = [model["sets"][name] for model in models.values()]
        shown = [f"{own[case]['share']:.1f}" for own in entries for case in cases]
        rows[name] = [f"{entries[0][f'full index/{full}']['nDCG@10']:.1f}", *shown]
    return table(["set", f"nDCG@10 of {full}", *(f"{m} {size_of(c)}" for m in models for c in cases)], rows)


def size_of(case: str) -> str:
    """Return the size of a case.

    >>> size_of("full index/3x128")
    '3x128'
    """
    return case.partition("/")[2]


def with_intervals(share: Mapping[str, Any]) -> str:
    """Return a share with both of its intervals.

    >>> with_intervals({"share": 92.44, "over queries": [91, 94], "over sets and queries": [88, 96]})
    '92.4 [91.0, 94.0]; [88.0, 96.0]'
    """
    ends = share["over queries"], share["over sets and queries"]
    # Two brackets side by side would be a link in Markdown.
    return f"{share['share']:.1f} " + "; ".join(f"[{low:.1f}, {high:.1f}]" for low, high in ends)


def table(heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Return a table whose rows begin with their names."""
    lines = [heads, ["---"] * len(heads), *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(result: Mapping[str, Any]) -> str:
    """Return the page of results."""
    machine = f"{result['processor']}, threads: {result['threads']}, torch {result['torch']}"
    about = (
        "Percent of the model's own full-size nDCG@10 that is kept. Behind it stand 95 % intervals: over\n"
        "queries, then over sets and queries. Each model is one run of training, one seed.\n\n"
        "- **same size**: queries and documents of a size.\n"
        "- **full index**: queries of a size over documents of full depth, cut to as many dims.\n"
        f"- **rescored**: the best {POOL} of *same size*, ordered by full-size vectors of both sides."
    )
    made = f"`{result['command']}`; {machine}; {result['date']}."
    models = "\n".join(f"- {name}: {every['about']}" for name, every in result["models"].items())
    return "\n\n".join(["# Search at few layers", made, about, models, *sections(result)]) + "\n"


# --- the run ----------------------------------------------------------------------------------------------


def scores_of(model: KeptModel, data: RetrievalSet, sizes: Sequence[Size], folder: Path) -> Scores:
    """Measure a model on a set, or read what an earlier call measured."""
    content = key_of(dict(data.corpus), {q: data.queries[q] for q in data.judged}, data.relevance)
    path = folder / "scores" / f"{key_of(model.key, content, [str(size) for size in sizes])}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        found = measure(model, data, sizes)
        with staged_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **found)
        print(f"{data.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    with np.load(path) as kept:
        return {case: kept[case] for case in kept.files}


def write(result: Mapping[str, Any]) -> None:
    """Write both files of results."""
    for name, content in (("depth.json", json.dumps(result, indent=1) + "\n"), ("depth.md", page(result))):
        with staged_file(RESULTS / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def main() -> None:
    """Measure every model on every set, the sets one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("MATRYOSHKA2D_DATA"), help="folder")
    parser.add_argument("--model", action="append", help="NAME=FOLDER; repeat; untouched=default by itself")
    parser.add_argument("--about", action="append", default=[], help="NAME=how the model was made; repeat")
    parser.add_argument("--sets", nargs="+", default=["english"], help="groups, or sets by name")
    parser.add_argument("--layers", type=int, nargs="+", help="all that every model has, by default")
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--precision", default="fp32", help="fp32, or another of evaluate")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the folder of the data: --data FOLDER, or MATRYOSHKA2D_DATA")
    quiet_libraries()
    folder = user_cache("depth-benchmark")
    named = dict(one.split("=", 1) for one in arguments.model or ["untouched=default"])
    about = dict(one.split("=", 1) for one in arguments.about)
    models = {name: KeptModel(path, folder, arguments.precision) for name, path in named.items()}
    depth = min(model.depth for model in models.values())
    sizes = [Size(n, d) for n in arguments.layers or range(1, depth + 1) for d in sorted(arguments.dims)]
    names = [name for asked in arguments.sets for name in GROUPS.get(asked, (asked,))]
    result: dict[str, Any] = {
        **facts(),
        "command": "python benchmarks/depth.py "
        + " ".join([f"--sets {' '.join(arguments.sets)}", *(f"--model {name}=FOLDER" for name in named)])
        + ("" if arguments.precision == "fp32" else f" --precision {arguments.precision}"),
        "sets": {},
        "models": {name: {"about": about.get(name, ""), "sets": {}, "means": {}} for name in models},
    }
    every: dict[str, dict[str, Scores]] = {name: {} for name in models}
    for set_name in names:
        data = read_set(arguments.data / "retrieval", set_name)
        result["sets"][set_name] = {"documents": len(data.corpus), "queries": len(data.judged)}
        for name, model in models.items():
            every[name][set_name] = scores_of(model, data, sizes, folder)
            entry = result["models"][name]
            full = f"same size/{Size(model.depth, model.width)}"
            entry["sets"][set_name] = {
                case: shares({set_name: every[name][set_name]}, case, full)[set_name].rounded()
                for case in every[name][set_name]
            }
            for group, own in GROUPS.items():
                some = {one: scores for one, scores in every[name].items() if one in own}
                if some:
                    entry["means"][group] = {
                        case: shares(some, case, full)["mean"].rounded() for case in every[name][set_name]
                    }
        write(result)
    print(page(result))


if __name__ == "__main__":
    main()
