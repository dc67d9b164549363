"""What looking a step's words up once saves: the same training steps with it and without it, in turn.

    python benchmarks/words.py --data TRIPLETS.jsonl

all-MiniLM-L6-v2 with its own vocabulary, and with a table of as many rows as multilingual models have, of
which the texts use the first. Every batch is trained on both ways, one after the other, by turns; the ratio
of the two is taken batch by batch. Results go to ``results/words.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from machine import facts
from matryoshka2d.encoder.default_model import default_model_path
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.losses.columns import table_of
from matryoshka2d.losses.elastic_loss import ElasticLoss
from training import BATCH, triplets

RESULTS = Path(__file__).resolve().parent / "results"
VOCABULARIES = (30_522, 250_002)
MINI_BATCHES = (None, 1024)


def trainer(vocabulary: int, mini_batch_tokens: int | None) -> Callable[[list[list[str]]], None]:
    """Return a step of the default strategy, with heads, in fp32, on three columns of texts."""
    torch.manual_seed(0)
    encoder = ElasticEncoder(default_model_path(), device="cpu").train()
    encoder.add_heads()
    encoder.base.resize_token_embeddings(vocabulary)
    loss = ElasticLoss(encoder, mini_batch_tokens=mini_batch_tokens)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-5, fused=True)

    def step(columns: list[list[str]]) -> None:
        loss([encoder.preprocess(texts) for texts in columns]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Callable[[], None], once: bool) -> float:
    """Return the seconds of a step that looks its words up once, or in every group."""
    looked_up = table_of if once else lambda _: None
    with mock.patch("matryoshka2d.encoder.elastic.table_of", looked_up):
        start = time.perf_counter()
        step()
        return time.perf_counter() - start


def measure(vocabulary: int, mini_batch_tokens: int | None, columns: list[list[str]]) -> dict[str, Any]:
    """Return the median seconds of both, and the median and the range of their ratio."""
    step = trainer(vocabulary, mini_batch_tokens)
    batches = [[texts[i : i + BATCH] for texts in columns] for i in range(0, len(columns[0]), BATCH)]
    step(batches[0])
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number, batch in enumerate(batches[1:]):
        for once in (False, True) if number % 2 else (True, False):
            seconds[once].append(timed(lambda batch=batch: step(batch), once))  # type: ignore[misc]
    ratios = sorted(a / b for a, b in zip(seconds[False], seconds[True], strict=True))
    return {
        "vocabulary": vocabulary,
        "mini_batch_tokens": mini_batch_tokens,
        "seconds_in_every_group": statistics.median(seconds[False]),
        "seconds_once": statistics.median(seconds[True]),
        "speed": statistics.median(ratios),
        "lowest": ratios[0],
        "highest": ratios[-1],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a table in Markdown."""
    lines = [
        "| words in the table | mini-batch tokens | speed, once over in every group | range |",
        "|---|---|---|---|",
    ]
    for row in rows:
        caching = row["mini_batch_tokens"] or "no caching"
        spread = f"{row['lowest']:.2f} to {row['highest']:.2f}"
        lines.append(f"| {row['vocabulary']:,} | {caching} | {row['speed']:.2f} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", help="JSONL of triplets; default Python's documentation")
    parser.add_argument("--steps", type=int, default=12, help="batches of 64 triplets, default 12")
    arguments = parser.parse_args()
    columns = list(triplets(arguments.data, BATCH * (arguments.steps + 1)).values())
    rows = [measure(words, tokens, columns) for words in VOCABULARIES for tokens in MINI_BATCHES]
    data = Path(arguments.data).name if arguments.data else "documentation of Python"
    about = {
        **facts(),
        "data": data,
        "batch": BATCH,
        "steps": arguments.steps,
        "precision": "fp32",
        "seed": 0,
    }
    (RESULTS / "words.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n")
    command = f"python benchmarks/words.py --data {data}" if arguments.data else "python benchmarks/words.py"
    text = f"""# Words looked up once a step

Made by `{command}`: the same steps of the default strategy,
once a step and in every group of texts by turns; the ratio is that of a batch.

`{json.dumps(about)}`

{table(rows)}
"""
    (RESULTS / "words.md").write_text(text)
    print(table(rows))


if __name__ == "__main__":
    main()
