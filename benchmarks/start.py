"""Seconds from a fresh process to its first vector, beside those of sentence-transformers.

    python benchmarks/start.py [--model MODEL] [--rounds 7]

Every measurement is a process of its own, from its start to its end: the interpreter, imports, the model, the
vectors. The ways take turns, in the same order every round, and the median of the rounds counts. A first
round that is not counted brings the files into the system's cache and lets the onnx engine write its graphs.
Every way computes in fp32 on the processor, and its vectors must be those of sentence-transformers, but for
the engine with one layer. Results go to ``results/start.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from machine import facts
from matryoshka2d.encoder import resolve_model

RESULTS = Path(__file__).resolve().parent / "results"
PEER = "sentence-transformers"
SHALLOW = "torch engine, one layer"
TEXT = "a cat sat on the mat"
_PLAIN = """
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({model!r}, device="cpu")
np.save({output!r}, model.encode([{text!r}], normalize_embeddings=True))
"""
_PLAIN_FILE = """
import numpy as np
from sentence_transformers import SentenceTransformer
texts = open({texts!r}).read().splitlines()
model = SentenceTransformer({model!r}, device="cpu")
np.save({output!r}, model.encode(texts, normalize_embeddings=True))
"""
_ENGINE = """
import numpy as np
from matryoshka2d import open_engine
np.save({output!r}, open_engine({model!r}, {engine!r}, "fp32", "cpu", size={size!r}).embed([{text!r}]))
"""


def ways(model: str, texts: str, output: str) -> dict[str, list[str]]:
    """Return what is measured: name → arguments of Python."""
    common = {"model": model, "texts": texts, "output": output, "text": TEXT}

    def engine(name: str, size: str | None = None) -> list[str]:
        return ["-c", _ENGINE.format(**common, engine=name, size=size)]

    encode = ["encode", model, texts, output, "--precision", "fp32", "--device", "cpu", "--overwrite", "-q"]
    return {
        "python -c pass": ["-c", "pass"],
        "import torch": ["-c", "import torch"],
        PEER: ["-c", _PLAIN.format(**common)],
        "torch engine": engine("torch"),
        SHALLOW: engine("torch", "1x128"),
        "onnx engine": engine("onnx"),
        f"ten lines, {PEER}": ["-c", _PLAIN_FILE.format(**common)],
        "ten lines, matryoshka2d encode": ["-m", "matryoshka2d", *encode],
    }


def measure(model: str, rounds: int) -> dict[str, list[float]]:
    """Return way → seconds of every round."""
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        texts, output = Path(folder, "texts.txt"), Path(folder, "vectors.npy")
        texts.write_text("".join(f"{TEXT}, {n} times\n" for n in range(1, 11)))
        right: dict[int, np.ndarray] = {}
        for number in range(rounds + 1):
            for name, arguments in ways(model, str(texts), str(output)).items():
                output.unlink(missing_ok=True)
                seconds = run(arguments)
                if output.exists() and name != SHALLOW:
                    agree(name, np.load(output), right)
                if number:
                    taken.setdefault(name, []).append(seconds)
                    print(f"{name}: {seconds:.2f} s", file=sys.stderr)
    return taken


def run(arguments: list[str]) -> float:
    """Return the seconds of a Python process that must succeed."""
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, env=quiet, capture_output=True)
    return time.perf_counter() - begun


def agree(name: str, vectors: np.ndarray, right: dict[int, np.ndarray]) -> None:
    """See that vectors are those of sentence-transformers, which comes first."""
    expected = right.setdefault(len(vectors), vectors)
    if vectors.shape != expected.shape or not np.allclose(vectors, expected, atol=1e-5):
        raise SystemExit(f"{name}: other vectors than those of {PEER}")


def page(record: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    machine, settings = record["machine"], record["settings"]
    lines = [
        "# From a fresh process to its first vector",
        "",
        f"`python benchmarks/start.py --model {settings['model']} --rounds {settings['rounds']}`, "
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}, {machine['date']}.",
        "",
        "| fresh process | seconds, median | least | most |",
        "|---|---:|---:|---:|",
    ]
    for name, found in record["seconds"].items():
        lines.append(f"| {name} | {found['median']:.2f} | {found['least']:.2f} | {found['most']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="A folder, a hub name in the cache, or 'default'.")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    taken = measure(resolve_model(arguments.model), arguments.rounds)
    result = {
        name: {"median": statistics.median(all_), "least": min(all_), "most": max(all_)}
        for name, all_ in taken.items()
    }
    settings = {"model": arguments.model, "rounds": arguments.rounds}
    record = {"settings": settings, "machine": facts(), "seconds": result}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "start.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "start.md").write_text(page(record), encoding="utf-8")
    print(page(record))


if __name__ == "__main__":
    main()
