"""Engines against peers on the same texts, in one run; what each depth costs; a million texts, killed twice.

    python benchmarks/inference.py --sts STSB.tsv --long CORPUS.jsonl [--parts peers,depths] [--peers FOLDER]

Short texts are the distinct sentences of an STS file, all splits; long ones the texts of a BEIR corpus.
Peers that need other versions of the libraries get environments of their own, made in the folder of --peers.
Every part writes its figures into results/inference.json, or the file of --results, as soon as it has them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import facts
from matryoshka2d.cli.common import quiet_libraries
from matryoshka2d.encoder.default_model import default_model_path
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.evaluation import read_sts
from matryoshka2d.inference import kernels, open_engine, packed
from matryoshka2d.inference.graphs import graph_files
from matryoshka2d.inference.request_batching import BatchingEngine

RESULTS = Path(__file__).resolve().parent / "results" / "inference.json"
PEERS_FILE = Path(__file__).resolve().with_name("inference_peers.py")
OURS = (("torch", "bf16"), ("torch", "fp32"), ("onnx", "int8"))
FULL = "6x384"
PEAK_OF = {"bf16": torch.bfloat16, "fp32": torch.float32}


# --- texts -----------------------------------------------------------------------------------------


def inputs(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Return the three inputs; all texts distinct."""
    (one,) = read_sts(arguments.sts, split=None)
    short = list(dict.fromkeys((*one.sentence1, *one.sentence2)))
    lines = Path(arguments.long).read_text(encoding="utf-8").splitlines()
    long = list(dict.fromkeys(json.loads(line)["text"] for line in lines))[: arguments.long_texts]
    mixed = [*short[: len(long)], *long]
    random.Random(0).shuffle(mixed)
    return {"short": short[: arguments.short_texts], "mixed": mixed, "long": long}


# --- throughput, memory and the first vector ---------------------------------------------------------


