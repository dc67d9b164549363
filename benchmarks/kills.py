"""Kill train, encode, fit and export at random moments: nothing is lost, and nothing is half-written.

    OMP_NUM_THREADS=1 python benchmarks/kills.py

Each command runs once to its end, then again and again and gets a SIGKILL after a share of that time that is
drawn at random; every other time its output is there already and is to be replaced. After each kill it is
looked at what is there, the same command is called again (a training run with ``--resume`` where it says
so), and what it wrote is compared, byte by byte, with what the unbroken run wrote. A tiny model with random
weights is enough. The table goes to stdout; the exit code is 1 if anything was lost, half-written or left.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = "out"
_OLD = "what was there before"


@dataclass(frozen=True)
class Job:
    """A command, and where its output stands.

    Parameters
    ----------
    name
        What the table calls it.
    words
        The command line.
    output
        The file or folder that it writes.
    resumes
        Whether a killed run leaves work that ``--resume`` goes on with.
    """

    name: str
    words: str
    output: str = OUTPUT
    resumes: bool = False


TRAIN = "train --model {model} --data {pairs} --batch-size 8 --epochs 2 --device cpu --precision fp32"
JOBS = (
    Job("train", f"{TRAIN} --output {OUTPUT}", resumes=True),
    Job("encode to a file", "encode {model} {texts} out.npy --size 3x16", output="out.npy"),
    Job("encode to shards", "encode {model} {texts} out --size 3x16 --shard-rows 400 --shard-format npy"),
    Job("fit", "fit --model {model} --data {texts} --output out --device cpu"),
    Job("export", "export {model} --to out --size 3x16 --device cpu"),
)


@dataclass
class Tally:
    """What was seen of one command."""

    seconds: float = 0.0
    found: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def start(words: list[str], folder: Path) -> int:
    """Run a command in a copy of this process, which has everything imported; return its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.chdir(folder)
        log = os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["matryoshka2d", *words]
        from matryoshka2d.cli import main

        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(words: list[str], folder: Path) -> tuple[int, str]:
    """Run a command to its end; return its exit code and what it said."""
    pid = start(words, folder)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), (folder.parent / "log").read_text(encoding="utf-8")


