"""Peak memory of every depth: each is cut out of the model and embeds in a process of its own.

    python -m matryoshka2d.planning.memory FOLDER ENGINE PRECISION DEVICE < texts.json

loads a model into an engine, embeds, and prints the most memory that the process ever held.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from matryoshka2d.errors import UserError, needs
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder

_AT_ONCE = 2


def measure_memory(
    encoder: ElasticEncoder,
    layers: Iterable[int],
    texts: Sequence[str],
    *,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
) -> dict[int, float]:
    """Return layers → peak bytes of a process that loads that depth alone and embeds the texts.

    Everything counts: the interpreter, the libraries, the weights, the batches; on a GPU also what is held
    there. A process takes a few seconds to start; two run at a time.

    Parameters
    ----------
    encoder
        The model, loaded whole.
    layers
        The depths.
    texts
        What is embedded, in one call.
    engine, precision, device
        As in `open_engine`.

    Raises
    ------
    UserError
        If a process fails; the message is its last line.
    """
    with tempfile.TemporaryDirectory(prefix="matryoshka2d-") as place, ThreadPoolExecutor(_AT_ONCE) as pool:
        folders = {n: Path(place) / str(n) for n in layers}

        def peak(n: int) -> float:
            encoder.truncate(Size(n, encoder.width)).save(str(folders[n]), create_model_card=False)
            command = [sys.executable, "-m", __name__, str(folders[n]), engine, precision, device or ""]
            return _run(command, json.dumps(list(texts)))

        return dict(zip(folders, pool.map(peak, folders), strict=True))


def _run(command: list[str], given: str) -> float:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"memory could not be measured: {words}")
    return float(done.stdout.split()[-1])


def _peak() -> float:
    """Return the most bytes that this process has held so far, those on a GPU included."""
    import torch

    on_gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    try:
        import resource
    except ImportError:  # Windows
        needs("cli", "psutil")
        import psutil

        return float(psutil.Process().memory_info().peak_wset + on_gpu)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most * (1 if sys.platform == "darwin" else 1024) + on_gpu)


def _embed_and_print(folder: str, engine: str, precision: str, device: str) -> None:
    from matryoshka2d.inference import open_engine

    texts = json.load(sys.stdin)
    calibration = texts if precision == "int8" else None
    open_engine(folder, engine, precision, device or None, calibration=calibration).embed(texts)
    print(_peak())


if __name__ == "__main__":
    _embed_and_print(*sys.argv[1:])
