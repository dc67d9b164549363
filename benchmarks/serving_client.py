"""One client process: sends requests as serving.py says, and prints what came of it as one line of JSON.

    python serving_client.py < JOB.json

Raw sockets under asyncio and nothing of this package, so that the client takes little of the machine and is
the same for every server. Run by benchmarks/serving.py.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_LIMIT = 1 << 26
_UNANSWERED = 0
"""The status of a request that was sent and got no answer."""


@dataclass(frozen=True)
class Target:
    """A server's route."""

    host: str
    port: int
    path: str

    def payload(self, body: dict[str, Any]) -> bytes:
        """Return the bytes of a request."""
        content = json.dumps(body).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


class Connection:
    """A connection that is kept, and opened again when the server ends it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, payload: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        if self.writer is None or self.writer.is_closing():
            target = self.target
            self.reader, self.writer = await asyncio.open_connection(target.host, target.port, limit=_LIMIT)
        self.writer.write(payload)
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:-2])}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.close()
            return _UNANSWERED, {}, b""
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(head[0].split()[1]), headers, body

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer = None


def seconds_of(taken: list[float]) -> dict[str, float]:
    """Return the usual percentiles, in milliseconds."""
    ordered = sorted(taken) or [float("nan")]
    return {f"p{p}": 1000 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 95, 99)}


async def closed(target: Target, job: dict[str, Any]) -> dict[str, Any]:
    """Every connection sends its next request when it has the answer to its last, for some seconds."""
    payloads = [target.payload(body) for body in job["bodies"]]
    turns: Iterator[bytes] = itertools.cycle(payloads)
    taken: list[float] = []
    statuses: Counter[int] = Counter()
    begun = time.perf_counter() + job["warm"]
    end = begun + job["seconds"]
    left = job.get("requests") or sys.maxsize

    async def one() -> None:
        nonlocal left
        connection = Connection(target)
        while time.perf_counter() < end and left > 0:
            left -= 1
            sent = time.perf_counter()
            try:
                status, _, _ = await connection.ask(next(turns))
            except OSError:
                return
            statuses[status] += 1
            now = time.perf_counter()
            if begun <= now <= end:
                taken.append(now - sent)
            if status in (503, _UNANSWERED):
                return
        connection.close()

    await asyncio.gather(*(one() for _ in range(job["connections"])))
    spent = max(1e-9, min(end, time.perf_counter()) - begun)
    return {"rate": len(taken) / spent, "requests": len(taken), "statuses": statuses, **seconds_of(taken)}


async def beside(target: Target, job: dict[str, Any]) -> dict[str, Any]:
    """One connection sends single queries while another streams long requests without a pause."""
    singles = [target.payload(body) for body in job["bodies"]]
    longs = [target.payload(body) for body in job["long_bodies"]]
    end = time.perf_counter() + job["seconds"]
    taken: list[float] = []
    done = 0

    async def stream() -> None:
        nonlocal done
        connection = Connection(target)
        for payload in itertools.cycle(longs):
            if time.perf_counter() > end:
                break
            status, _, _ = await connection.ask(payload)
            done += status == 200
        connection.close()

    async def probe() -> None:
        connection = Connection(target)
        await asyncio.sleep(job["warm"])
        for payload in itertools.cycle(singles):
            if time.perf_counter() > end:
                break
            sent = time.perf_counter()
            status, _, _ = await connection.ask(payload)
            assert status == 200
            taken.append(time.perf_counter() - sent)
            await asyncio.sleep(job["pause"])
        connection.close()

    tasks = [probe(), *([stream()] if longs else [])]
    await asyncio.gather(*tasks)
    return {"long_requests": done, "requests": len(taken), **seconds_of(taken)}


async def verify(target: Target, job: dict[str, Any]) -> dict[str, Any]:
    """Requests of all sizes and lengths at once; every answer is compared with what it must be."""
    expected = np.load(job["reference"])
    texts, sizes = job["texts"], job["sizes"]
    rng = random.Random(0)
    plans = [
        (rng.choice(sizes), rng.choice(job["counts"]), rng.randrange(len(texts)))
        for _ in range(job["requests"])
    ]
    queue = iter(enumerate(plans))
    found = Counter(missing=0, swapped=0, unequal_bits=0)
    worst = {"difference": 0.0, "norm": 0.0}

    async def one() -> None:
        connection = Connection(target)
        for number, (size, count, start) in queue:
            rows = [(start + 37 * i) % len(texts) for i in range(count)]
            coded = number % 2 == 0
            body = {"model": f"{job['model']}@{size}", "input": [texts[row] for row in rows]}
            payload = target.payload({**body, "encoding_format": "base64" if coded else "float"})
            status, headers, content = await connection.ask(payload)
            while status in (429, 503):
                found["asked to come again"] += 1
                await asyncio.sleep(float(headers["retry-after"]))
                status, headers, content = await connection.ask(payload)
            if status != 200:
                found["missing"] += 1
                continue
            data = json.loads(content)["data"]
            vectors = [
                np.frombuffer(base64.b64decode(d["embedding"]), "<f4")
                if coded
                else np.array(d["embedding"], "<f4")
                for d in data
            ]
            made, wanted = np.stack(vectors).astype(float), expected[size][rows].astype(float)
            off = np.abs(made - wanted).max(axis=1)
            found["swapped"] += int((off > 1e-3).sum())
            worst["difference"] = max(worst["difference"], float(off.max()))
            worst["norm"] = max(worst["norm"], float(np.abs(np.linalg.norm(made, axis=1) - 1).max()))
            found["requests"] += 1
        connection.close()

    await asyncio.gather(*(one() for _ in range(job["connections"])))
    return {**found, **worst}


async def bits(target: Target, job: dict[str, Any]) -> dict[str, Any]:
    """The same requests as numbers and as base64, one by one: whether their bits are equal."""
    connection = Connection(target)
    unequal = 0
    for body in job["bodies"]:
        found = []
        for form in ("float", "base64"):
            _, _, content = await connection.ask(target.payload({**body, "encoding_format": form}))
            raw = [one["embedding"] for one in json.loads(content)["data"]]
            found.append(
                [
                    np.frombuffer(base64.b64decode(v), "<f4").tobytes()
                    if isinstance(v, str)
                    else np.array(v).astype("<f4").tobytes()
                    for v in raw
                ]
            )
        unequal += sum(left != right for left, right in zip(*found, strict=True))
    return {"unequal_bits": unequal}


async def overload(target: Target, job: dict[str, Any]) -> dict[str, Any]:
    """Requests at a steady rate, whatever becomes of them; no more connections than there are sockets."""
    turns = itertools.cycle([target.payload(body) for body in job["bodies"]])
    idle: list[Connection] = []
    statuses: Counter[int] = Counter()
    bare = 0
    slowest = 0.0
    tasks: set[asyncio.Task[None]] = set()

    async def one() -> None:
        nonlocal bare, slowest
        connection = idle.pop() if idle else Connection(target)
        sent = time.perf_counter()
        status, headers, _ = await connection.ask(next(turns))
        slowest = max(slowest, time.perf_counter() - sent)
        statuses[status] += 1
        bare += status == 429 and "retry-after" not in headers
        idle.append(connection)

    begun = time.perf_counter()
    sent = 0
    while (passed := time.perf_counter() - begun) < job["seconds"]:
        while sent < passed * job["rate"] and len(tasks) < job["connections"]:
            task = asyncio.ensure_future(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        sent = max(sent, int(passed * job["rate"]) - job["connections"])
        await asyncio.sleep(0.005)
    ended = time.perf_counter()
    offered = sum(statuses.values()) / (ended - begun)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return {"offered": offered, "statuses": statuses, "without_retry_after": bare, "slowest": slowest}


async def deviations(target: Target, job: dict[str, Any]) -> dict[str, Any]:
    """What other servers get wrong, asked of this one: name → whether it is right, and what was seen."""
    model = job["model"]
    connection = Connection(target)

    async def ask(**body: Any) -> tuple[int, dict[str, str], Any]:
        status, headers, content = await connection.ask(target.payload({"model": model, **body}))
        return status, headers, json.loads(content)

    async def shape(**body: Any) -> tuple[int, bool]:
        status, _, answer = await ask(**body)
        error = answer.get("error") if isinstance(answer, dict) else None
        return status, isinstance(error, dict) and {"message", "type", "param", "code"} <= set(error)

    found: dict[str, tuple[bool, Any]] = {}
    status, _, answer = await ask(input="a cat", dimensions=64)
    norm = float(np.linalg.norm(answer["data"][0]["embedding"])) if status == 200 else None
    found["a cut vector has unit length"] = (norm is not None and abs(norm - 1) < 1e-5, norm)
    _, _, answer = await ask(input=["a cat sat on the mat"])
    found["usage counts tokens"] = (answer["usage"]["prompt_tokens"] == 8, answer["usage"]["prompt_tokens"])
    status, right = await shape(model="no-such-model", input="a cat")
    found["an unknown model is a 404"] = (status == 404 and right, status)
    status, _, _ = await ask(input="a cat", encoding_format=None)
    found["encoding_format null is float"] = (status == 200, status)
    status, right = await shape(input=[])
    found["an empty list is OpenAI's 400"] = (status == 400 and right, status)
    status, headers, _ = await ask(input="word " * 24_000)
    told = any("truncated" in name for name in headers)
    found["a cut text is said to be cut"] = (status == 400 or told, status)
    status, right = await shape(input="")
    found["an empty text is a 400"] = (status == 400 and right, status)
    reader, writer = await asyncio.open_connection(target.host, target.port, limit=_LIMIT)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    page = (await reader.read()).decode("latin-1")
    found["the engine has figures"] = ("queue" in page and "batch" in page, len(page))
    writer.close()
    connection.close()
    return {name: {"right": right, "seen": seen} for name, (right, seen) in found.items()}


MODES = {one.__name__: one for one in (closed, beside, verify, bits, overload, deviations)}


def main() -> None:
    """Do the job on stdin."""
    job = json.load(sys.stdin)
    target = Target(job["host"], job["port"], job["path"])
    print(json.dumps(asyncio.run(MODES[job["mode"]](target, job))))


if __name__ == "__main__":
    main()
