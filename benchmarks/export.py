"""What exports weigh, how they agree with their source, and how soon a fresh process has its first vector.

    python benchmarks/export.py [--model FOLDER] [--skip-times | --only-times]

Disk and agreement need no quiet machine; the times do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import facts
from matryoshka2d.cli.common import quiet_libraries
from matryoshka2d.export.exporter import Export, export_model

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = ("1x32", "2x64", "3x128", "4x192", "5x256", "6x384")
PRECISIONS = {
    "sentence-transformers": ("fp32", "bf16", "fp16"),
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
}
MIDDLE, FULL = "3x128", "6x384"
TIMED = ("1x32", MIDDLE, FULL)

# This package is kept out, as where it is not installed.
START = """
import sys
sys.modules["matryoshka2d"] = None
folder = sys.argv[1]
"""
FIRST_VECTOR = {
    "sentence-transformers": """
from sentence_transformers import SentenceTransformer
vectors = SentenceTransformer(folder, device="cpu").encode(["A sentence to embed."])
""",
    "onnx": """
import numpy as np
import onnxruntime
from tokenizers import Tokenizer
session = onnxruntime.InferenceSession(folder + "/model.onnx")
one = Tokenizer.from_file(folder + "/tokenizer.json").encode("A sentence to embed.")
names = {"input_ids": one.ids, "attention_mask": one.attention_mask, "token_type_ids": one.type_ids}
vectors = session.run(None, {name: np.array([values]) for name, values in names.items()})[0]
""",
    "openvino": """
import numpy as np
import openvino
from tokenizers import Tokenizer
model = openvino.Core().compile_model(folder + "/openvino_model.xml", "CPU")
one = Tokenizer.from_file(folder + "/tokenizer.json").encode("A sentence to embed.")
names = {"input_ids": one.ids, "attention_mask": one.attention_mask, "token_type_ids": one.type_ids}
vectors = model({name: np.array([values]) for name, values in names.items()})["sentence_embedding"]
""",
}


def row_of(export: Export) -> dict[str, Any]:
    """Return what the table says of an export: bytes, share of the full model, the worst agreement."""
    found = min(export.agreements.values(), key=lambda one: one.cosine)
    return {
        "format": export.record["format"],
        "precision": export.record["precision"],
        "size": " ".join(map(str, export.sizes)),
        "bytes": export.bytes,
        "share of the full model": export.bytes / export.record["bytes"]["full model"],
        "largest difference": max(one.difference for one in export.agreements.values()),
        "smallest cosine": found.cosine,
    }


def weigh(model: str, sizes: list[str], work: Path) -> list[dict[str, Any]]:
    """Export the sizes in fp32, one in every precision, and six depths in one folder."""
    rows = []
    for name, precisions in PRECISIONS.items():
        choices = [(size, "fp32") for size in sizes]
        choices += [(MIDDLE, precision) for precision in precisions if precision != "fp32"]
        for size, precision in choices:
            made = export_model(
                model, work / "one", size=size, format=name, precision=precision, overwrite=True
            )
            rows.append(row_of(made))
            print(json.dumps(rows[-1]), flush=True)
    together = export_model(model, work / "six", sizes="1-6x384", format="onnx")
    rows.append(row_of(together))
    print(json.dumps(rows[-1]), flush=True)
    return rows


def time_first_vectors(model: str, work: Path, rounds: int) -> list[dict[str, Any]]:
    """Return the seconds from the start of a process to its first vector, formats and sizes taking turns."""
    folders = {
        (name, size): export_model(model, work / f"{name}-{size}", size=size, format=name).folder
        for name in PRECISIONS
        for size in TIMED
    }
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in folders}
    for turn in range(rounds + 1):
        for (name, size), folder in folders.items():
            started = time.perf_counter()
            command = [sys.executable, "-c", START + FIRST_VECTOR[name], str(folder)]
            subprocess.run(command, check=True, capture_output=True)
            if turn:  # the first turn fills the file cache
                seconds[name, size].append(time.perf_counter() - started)
    return [
        {"format": name, "size": size, "seconds": statistics.median(values), "rounds": rounds}
        for (name, size), values in seconds.items()
    ]


def markdown(result: dict[str, Any]) -> str:
    """Return the result as tables."""
    lines = [
        "# Exports\n",
        f"`{result['model']}`; {result['processor']}, {result['threads']} threads, {result['date']};",
        "`python benchmarks/export.py`.\n",
    ]
    if "exports" in result:
        lines += [
            "| format | precision | size | MB | of the full model | largest difference | smallest cosine |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {row['format']} | {row['precision']} | {row['size']} | {row['bytes'] / 1e6:.1f} | "
                f"{row['share of the full model']:.0%} | {row['largest difference']:.1e} | "
                f"{row['smallest cosine']:.5f} |"
                for row in result["exports"]
            ),
        ]
    if "first vector" in result:
        timed = result["first vector"]
        lines += [
            "\nSeconds from the start of a process to its first vector, the median of "
            f"{timed[0]['rounds']} rounds, files in the cache:\n",
            "| format | size | seconds |",
            "|---|---|---|",
            *(
                f"| {row['format']} | {row['size']} | {row['seconds']:.2f} |"
                for row in result["first vector"]
            ),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and keep what an earlier call measured of the other half."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default")
    parser.add_argument("--name", help="what the results call the model; by default as --model")
    parser.add_argument("--sizes", default=" ".join(SIZES), help="the sizes to weigh in fp32")
    parser.add_argument("--rounds", type=int, default=5)
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--skip-times", action="store_true")
    half.add_argument("--only-times", action="store_true")
    arguments = parser.parse_args()
    quiet_libraries()
    name = arguments.name or Path(arguments.model).name
    stem = "export" if name == "default" else f"export-{name}"
    path = RESULTS / f"{stem}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    result = {**result, **facts(), "model": name}
    with tempfile.TemporaryDirectory() as work:
        if not arguments.only_times:
            result["exports"] = weigh(arguments.model, arguments.sizes.split(), Path(work))
        if not arguments.skip_times:
            result["first vector"] = time_first_vectors(arguments.model, Path(work), arguments.rounds)
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
