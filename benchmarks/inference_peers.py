"""One peer, measured: run by inference.py, in the peer's own environment; imports nothing of this package.

    python inference_peers.py PEER JOB.json

The job names the model, the inputs (name → texts), the batch sizes and the rounds. What is printed last is
one line of JSON: seconds to the first vector, input → batch size → texts a second, and the peak memory. The
vectors of every input are saved beside the job, for the agreement with fp32.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

Embed = Callable[[Sequence[str], int], Any]


def sentence_transformers(job: dict[str, Any], backend: str = "torch", **model_kwargs: Any) -> Embed:
    """Return the encode of sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["model"], device="cpu", backend=backend, model_kwargs=model_kwargs)

    def embed(texts: Sequence[str], batch_size: int) -> Any:
        return model.encode(
            list(texts), batch_size=batch_size, show_progress_bar=False, normalize_embeddings=True
        )

    return embed


def bf16(job: dict[str, Any]) -> Embed:
    """Return the encode of sentence-transformers with its weights in bf16."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["model"], device="cpu").bfloat16()

    def embed(texts: Sequence[str], batch_size: int) -> Any:
        vectors = model.encode(
            list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True
        )
        vectors = vectors.float()
        return (vectors / vectors.norm(dim=1, keepdim=True)).numpy()

    return embed


def onnxruntime(job: dict[str, Any]) -> Embed:
    """Return ONNX Runtime on the whole graph, as its users run it: texts sorted, batches padded."""
    import onnxruntime as runtime
    from tokenizers import Tokenizer

    session = runtime.InferenceSession(job["graph"], providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    tokenizer = Tokenizer.from_file(str(Path(job["model"]) / "tokenizer.json"))
    tokenizer.enable_truncation(job["limit"])
    tokenizer.enable_padding()

    def embed(texts: Sequence[str], batch_size: int) -> Any:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out: Any = None
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            encodings = tokenizer.encode_batch([texts[i] for i in rows])
            given = {
                "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
                "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
                "token_type_ids": np.array([e.type_ids for e in encodings], dtype=np.int64),
            }
            (vectors,) = session.run(None, {name: given[name] for name in names})
            out = np.empty((len(texts), vectors.shape[1]), dtype=np.float32) if out is None else out
            out[rows] = vectors
        return out

    return embed


def angle(job: dict[str, Any]) -> Embed:
    """Return the encode of AnglE, batch by batch: it pads all that it is given to one length."""
    from angle_emb import AnglE

    model = AnglE.from_pretrained(job["model"], pooling_strategy="mean", device="cpu")
    model.tokenizer.model_max_length = job["limit"]

    def embed(texts: Sequence[str], batch_size: int) -> Any:
        parts = [
            model.encode(list(texts[start : start + batch_size]), to_numpy=True, max_length=job["limit"])
            for start in range(0, len(texts), batch_size)
        ]
        vectors = np.concatenate(parts).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return embed


PEERS: dict[str, Callable[[dict[str, Any]], Embed]] = {
    "sentence-transformers fp32": sentence_transformers,
    "sentence-transformers bf16": bf16,
    "sentence-transformers ONNX": lambda job: sentence_transformers(job, "onnx"),
    "sentence-transformers OpenVINO": lambda job: sentence_transformers(job, "openvino"),
    "ONNX Runtime": onnxruntime,
    "AnglE": angle,
}


def measure(peer: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what this peer does with the job."""
    embed = PEERS[peer](job)
    embed(["The first vector."], 1)
    first = time.perf_counter() - STARTED
    speeds: dict[str, dict[str, float]] = {}
    for name, texts in job["inputs"].items():
        speeds[name] = {}
        for batch_size in job["batch_sizes"]:
            embed(texts[: 2 * batch_size], batch_size)
            taken = []
            for _ in range(job["rounds"]):
                start = time.perf_counter()
                vectors = embed(texts, batch_size)
                taken.append(time.perf_counter() - start)
            speeds[name][str(batch_size)] = len(texts) / min(taken)
        np.save(folder / f"{peer}-{name}.npy", np.asarray(vectors, dtype=np.float32))
    return {"first_vector_seconds": first, "texts_per_second": speeds, "peak_megabytes": peak_megabytes()}


def peak_megabytes() -> float:
    """Return the most memory that this process held, in MB: getrusage would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    path = Path(sys.argv[2])
    print(json.dumps(measure(sys.argv[1], json.loads(path.read_text(encoding="utf-8")), path.parent)))
