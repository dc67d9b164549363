"""Streamed rows: how much memory they take, and how long a resumed run needs to pass what it has seen.

    python benchmarks/streaming.py

Parquet shards of made-up triplets, few and many, are read to the end as batches of 64 through a buffer of
10000 rows, each in a process of its own that trains nothing. Results go to ``results/streaming.json`` and
``.md``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from large_batches import memory
from machine import facts

RESULTS = Path(__file__).resolve().parent / "results"
BATCH, BUFFER, ROWS_A_SHARD, SEED = 64, 10_000, 100_000, 0
SHARDS = (1, 10, 40)


def write_shards(folder: Path, count: int) -> float:
    """Write shards of triplets of about 12 words a text, and return their size in MB."""
    import numpy as np
    import pyarrow
    from pyarrow import parquet

    for part in range(count):
        chance = np.random.default_rng((SEED, part))
        columns = {
            name: [" ".join(map(str, words)) for words in chance.integers(100_000, size=(ROWS_A_SHARD, 12))]
            for name in ("anchor", "positive", "negative")
        }
        parquet.write_table(pyarrow.table(columns), folder / f"{part:03}.parquet", row_group_size=10_000)
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def measure(folder: str) -> dict[str, float]:
    """Read all batches in this process; return rows a second and the growth of memory in MB."""
    from matryoshka2d.data import StreamBatchSampler, open_stream

    stream = open_stream(folder)
    assert stream.rows is not None
    length = stream.rows // BATCH
    batches = iter(
        StreamBatchSampler({"rows": stream}, [1.0], batch_size=BATCH, length=length, buffer=BUFFER, seed=SEED)
    )
    before, start = memory("VmRSS"), time.perf_counter()
    rows = sum(len(batch) for batch in batches)
    return {"rows_a_second": rows / (time.perf_counter() - start), "growth_mb": memory("VmHWM") - before}


def main() -> None:
    """Measure each number of shards and write the tables."""
    found = []
    for count in SHARDS:
        with tempfile.TemporaryDirectory() as folder:
            size = write_shards(Path(folder), count)
            done = subprocess.run(
                [sys.executable, __file__, folder], capture_output=True, text=True, check=True
            )
            found.append({"rows": count * ROWS_A_SHARD, "files_mb": size, **json.loads(done.stdout)})
    command = "python benchmarks/streaming.py"
    record = {**facts(), "command": command, "seed": SEED, "runs": found}
    (RESULTS / "streaming.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    lines = [
        "# Streams: memory and reading\n",
        "Batches of 64 triplets from Parquet shards through a buffer of 10000 rows, read to the end without",
        "training: what a resumed run does with the batches that it has seen. Growth is the peak of resident",
        "memory over that before the first batch.\n",
        f"`{command}`, seed {SEED}; {record['processor']}, one thread, {record['date']}\n",
        "| rows | files in MB | growth in MB | rows a second |",
        "|---|---|---|---|",
        *(
            f"| {run['rows']} | {run['files_mb']:.0f} | {run['growth_mb']:.0f} | {run['rows_a_second']:.0f} |"
            for run in found
        ),
    ]
    (RESULTS / "streaming.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