def peers(arguments: argparse.Namespace, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Measure every peer and every engine of ours, each in a process of its own, one after the other."""
    exact = open_engine("default", "torch", "fp32")
    reference = {name: exact.embed(part) for name, part in texts.items()}
    encoder = ElasticEncoder(default_model_path(), device="cpu")
    rows: dict[str, Any] = (
        found(arguments.results).get("peers", {}).get("figures", {}) if arguments.only else {}
    )
    with tempfile.TemporaryDirectory() as scratch:
        job = {
            "model": default_model_path(),
            "limit": encoder.max_seq_length,
            "graph": str(graph_files(encoder)[6]),
            "inputs": texts,
            "batch_sizes": [32, 128],
            "rounds": arguments.rounds,
        }
        path = Path(scratch, "job.json")
        path.write_text(json.dumps(job), encoding="utf-8")
        calibration = [*texts["short"][-256:], *texts["long"][-64:]]
        for engine, precision in OURS:
            if precision == "int8":
                open_engine("default", engine, "int8", calibration=calibration)
        wanted = arguments.only.split(",") if arguments.only else None
        for name, command in _commands(arguments, path):
            if wanted is not None and name not in wanted:
                continue
            print(name, flush=True)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            rows[name] = _row(name, done, Path(scratch), reference)
            print(json.dumps(rows[name]), flush=True)
            # As soon as it is known: a run that is cut short keeps what it has.
            write("peers", arguments, rows)
    return rows


def _row(
    name: str, done: subprocess.CompletedProcess[str], folder: Path, reference: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Return what a process said, with the agreement of its vectors; or how it failed."""
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    vectors = {part: np.load(folder / f"{name}-{part}.npy") for part in reference}
    row["agreement"] = {part: _agreement(vectors[part], reference[part]) for part in reference}
    return row


def _commands(arguments: argparse.Namespace, job: Path) -> Iterator[tuple[str, list[str]]]:
    here, optimum, angle = sys.executable, *(_environment(arguments.peers, *peer) for peer in ENVIRONMENTS)
    ours = [
        (f"{engine} {precision}", [here, __file__, "--worker", engine, precision, str(job)])
        for engine, precision in OURS
    ]
    # The two that the first ratio is made of run one after the other.
    yield ours[0]
    for name, python in (
        ("sentence-transformers OpenVINO", optimum),
        ("sentence-transformers fp32", here),
        ("sentence-transformers bf16", here),
        ("AnglE", angle),
        ("sentence-transformers ONNX", optimum),
        ("ONNX Runtime", here),
    ):
        yield name, [str(python), str(PEERS_FILE), name, str(job)]
    yield from ours[1:]


ENVIRONMENTS = (("st", "sentence-transformers[onnx,openvino]"), ("angle", "angle-emb"))


def _environment(folder: Path, name: str, requirement: str) -> Path:
    """Return the Python of a peer's environment, made if it is not there."""
    python = folder / name / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        torch_version = torch.__version__.partition("+")[0]
        install = [str(python), "-m", "pip", "install", "--quiet", f"torch=={torch_version}", requirement]
        subprocess.run(install, check=True)
    return python


def worker(engine: str, precision: str, path: Path) -> None:
    """Measure one engine of ours as a peer is measured."""
    started = time.perf_counter() - _age()
    job = json.loads(path.read_text(encoding="utf-8"))
    opened = open_engine("default", engine, precision)
    opened.embed(["The first vector."])
    first = time.perf_counter() - started
    speeds = {}
    for name, texts in job["inputs"].items():
        for _ in range(2):
            opened.embed(texts)
        taken = [seconds(partial(opened.embed, texts)) for _ in range(job["rounds"])]
        speeds[name] = {"auto": len(texts) / min(taken)}
        np.save(path.parent / f"{engine} {precision}-{name}.npy", opened.embed(texts))
    from inference_peers import peak_megabytes

    print(
        json.dumps(
            {"first_vector_seconds": first, "texts_per_second": speeds, "peak_megabytes": peak_megabytes()}
        )
    )


def _age() -> float:
    """Return for how many seconds this process has been running."""
    import psutil

    return time.time() - float(psutil.Process().create_time())


def _agreement(vectors: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    cosines = np.einsum("ij,ij->i", vectors, reference)
    return {"lowest": float(cosines.min()), "mean": float(cosines.mean())}


# --- what a depth costs, and where the time goes -----------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best(work: Callable[[], object], rounds: int) -> float:
    """Return the least seconds of several calls."""
    return min(seconds(work) for _ in range(rounds))


def depths(arguments: argparse.Namespace, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Measure every depth on tokens and end to end, and the share of the matrix peak."""
    engine = opened("torch", arguments.precision)
    rows: dict[str, Any] = {}
    for name in ("short", "long"):
        part = texts[name]
        tokens = engine.tokenizer(part)
        engine.embed(part)
        taken: dict[str, dict[int, list[float]]] = {"tokens": {}, "text": {}}
        for _ in range(arguments.rounds):
            for layers in range(1, engine.depth + 1):
                size = f"{layers}x{engine.width}"
                taken["tokens"].setdefault(layers, []).append(
                    seconds(partial(engine.embed_tokens, tokens, size))
                )
                taken["text"].setdefault(layers, []).append(seconds(partial(engine.embed, part, size)))
        speed = {
            kind: {layers: len(part) / min(times) for layers, times in by_layer.items()}
            for kind, by_layer in taken.items()
        }
        rows[name] = {
            "texts": len(part),
            "tokens_per_text": float(tokens.lengths.mean()),
            "texts_per_second": speed,
            "ratio_to_full": {
                kind: {layers: value / by_layer[engine.depth] for layers, value in by_layer.items()}
                for kind, by_layer in speed.items()
            },
            "tokenizer_texts_per_second": len(part) / best(partial(engine.tokenizer, part), arguments.rounds),
            "teraflops": flops(tokens.lengths, engine) / min(taken["tokens"][engine.depth]) / 1e12,
        }
    peak = matrix_peak(PEAK_OF[arguments.precision])
    for name in ("short", "long"):
        rows[name]["share_of_peak"] = rows[name]["teraflops"] / peak
    return {
        **rows,
        "precision": arguments.precision,
        "matrix_peak_teraflops": peak,
        "profile": profile(texts["short"], engine),
    }


def opened(engine: str, precision: str) -> BatchingEngine:
    """Return an engine of the default model."""
    found = open_engine("default", engine, precision)
    assert isinstance(found, BatchingEngine)
    return found


def flops(lengths: np.ndarray, engine: BatchingEngine) -> float:
    """Return the floating point operations of the matrix products at full size."""
    hidden = engine.width
    linear = 2 * 12 * hidden * hidden * lengths.sum()
    attention = 2 * 2 * hidden * (lengths.astype(np.float64) ** 2).sum()
    return float(engine.depth * (linear + attention))


def matrix_peak(dtype: torch.dtype) -> float:
    """Return the teraflops of large matrix products, one on each core."""
    size, threads, times = 2048, torch.get_num_threads(), 8
    together = threading.Barrier(threads)

    def multiply(_: int) -> float:
        torch.set_num_threads(1)
        left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        with torch.inference_mode():
            left @ right
            together.wait()
            return seconds(lambda: [left @ right for _ in range(times)])

    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        taken = max(pool.map(multiply, range(threads)))
    torch.set_num_threads(before)
    return threads * times * 2 * size**3 / taken / 1e12


def profile(texts: Sequence[str], engine: BatchingEngine) -> dict[str, float]:
    """Return the share of the time on one core of each kind of work, at full size."""
    spent: dict[str, float] = {}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = call(*given, **options)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
            return result

        return run

    named = {
        "linear": (packed._Linear, "__call__"),
        "linear with GELU": (packed._Linear, "gelu"),
        "linear with residual": (packed._Linear, "plus"),
        "LayerNorm": (packed._Norm, "__call__"),
        "embeddings, LayerNorm included": (packed._Embeddings, "__call__"),
    }
    before = {name: getattr(owner, method) for name, (owner, method) in named.items()}
    attention = packed._attention
    tokens = engine.tokenizer(texts)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, (owner, method) in named.items():
            setattr(owner, method, timed(name, before[name]))
        packed._attention = timed("attention", attention)
        batches = [tokens.take(rows) for rows in engine._batches(tokens)]
        whole = seconds(lambda: [engine.runner.run(batch, engine.depth) for batch in batches])
    finally:
        for name, (owner, method) in named.items():
            setattr(owner, method, before[name])
        packed._attention = attention
        torch.set_num_threads(threads)
    shares = {name: value / whole for name, value in spent.items()}
    return {**shares, "the rest: pooling, bookkeeping": 1 - sum(shares.values())}


# --- one query, many callers -------------------------------------------------------------------------


def latency(arguments: argparse.Namespace, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Measure one query at a time, and many callers with one text each."""
    engine = opened("torch", arguments.precision)
    queries = texts["short"][: arguments.queries]
    rows: dict[str, Any] = {"precision": arguments.precision, "milliseconds": {}, "callers": {}}
    for layers in (1, 3, 6):
        size = f"{layers}x{engine.width}"
        for query in queries[:20]:
            engine.embed([query], size)
        taken = [1000 * seconds(partial(engine.embed, [query], size)) for query in queries]
        rows["milliseconds"][size] = {"p50": statistics.median(taken), "p99": float(np.percentile(taken, 99))}
    encoder = ElasticEncoder(default_model_path(), device="cpu")
    for query in queries[:20]:
        encoder.encode(query)
    taken = [1000 * seconds(partial(encoder.encode, query)) for query in queries]
    rows["milliseconds"]["sentence-transformers fp32"] = {
        "p50": statistics.median(taken),
        "p99": float(np.percentile(taken, 99)),
    }
    for callers in (1, 2, 8, 32):
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(lambda text: engine.embed([text]), queries[:64]))
            spent = seconds(lambda: list(pool.map(lambda text: engine.embed([text]), queries)))
        rows["callers"][callers] = len(queries) / spent
    return rows


# --- a corpus larger than memory ---------------------------------------------------------------------


def corpus(arguments: argparse.Namespace, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Embed distinct recombined sentences through the command line: unbroken, then killed and resumed."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "corpus.jsonl")
        with source.open("w", encoding="utf-8") as file:
            for i, text in enumerate(recombined(texts["short"], arguments.rows)):
                file.write(json.dumps({"id": i, "text": text}) + "\n")
        whole, broken = Path(scratch, "whole"), Path(scratch, "broken")
        run = partial(encode, source, size=arguments.size, precision=arguments.precision)
        taken, memory = run(whole)
        killed = []
        for share in (0.3, 0.7):
            parts = round(share * len(list(whole.glob("part-*"))))
            run(broken, kill_at=parts)
            killed.append(len(list(broken.glob("part-*"))))
        run(broken)
        return {
            "rows": arguments.rows,
            "size": arguments.size,
            "precision": arguments.precision,
            "seconds": taken,
            "rows_per_second": arguments.rows / taken,
            "megabytes_at_each_tenth": memory,
            "shards_found_after_each_kill": killed,
            "shards": len(list(whole.glob("part-*"))),
            "identical": hashes(whole) == hashes(broken),
        }


def recombined(sentences: Sequence[str], count: int) -> Iterator[str]:
    """Yield distinct texts: the first half of one sentence and the second half of another."""
    words = [sentence.split() for sentence in sentences]
    rng, seen = random.Random(0), set[str]()
    while len(seen) < count:
        first, second = rng.choice(words), rng.choice(words)
        text = " ".join([*first[: (len(first) + 1) // 2], *second[len(second) // 2 :]])
        if text not in seen:
            seen.add(text)
            yield text


def encode(
    source: Path, output: Path, *, size: str, precision: str, kill_at: int | None = None
) -> tuple[float, list[int]]:
    """Run the command; returns its seconds and its memory in megabytes at each tenth of the time."""
    import psutil

    command = [sys.executable, "-m", "matryoshka2d", "encode", "default", str(source), str(output)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--size", size, "--precision", precision, "-q"])
    watched, memory = psutil.Process(process.pid), []
    while process.poll() is None:
        time.sleep(0.2)
        try:
            memory.append(watched.memory_info().rss // 2**20)
        except psutil.Error:
            break
        if kill_at is not None and len(list(output.glob("part-*"))) >= kill_at:
            os.kill(process.pid, signal.SIGKILL)
            break
    code = process.wait()
    assert code == (0 if kill_at is None else -signal.SIGKILL), code
    tenths = [max(part) for part in np.array_split(memory, 10) if len(part)]
    return time.perf_counter() - start, [int(value) for value in tenths]


def hashes(folder: Path) -> dict[str, str]:
    """Return name → hash of every file of a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


# --- the run -----------------------------------------------------------------------------------------

PARTS = {"peers": peers, "depths": depths, "latency": latency, "corpus": corpus}


def main() -> None:
    """Run the parts and write their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sts", help="an STS file: short texts")
    parser.add_argument("--long", help="corpus.jsonl of a BEIR set: long texts")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--peers", type=Path, default=Path("build/peers"), help="their environments")
    parser.add_argument("--only", help="names of peers, with commas; the rows of the others stay as they are")
    parser.add_argument(
        "--precision", choices=PEAK_OF, default="bf16", help="of the torch engine in all parts but peers"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that the figures go to")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short-texts", type=int, default=4000)
    parser.add_argument("--long-texts", type=int, default=400)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--size", default="3x128", help="the size at which the corpus is embedded")
    parser.add_argument("--worker", nargs=3, metavar=("ENGINE", "PRECISION", "JOB"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet_libraries()
    if arguments.worker:
        worker(arguments.worker[0], arguments.worker[1], Path(arguments.worker[2]))
        return
    texts = inputs(arguments)
    for part in arguments.parts.split(","):
        figures = PARTS[part](arguments, texts)
        print(json.dumps(write(part, arguments, figures), indent=1))


def write(part: str, arguments: argparse.Namespace, figures: dict[str, Any]) -> dict[str, Any]:
    """Put the figures of a part into the file of results, with where and how they were measured."""
    result: dict[str, Any] = {
        **facts(),
        "kernels": kernels.load_kernels() is not None,
        "command": _command(arguments, part),
        "figures": figures,
    }
    if part == "peers" and arguments.only and set(figures) - set(arguments.only.split(",")):
        result["note"] = f"Measured in it: {arguments.only}; the other rows are those of the run before it."
    whole = {**found(arguments.results), part: result}
    arguments.results.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return result


def found(results: Path) -> dict[str, Any]:
    """Return what a file of results holds already."""
    whole: dict[str, Any] = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    return whole


def _command(arguments: argparse.Namespace, part: str) -> str:
    """Return the command that makes this part again, without the folders of this machine."""
    files = f"--sts {Path(arguments.sts).name} --long {Path(arguments.long).parent.name}/corpus.jsonl"
    rows = f" --rows {arguments.rows} --size {arguments.size}" if part == "corpus" else ""
    texts = f"--short-texts {arguments.short_texts} --long-texts {arguments.long_texts}"
    precision = (
        f" --precision {arguments.precision}" if part != "peers" and arguments.precision != "bf16" else ""
    )
    only = f' --only "{arguments.only}"' if part == "peers" and arguments.only else ""
    shared = f"{files} --parts {part} --rounds {arguments.rounds} {texts}"
    return f"benchmarks/inference.py {shared}{rows}{precision}{only}"


if __name__ == "__main__":
    main()
