"""Random input for everything that reads what a user wrote: no crash, no hang, no NaN, one line at most.

    python benchmarks/fuzz.py [--inputs 1000000] [--seed 0] [--only readers,sizes] [--output fuzz.json]

Atheris (libFuzzer) changes valid files and texts, guided by the lines of the package that they reach. Each
target runs in a process of its own; what breaks it is written into the working folder as ``crash-…``.
An input ends well if it is read, with finite numbers, or refused by a `UserError` of one line; thirty seconds
for one input are a hang, and 4 GB are too much memory.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import io
import itertools
import json
import logging
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

from matryoshka2d.errors import UserError

INSTRUMENTED = (
    *(
        "matryoshka2d.data.streams",
        "matryoshka2d.inference.encoding",
        "matryoshka2d.evaluation.retrieval_sets",
    ),
    *("matryoshka2d.evaluation.sts", "matryoshka2d.planning.budget", "matryoshka2d.size"),
    *("matryoshka2d.training.training_options", "matryoshka2d.cli.option_flags"),
)
Target = Callable[[bytes], None]

SHARES = {"readers": 0.4, "sizes": 0.25, "budget": 0.2, "yaml": 0.05, "prompts": 0.05, "texts": 0.05}
"""Which part of the inputs each target gets."""

ROWS = [
    {"_id": str(i), "title": "On", "text": text, "sentence1": text, "sentence2": "b", "score": i / 2}
    for i, text in enumerate(["A cat, “mat”.", "a\u2028b", "Où? 😀"])
]
ENDINGS = (
    *(".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow"),
    *(".jsonl.gz", ".csv.gz", ".jsonl.zst", ".tsv.zst"),
)
WORDS = (
    *('"{', '"}', '":', "\\\\u", "\\\\ud83d", "NaN", "Infinity", "null", "true", "1e999", "-0", "[[", "]]"),
    *(
        '""',
        '","',
        "\\x00",
        "\\x0d\\x0a",
        "\\xe2\\x80\\xa8",
        "\\xff\\xfe",
        "\\xef\\xbb\\xbf",
        "\\xed\\xa0\\xbd",
    ),
    *("text", "title", "_id", "sentence1", "sentence2", "score", "anchor", "positive", "negative", "split"),
    *(
        "sep=;",
        "1-6x8,16",
        "999999999",
        "1-999999999:1",
        "97%",
        "2ms",
        "20M",
        "4GB",
        "&a",
        "*a",
        "<<: ",
        "!!float",
    ),
)


# --- targets: bytes → nothing, or what is wrong ------------------------------------------------------------


def refused_in_one_line(act: Callable[[], Any]) -> Any:
    """Return what an act returns, or None where it is refused as it ought to be."""
    try:
        return act()
    except UserError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))
        return None


def readers(folder: Path) -> Target:
    """Files of every form, for every reader: the first two bytes say which."""
    from matryoshka2d.data.streams import open_stream
    from matryoshka2d.evaluation import read_retrieval, read_sts
    from matryoshka2d.inference.encoding import look_over, read_texts

    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "a"}\n')
    (folder / "qrels.tsv").write_text("q\t0\t1\n")

    def trained_on(path: Path, whole: bool) -> None:
        stream = open_stream(path, whole=whole)
        for shard in stream.shards:
            for columns in stream.columns_of(shard):
                assert all(0 <= score <= 1 for score in columns.get("score", []))
                assert all(text.strip() for text in columns.get("text", ["a"]))

    def evaluated(path: Path) -> None:
        for one in read_sts(path, None):
            assert all(map(math.isfinite, one.gold))

    acts: tuple[Callable[[Path], Any], ...] = (
        lambda path: trained_on(path, True),
        lambda path: trained_on(path, False),
        evaluated,
        lambda path: look_over(path, None, with_schema=True),
        read_texts,
        lambda path: read_retrieval(path.parent),
        read_retrieval,
    )

    def run(data: bytes) -> None:
        if len(data) < 2:
            return
        path = folder / f"corpus{ENDINGS[data[0] % len(ENDINGS)]}"
        content = data[2:]
        if data[1] >= 128 and path.suffix == ".gz":
            content = gzip.compress(content, 1)
        path.write_bytes(content)
        try:
            refused_in_one_line(lambda: acts[data[1] % len(acts)](path))
        finally:
            path.unlink()

    return run


def sizes(_: Path) -> Target:
    """Sizes and grids of them."""
    from matryoshka2d.size import Size, parse_sizes

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        size = refused_in_one_line(lambda: Size.parse(text))
        assert size is None or Size.parse(str(size)) == size
        found = refused_in_one_line(lambda: parse_sizes(text))
        assert found is None or all(one.layers > 0 and one.dims > 0 for one in found)

    return run


def budget(_: Path) -> Target:
    """Budgets of a plan, each limit a text."""
    from matryoshka2d.planning import Budget

    names = (
        "max_latency",
        "min_throughput",
        "max_memory",
        "max_index",
        "min_quality",
        "documents",
        "precision",
    )

    def run(data: bytes) -> None:
        parts = data.decode("utf-8", "surrogateescape").split("\n")
        limits = {names[ord(part[0]) % len(names)]: part[1:] for part in parts if part}
        made = refused_in_one_line(lambda: Budget.from_dict(limits))
        if made is not None:
            assert "nan" not in str(made).lower()
            assert all(math.isfinite(v) for v in made.to_dict().values() if isinstance(v, int | float))

    return run


def yaml(folder: Path) -> Target:
    """YAML files of the options of a training."""
    from matryoshka2d.cli.option_flags import _options
    from matryoshka2d.training.training_options import TrainingOptions

    path = folder / "config.yaml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        refused_in_one_line(lambda: _options(TrainingOptions, "train", path, {}))

    return run


def texts(folder: Path, *, prompts: bool = False) -> Target:
    """Texts of any characters, one by one and together, and prompts before them, for the engine."""
    import numpy as np

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests import tiny

    from matryoshka2d.inference import open_engine

    engine = open_engine(
        tiny.sentence_model(folder / "model", prompts={"query": "query : "}), "torch", "fp32"
    )
    names = (None, "query", "passage", "Query", "")

    def run(data: bytes) -> None:
        # Bytes that are no UTF-8 become half pairs, as Python has them for names of files.
        text = data.decode("utf-8", "surrogateescape")
        some = text.split("\n")[:8]
        name = names[len(data) % len(names)] if prompts else None
        vectors = refused_in_one_line(lambda: engine.embed(some, prompt_name=name))
        if vectors is not None:
            assert vectors.shape == (len(some), engine.size.dims)
            assert np.isfinite(vectors).all()

    return run


TARGETS: dict[str, Callable[[Path], Target]] = {
    "readers": readers,
    "sizes": sizes,
    "budget": budget,
    "yaml": yaml,
    "prompts": lambda folder: texts(folder, prompts=True),
    "texts": texts,
}


# --- valid inputs to begin with ------------------------------------------------------------


def seeds(target: str) -> Iterator[bytes]:
    """Yield valid inputs of a target."""
    if target == "readers":
        yield from _files()
    elif target == "sizes":
        yield from (b"6x128", b"1-6x8,16,32", b"2x32 4x64", b"2-12:2x64", "3×8".encode())
    elif target == "budget":
        yield from (b"b2ms\nf97%\na4GB\ng20M", b"c500/s\nd600MB\nhint8", b"d1e3", b"f0.97")
    elif target == "yaml":
        yield b"data: [a.jsonl]\noutput: out\nepochs: 1\nstrategy: 2dmse\nstrategy_options: {dims: 2}\n"
        yield b"learning_rate: 3e-4\nlora: true\nrows: {a: 3}\nbatch-size: 64\nseed: 2024-01-01\n"
    else:
        for text in ("a cat\nsat on\n" * 9, "Où? 😀\u2028\u0301\u202e", "\0\n\u200b", "x" * 900):
            yield text.encode()


def _files() -> Iterator[bytes]:
    for (place, ending), reader in itertools.product(enumerate(ENDINGS), range(7)):
        yield bytes([place, reader]) + _content(ending)


def _content(ending: str) -> bytes:
    import csv

    import pyarrow as pa
    from pyarrow import parquet

    out, table = io.BytesIO(), pa.Table.from_pylist(ROWS)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    written = io.StringIO(newline="")
    sheet = csv.DictWriter(written, list(ROWS[0]), delimiter="\t" if ".tsv" in ending else ",")
    sheet.writeheader()
    sheet.writerows(ROWS)
    if ending == ".parquet":
        parquet.write_table(table, out)
    elif ending == ".arrow":
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    else:
        plain = json.dumps(ROWS).encode() if ending == ".json" else lines if "json" in ending else None
        out.write(written.getvalue().encode() if plain is None else plain)
    content = out.getvalue()
    if ending.endswith(".zst"):
        packed = pa.BufferOutputStream()
        with pa.CompressedOutputStream(packed, "zstd") as stream:
            stream.write(content)
        return bytes(packed.getvalue().to_pybytes())
    return gzip.compress(content) if ending.endswith(".gz") else content


# --- running ------------------------------------------------------------


def fuzz(target: str, inputs: int, seed: int) -> None:
    """Fuzz one target in this process, which ends with it."""
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["matryoshka2d"]):
        for module in INSTRUMENTED:
            importlib.import_module(module)
    room = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=room) as place:
        folder, corpus, work = (Path(place, name) for name in ("files", "corpus", "work"))
        for one in (folder, corpus, work):
            one.mkdir()
        for number, content in enumerate(seeds(target)):
            (corpus / f"{number:03}").write_bytes(content)
        words = work / "words"
        words.write_text("".join('"' + word.replace('"', '\\"') + '"\n' for word in WORDS))
        flags = (
            *(f"-runs={inputs}", f"-seed={seed + 1}", "-max_len=4096", "-timeout=30", "-rss_limit_mb=4096"),
            *(f"-dict={words}", "-print_final_stats=1", "-close_fd_mask=0"),
        )
        atheris.Setup([sys.argv[0], *flags, str(corpus)], TARGETS[target](folder))
        atheris.Fuzz()


def main() -> None:
    """Fuzz every target, and say how many inputs each took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS), help="which targets, with commas")
    parser.add_argument("--output", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = options.only.split(",")
    if options.here:
        fuzz(chosen[0], options.inputs, options.seed)
        return
    total = sum(SHARES[name] for name in chosen)
    figures: dict[str, Any] = {"seed": options.seed, "python": sys.version.split()[0], "targets": {}}
    for name in chosen:
        inputs = math.ceil(options.inputs * SHARES[name] / total)
        words = ["--here", "--only", name, "--inputs", str(inputs), "--seed", str(options.seed)]
        done = subprocess.run(
            [sys.executable, __file__, *words], capture_output=True, text=True, errors="replace", check=False
        )
        ran = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        figures["targets"][name] = {"inputs": int(ran[1]) if ran else 0, "ended": done.returncode}
        print(name, figures["targets"][name], flush=True)
        if done.returncode:
            print(done.stderr[-6000:], flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(any(target["ended"] for target in figures["targets"].values()))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
