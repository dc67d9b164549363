"""Exports loaded in environments of their own, in which this package is not installed.

    python benchmarks/older_releases.py --folder ENVIRONMENTS [--model FOLDER]

Makes the environments that are missing (a gigabyte each, for torch), exports the model and a tiny random
one of every architecture, and compares the vectors there with those of the source.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from machine import facts
from matryoshka2d.cli.common import quiet_libraries
from matryoshka2d.encoder.architectures import ARCHITECTURES
from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.export.check import TEXTS, agreement
from matryoshka2d.export.exporter import Export, export_model

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
MODEL_SIZE, TINY_SIZE = "3x128", "2x16"

ENVIRONMENTS: dict[str, list[str]] = {
    "sentence-transformers-3.0.1": ["torch==2.13.0", "transformers==4.41.2", "numpy<2"],
    "sentence-transformers-5.1.2": ["torch==2.13.0", "transformers==4.57.6"],
    "sentence-transformers-5.2.3": ["torch==2.13.0", "transformers==5.0.0"],
    "onnxruntime-1.32.0": ["tokenizers"],
    "openvino-2026.4.1": ["tokenizers"],
}
"""What is tried, as LIBRARY-VERSION → what is installed beside it."""

LOADERS = {
    "sentence-transformers": """
from sentence_transformers import SentenceTransformer
vectors = SentenceTransformer(folder, device="cpu").encode(texts)
""",
    "onnxruntime": """
import onnxruntime
from tokenizers import Tokenizer
session = onnxruntime.InferenceSession(folder + "/model.onnx")
batch = Tokenizer.from_file(folder + "/tokenizer.json").encode_batch(texts)
tensors = {
    "input_ids": np.array([one.ids for one in batch]),
    "attention_mask": np.array([one.attention_mask for one in batch]),
    "token_type_ids": np.array([one.type_ids for one in batch]),
}
vectors = session.run(None, {one.name: tensors[one.name] for one in session.get_inputs()})[0]
""",
    "openvino": """
import openvino
from tokenizers import Tokenizer
hint = {"INFERENCE_PRECISION_HINT": "f32"}
model = openvino.Core().compile_model(folder + "/openvino_model.xml", "CPU", hint)
batch = Tokenizer.from_file(folder + "/tokenizer.json").encode_batch(texts)
tensors = {
    "input_ids": np.array([one.ids for one in batch]),
    "attention_mask": np.array([one.attention_mask for one in batch]),
    "token_type_ids": np.array([one.type_ids for one in batch]),
}
names = [one.get_any_name() for one in model.inputs]
vectors = model({name: tensors[name] for name in names})["sentence_embedding"]
""",
}
FORMATS = {"sentence-transformers": "sentence-transformers", "onnxruntime": "onnx", "openvino": "openvino"}

SCRIPT = """
import json, sys
import numpy as np
try:
    import matryoshka2d
except ImportError:
    pass
else:
    raise SystemExit("this package is installed here")
folder, texts, target = json.loads(sys.argv[1])
{load}
np.save(target, vectors)
"""


def python_of(folder: Path, name: str) -> Path:
    """Return the interpreter of an environment, which is made if it is missing."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        library, _, release = name.rpartition("-")
        wanted = [f"{library}=={release}", *ENVIRONMENTS[name]]
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def compared(python: Path, library: str, export: Export, expected: np.ndarray, texts: list[str]) -> str:
    """Return how far the vectors there are from the source, or the last line of what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "vectors.npy"
        argument = json.dumps([str(export.folder), texts, str(target)])
        code = SCRIPT.format(load=LOADERS[library])
        command = [str(python), "-c", code, argument]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1][:160]
        found = agreement(np.load(target), expected)
        return f"{found.difference:.1e}"


def sources(model: str, folder: Path) -> dict[str, tuple[str, str, list[str]]]:
    """Return name → (model, size, texts): the model, and a tiny one of every architecture."""
    sys.path.insert(0, str(ROOT))
    from tests import tiny

    found = {"model": (model, MODEL_SIZE, list(TEXTS))}
    texts = [*tiny.TEXTS, "a cat sat " * 90, "x"]
    for name in ARCHITECTURES:
        source = tiny.sentence_model(folder / "tiny" / name, name, max_position_embeddings=80)
        found[name] = (source, TINY_SIZE, texts)
    return found


def main() -> None:
    """Export, load everywhere, write what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the environments are or will be")
    parser.add_argument("--model", default="default")
    arguments = parser.parse_args()
    quiet_libraries()
    pythons = {name: python_of(arguments.folder.resolve(), name) for name in ENVIRONMENTS}
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        for name, (source, size, texts) in sources(arguments.model, Path(work)).items():
            encoder = ElasticEncoder(resolve_model(source), device="cpu")
            expected = encoder.encode(texts, size=size)
            rows[name] = {}
            for environment, python in pythons.items():
                library = environment.rpartition("-")[0]
                form = FORMATS[library]
                if name != "model" and form != "sentence-transformers":
                    continue
                folder = Path(work) / "exports" / name / form
                if not folder.exists():
                    made = export_model(source, folder, size=size, format=form)
                    if "reads with" in made.record:
                        rows[name]["stated"] = made.record["reads with"]
                rows[name][environment] = compared(python, library, made, expected, texts)
            print(name, rows[name], flush=True)
    result = {**facts(), "environments": ENVIRONMENTS, "largest difference": rows}
    (RESULTS / "older_releases.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
