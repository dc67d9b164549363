"""A process of its own, told to stop under load."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from tests.serving.conftest import process


def test_a_process_that_is_told_to_stop_answers_what_it_accepted(model: str) -> None:
    texts = [f"the cat sat {i} times on the mat in the rain and the sun" for i in range(900)]
    body = json.dumps({"model": "tiny", "input": texts}).encode()
    environment = {**os.environ, "MATRYOSHKA2D_API_KEYS": "secret, other"}
    with process(f"tiny={model}", environment=environment) as (url, running):
        head = {"Authorization": "Bearer other"}

        def ask(_: int) -> int:
            request = urllib.request.Request(f"{url}/v1/embeddings", body, head)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert len(json.load(answer)["data"]) == len(texts)
                return int(answer.status)

        def waiting() -> int:
            with urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", headers=head)) as page:
                lines = page.read().decode().splitlines()
            return int(
                float(next(line for line in lines if line.startswith("matryoshka2d_queue_tokens")).split()[1])
            )

        with ThreadPoolExecutor(3) as callers:
            answers = [callers.submit(ask, i) for i in range(3)]
            while waiting() < 25_000:
                assert not all(one.done() for one in answers)
            running.send_signal(signal.SIGTERM)
            statuses = [one.result() for one in answers]
        code = running.wait(30)
        assert running.stderr is not None
        assert (statuses, code, running.stderr.read()) == ([200] * 3, 0, "")
