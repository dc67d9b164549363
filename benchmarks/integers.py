"""int16 against fp32: agreement, quality and speed of the torch engine, in one run.

    python benchmarks/integers.py --sts FOLDER --retrieval FOLDER [--model MODEL]

The folders hold STS sets and BEIR sets (``scifact`` among them). Agreement is that of all sentences of STS-B
and of documents of SciFact at full size; quality is Spearman x100 of every STS set and nDCG@10 of SciFact.
Precisions take turns, text by text for one query and round by round for many; a ratio is that of medians.
sentence-transformers in fp32 runs beside them. Run it on an idle machine. Writes ``results/integers.json``
and ``results/integers.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from machine import facts
from matryoshka2d.cli.common import quiet_libraries
from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.evaluation import read_sts
from matryoshka2d.evaluation.retrieval import ndcg
from matryoshka2d.evaluation.retrieval_sets import read_beir
from matryoshka2d.inference import Engine, open_engine

RESULTS = Path(__file__).resolve().parent / "results"
PRECISIONS = ("fp32", "int16")
PEER = "sentence-transformers"
Figures = dict[str, Any]


def agreement(vectors: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    """Return lowest and mean cosine of the same texts' vectors in int16 and fp32."""
    exact, whole = (vectors[name].astype(np.float64) for name in PRECISIONS)
    cosines = np.einsum("ij,ij->i", exact, whole)
    return {"lowest": float(cosines.min()), "mean": float(cosines.mean()), "texts": len(cosines)}


def spearman(engine: Engine, one: Any) -> float:
    """Return Spearman x100 of one STS set."""
    left, right = engine.embed(one.sentence1), engine.embed(one.sentence2)
    return float(100 * spearmanr(np.einsum("ij,ij->i", left, right), one.gold).statistic)


def search_quality(engine: Engine, data: Any, documents: NDArray[np.float32]) -> float:
    """Return nDCG@10 x100 of one BEIR set, every document compared."""
    keys = list(data.corpus)
    names = [name for name in data.queries if name in data.judged]
    queries = engine.embed([data.queries[name] for name in names])
    values = []
    for name, query in zip(names, queries, strict=True):
        nearest = np.argsort(-(documents @ query), kind="stable")[:10]
        grades = [data.relevance[name].get(keys[row], 0) for row in nearest]
        values.append(ndcg(grades, data.relevance[name].values(), 10))
    return 100 * float(np.mean(values))


def seconds(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of pieces of work that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if number:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(some) for name, some in taken.items()}


def speed(
    engines: dict[str, Engine], peer: Any, inputs: dict[str, list[str]], rounds: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield texts a second of every input, then milliseconds of one query."""
    for name, texts in inputs.items():
        work: dict[str, Callable[[], object]] = {
            precision: partial(engine.embed, texts) for precision, engine in engines.items()
        }
        work[PEER] = partial(peer.encode, texts, batch_size=32, show_progress_bar=False)
        yield name, {key: len(texts) / value for key, value in seconds(work, rounds).items()}
    queries = inputs["short"][:200]
    singles: dict[str, list[float]] = {}
    for text in queries:
        once: dict[str, Callable[[], object]] = {
            precision: partial(engine.embed, [text]) for precision, engine in engines.items()
        }
        once[PEER] = partial(peer.encode, [text], show_progress_bar=False)
        for key, run in once.items():
            start = time.perf_counter()
            run()
            singles.setdefault(key, []).append(1e3 * (time.perf_counter() - start))
    yield "one query, ms", {key: statistics.median(some[20:]) for key, some in singles.items()}


def page(found: Figures) -> str:
    """Return the figures as markdown."""
    lines = [
        "# int16 against fp32",
        "",
        f"Made by `{found['command']}`.",
        "",
        f"`{json.dumps(found['machine'])}`",
    ]
    lines += ["", "| texts | | lowest cosine | mean cosine |", "|---|---|---|---|"]
    lines += [
        f"| {k} | {v['texts']:,} | {v['lowest']:.6f} | {v['mean']:.6f} |"
        for k, v in found["agreement"].items()
    ]
    lines += ["", "| set | fp32 | int16 | difference |", "|---|---|---|---|"]
    lines += [
        f"| {k} | {v['fp32']:.2f} | {v['int16']:.2f} | {v['int16'] - v['fp32']:+.3f} |"
        for k, v in found["quality"].items()
    ]
    lines += ["", "Texts a second; milliseconds for one query.", ""]
    lines += [
        "| input | sentence-transformers | fp32 | int16 | int16 over fp32 | over sentence-transformers |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    for name, row in found["speed"].items():
        peer, exact, whole = (row[key] for key in (PEER, *PRECISIONS))
        over = (whole / exact, whole / peer)
        if name.endswith("ms"):
            over = (exact / whole, peer / whole)
        lines.append(f"| {name} | {peer:.1f} | {exact:.1f} | {whole:.1f} | {over[0]:.2f} | {over[1]:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sts", required=True, help="folder of STS sets")
    parser.add_argument("--retrieval", required=True, type=Path, help="folder of BEIR sets")
    parser.add_argument("--model", default="default")
    parser.add_argument("--documents", type=int, help="about so many documents, and no nDCG; default all")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    quiet_libraries()
    engines = {name: open_engine(arguments.model, "torch", name, "cpu") for name in PRECISIONS}
    sets = read_sts(arguments.sts)
    (pairs,) = [one for one in sets if "stsb" in one.name.lower().replace("-", "")][:1]
    data = read_beir(arguments.retrieval / "scifact")
    short = list(dict.fromkeys((*pairs.sentence1, *pairs.sentence2)))
    long = list(data.corpus.values())
    some = long[:: max(1, len(long) // arguments.documents)] if arguments.documents else long
    found: Figures = {
        "command": "python benchmarks/integers.py --sts STS --retrieval RETRIEVAL"
        + (f" --documents {arguments.documents}" if arguments.documents else ""),
        "machine": facts(),
    }
    sentences = {name: one.embed(short) for name, one in engines.items()}
    documents = {name: one.embed(some) for name, one in engines.items()}
    found["agreement"] = {"STS-B": agreement(sentences), "SciFact": agreement(documents)}
    print(found["agreement"], flush=True)
    found["quality"] = {
        one.name: {name: spearman(engine, one) for name, engine in engines.items()} for one in sets
    }
    if len(some) == len(long):
        found["quality"]["SciFact nDCG@10"] = {
            name: search_quality(one, data, documents[name]) for name, one in engines.items()
        }
    print(found["quality"], flush=True)
    peer = SentenceTransformer(resolve_model(arguments.model), device="cpu")
    inputs = {"short": short[:2000], "long": long[:200], "mixed": [*short[:200], *long[:200]]}
    found["speed"] = {}
    for name, row in speed(engines, peer, inputs, arguments.rounds):
        found["speed"][name] = row
        # As soon as it is known: a run that is cut short keeps what it has.
        (RESULTS / "integers.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "integers.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