def killed(words: list[str], folder: Path, seconds: float) -> bool:
    """Run a command and kill it after so many seconds; return whether it was still at work."""
    pid = start(words, folder)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def content(path: Path) -> dict[str, bytes]:
    """Return name → bytes of what counts in an output: weights and vectors."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    kinds = (".safetensors", ".npy")
    names = (str(file.relative_to(path)) for file in sorted(path.rglob("*")) if file.suffix in kinds)
    # A shard that is being written has a hidden name.
    return {name: (path / name).read_bytes() for name in names if not name.startswith(".")}


def state(path: Path, whole: dict[str, bytes]) -> str:
    """Return what stands where the output goes: nothing, the old one, the new one, or a part of it."""
    if not path.exists():
        return "absent"
    if path.is_file() and path.read_bytes() == _OLD.encode():
        return "the old one"
    if path.is_dir() and [entry.name for entry in path.iterdir()] == ["old"]:
        return "the old one"
    found = content(path)
    if found == whole:
        return "the new one"
    shards = path.is_dir() and (path / "manifest.json").is_file()
    if shards and all(whole.get(name) == there for name, there in found.items()):
        return "whole shards"
    return "HALF"


def put_old(path: Path) -> None:
    """Put something where the output goes."""
    if path.suffix:
        path.write_text(_OLD, encoding="utf-8")
    else:
        path.mkdir()
        (path / "old").write_text(_OLD, encoding="utf-8")


def one(
    job: Job, words: list[str], folder: Path, seconds: float, whole: dict[str, bytes], old: bool, tally: Tally
) -> None:
    """Kill a command once, look, call it again and look again."""
    target = folder / job.output
    again = [*words, "--overwrite"] if old else words
    if old:
        put_old(target)
    was_at_work = killed(again, folder, seconds)
    found = state(target, whole)
    kept = (folder / f"{job.output}.checkpoints").is_dir()
    tally.found[f"{found}{', beside checkpoints' if kept and found != 'the new one' else ''}"] += 1
    allowed = {"the new one", "whole shards", "the old one" if old else "absent"}
    # Between moving the old folder aside and renaming the new one there is neither.
    aside = any(folder.glob(f".{job.output}.tmp-*/replaced"))
    if found not in allowed and not (found == "absent" and aside):
        tally.wrong.append(f"after {seconds:.2f} s: {found}")
    if not was_at_work:
        tally.said["(had ended)"] += 1
        return
    code, said = run([*again, "--resume"] if old and job.resumes else again, folder)
    if "nothing to resume" in said:
        code, said = run(again, folder)
    tally.said[first_word(said)] += 1
    if code == 2 and "--resume goes on" in said:
        code, said = run([*again, "--resume"], folder)
    elif code == 2 and "exists already" in said and state(target, whole) == "the new one":
        code = 0
    if code != 0:
        tally.wrong.append(f"after {seconds:.2f} s the next run ended with {code}: {said[-300:]}")
    if content(target) != whole:
        tally.wrong.append(f"after {seconds:.2f} s the next run wrote something else than the unbroken one")
    left = sorted(path.name for path in folder.iterdir() if path.name != job.output)
    # A run that was killed when its output was there had nothing to do but to remove its checkpoints.
    if left and not (found == "the new one" and left == [f"{job.output}.checkpoints"]):
        tally.wrong.append(f"after {seconds:.2f} s there was left: {', '.join(left)}")


def first_word(said: str) -> str:
    """Return what a run said of what it found, shortened for a table."""
    known = {
        "--resume goes on": "found checkpoints: --resume goes on",
        "note: removed what a killed run left": "removed what a killed run left",
        "note: put": "put the old one back",
        "stopped before its first checkpoint": "removed a run without a checkpoint",
        "of them from before": "went on with the shards from before",
        "exists already": "the output exists already",
    }
    return next((short for words, short in known.items() if words in said), "nothing was found")


def measure(job: Job, places: dict[str, Path], moments: int, seed: int, work: Path) -> Tally:
    """Kill a command at so many moments."""
    words = job.words.format(**places).split()
    chance = random.Random(f"{seed} {job.name}")
    tally = Tally()

    def fresh() -> Path:
        folder = work / "here"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    folder, started = fresh(), time.perf_counter()
    code, said = run(words, folder)
    tally.seconds = time.perf_counter() - started
    if code != 0:
        raise SystemExit(f"{job.name} fails without a kill: {said}")
    whole = content(folder / job.output)
    for number in range(moments):
        seconds = chance.uniform(0, tally.seconds)
        one(job, words, fresh(), seconds, whole, number % 2 == 1, tally)
    return tally


def inputs(work: Path, texts: int) -> dict[str, Path]:
    """Write a tiny model, texts and pairs."""
    sys.path.insert(0, str(ROOT))
    from tests import tiny

    chance = random.Random(0)
    names = tiny.WORDS.split()
    said = [" ".join(chance.choices(names, k=chance.randint(2, 12))) for _ in range(texts)]
    model = tiny.sentence_model(work / "tiny", vocab_size=20000)
    (work / "texts.txt").write_text("\n".join(said) + "\n", encoding="utf-8")
    lines = "".join(
        f'{{"anchor": "{a}", "positive": "{b}"}}\n' for a, b in zip(said[:96], said[96:192], strict=True)
    )
    (work / "pairs.jsonl").write_text(lines, encoding="utf-8")
    return {"model": Path(model), "texts": work / "texts.txt", "pairs": work / "pairs.jsonl"}


NEEDED = (
    *(f"matryoshka2d.cli.{command}" for command in ("train", "encode", "export")),
    "matryoshka2d.training.finetuning",
    "matryoshka2d.training.fitting",
    "matryoshka2d.inference.encoding",
    "matryoshka2d.inference.torch_engine",
    "matryoshka2d.export.exporter",
    "sentence_transformers.models",
    "transformers.models.bert.modeling_bert",
    "torch.utils.tensorboard",
)
"""What the commands import, before any thread is started: each fork would import it again, for seconds."""


HEAD = """\
| command | seconds unbroken | killed | what was there | what the next run said | wrong |
|---|---|---|---|---|---|"""


def row(name: str, tally: Tally, moments: int) -> str:
    """Return what was seen of a command, as a row of a Markdown table."""
    found, said = (
        "; ".join(f"{what} {count}" for what, count in counts.most_common())
        for counts in (tally.found, tally.said)
    )
    return f"| {name} | {tally.seconds:.1f} | {moments} | {found} | {said} | {len(tally.wrong)} |"


def main() -> None:
    """Kill every command and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--moments", type=int, default=20, help="how often each command is killed")
    parser.add_argument("--texts", type=int, default=4000, help="texts to encode and to fit to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--quick", action="store_true", help="no shards, and no tuned teacher in train")
    chosen = parser.parse_args()
    for module in NEEDED:
        import_module(module)
    wrong: list[str] = []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place).resolve()
        os.environ["MATRYOSHKA2D_CACHE"] = str(work / "cache")
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        places = inputs(work, chosen.texts)
        (work / "first").mkdir()
        run(JOBS[1].words.format(**places).split(), work / "first")  # kernels are compiled once
        for job in JOBS:
            if chosen.quick and job.name == "encode to shards":
                continue
            if chosen.quick and job.resumes:
                job = replace(job, words=f"{job.words} --teacher self")
            tally = measure(job, places, chosen.moments, chosen.seed, work)
            print(row(job.name, tally, chosen.moments), flush=True)
            wrong += [f"{job.name}: {what}" for what in tally.wrong]
        left = [path for path in (work / "cache").rglob("*") if ".tmp-" in path.name or ".new-" in path.name]
    wrong += [f"left in the cache: {path.name}" for path in left]
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
