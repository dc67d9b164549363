"""Under load: nothing is swapped or lost, short requests go first, what is too much is told to come back."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.serving import transfer
from tests import tiny
from tests.serving.conftest import Patched, Running

Start = Callable[..., Running]
RIVER = tiny.tokenizer()("river", add_special_tokens=False)["input_ids"][0]


def post(running: Running, **body: Any) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    try:
        connection.request("POST", "/v1/embeddings", json.dumps({"model": "tiny", **body}))
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(answer.read())
    finally:
        connection.close()


def until(met: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "this never came about"
        time.sleep(0.01)


def test_nothing_is_swapped_or_missing(running: Start, encoder: ElasticEncoder, mixed: list[str]) -> None:
    server = running()
    sizes = [f"{layers}x{dims}" for layers in range(1, 5) for dims in (8, 32)]
    expected = {size: encoder.encode(mixed, size=size) for size in sizes}

    def ask(seed: int) -> None:
        rng = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for _ in range(25):
            rows = [rng.randrange(len(mixed)) for _ in range(rng.choice([1, 1, 1, 3, 40]))]
            size = rng.choice(sizes)
            body = {"model": f"tiny@{size}", "input": [mixed[row] for row in rows]}
            connection.request("POST", "/v1/embeddings", json.dumps(body))
            answer = json.loads(connection.getresponse().read())
            assert [one["index"] for one in answer["data"]] == list(range(len(rows)))
            found = np.array([one["embedding"] for one in answer["data"]], dtype=np.float32)
            np.testing.assert_allclose(found, expected[size][rows], atol=2e-6)
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
        connection.close()

    with ThreadPoolExecutor(24) as callers:
        list(callers.map(ask, range(24)))
    until(lambda: server.state.admission.held == 0)


def test_a_short_request_does_not_wait_for_a_long_one(running: Start, runner: Patched) -> None:
    server = running()
    runner.seconds = 0.05
    post(server, input="a cat")
    rng = random.Random(0)
    texts = [" ".join(rng.choices(tiny.WORDS.split(), k=30)) for _ in range(2048)]
    long = threading.Thread(target=post, args=(server,), kwargs={"input": texts})
    long.start()
    until(lambda: server.state.admission.held > 1000)
    before = runner.batches
    for _ in range(5):
        assert post(server, input="a dog")[0] == 200
    # One worker: each short one waits for one batch of the long one at most.
    assert runner.batches - before <= 12
    assert long.is_alive()
    long.join(60)


def test_too_much_is_told_to_come_back(running: Start, runner: Patched) -> None:
    server = running(max_request_tokens=150, max_queue_tokens=200)
    runner.seconds = 0.02
    found: Counter[int] = Counter()

    def ask(_: int) -> None:
        for _ in range(6):
            status, headers, body = post(
                server, input=["the cat sat on the mat in the rain"] * 1 + ["a dog runs"]
            )
            found[status] += 1
            if status == 429:
                assert body["error"]["code"] == "overloaded"
                assert int(headers["retry-after"]) >= 1
                assert int(headers["retry-after-ms"]) > 0

    with ThreadPoolExecutor(32) as callers:
        list(callers.map(ask, range(32)))
    assert set(found) == {200, 429}
    until(lambda: server.state.admission.held == 0)
    assert post(server, input="a cat")[0] == 200


def test_the_stock_client_comes_through_an_overload(running: Start, runner: Patched) -> None:
    server = running(max_request_tokens=30, max_queue_tokens=40)
    runner.seconds = 0.01
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=8)
    with ThreadPoolExecutor(8) as callers:
        made = list(
            callers.map(lambda _: client.embeddings.create(model="tiny", input="the cat sat"), range(24))
        )
    assert len(made) == 24


def test_a_request_that_waits_too_long_is_given_up(running: Start, runner: Patched) -> None:
    server = running(deadline=0.15)
    runner.seconds = 0.4
    status, headers, body = post(server, input="a cat")
    assert (status, body["error"]["code"], headers["retry-after"]) == (503, "deadline_exceeded", "1")
    runner.seconds = 0.0
    until(lambda: server.state.admission.held == 0)
    time.sleep(0.4)
    assert post(server, input="a cat")[0] == 200


def test_a_connection_that_is_closed_costs_nothing(running: Start, runner: Patched) -> None:
    server = running()
    runner.seconds = 0.1
    body = json.dumps({"model": "tiny", "input": [f"{'cat ' * 60}{i}" for i in range(2000)]}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(head + body)
    until(lambda: server.state.admission.held > 0)
    connection.close()
    until(lambda: server.state.admission.held == 0, seconds=5)
    done = runner.batches
    assert post(server, input="a cat")[0] == 200
    assert runner.batches <= done + 3
    assert server.state.metrics.abandoned._value.get() == 1


@pytest.mark.parametrize(
    "texts",
    [
        ["a cat", "a river", "a dog"],
        [f"a {i % 9} river" if i == 70 else f"cat {'dog ' * (i % 30)}" for i in range(90)],
    ],
)
@pytest.mark.parametrize("kind", ["spoilt", "deadly"])
def test_a_text_without_a_vector_is_named_and_fails_alone(
    running: Start, runner: Patched, kind: str, texts: list[str]
) -> None:
    server = running()
    setattr(runner, kind, RIVER)
    row = next(i for i, text in enumerate(texts) if "river" in text)
    with ThreadPoolExecutor(8) as callers:
        others = [callers.submit(post, server, input=f"a cat {'sat ' * i}") for i in range(12)]
        status, headers, body = post(server, input=texts)
        assert [one.result()[0] for one in others] == [200] * 12
    assert status == 500
    assert headers["x-should-retry"] == "false"
    assert f"no finite vector for input[{row}]:" in body["error"]["message"]
    assert post(server, input=[text for text in texts if "river" not in text])[0] == 200


def test_a_stopped_server_answers_what_it_accepted(running: Start, runner: Patched) -> None:
    server = running()
    runner.seconds = 0.05
    texts = [f"cat {'dog ' * (i % 50)}" for i in range(400)]
    with ThreadPoolExecutor(4) as callers:
        accepted = [callers.submit(post, server, input=texts) for _ in range(4)]
        until(lambda: server.state.active == 4 and server.state.admission.held > 5000)
        server.tell_to_stop()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        status, _, body = post(server, input="a cat")
        assert (status, body["error"]["code"]) == (503, "draining")
        assert [one.result()[0] for one in accepted] == [200] * 4
    server.thread.join(10)
    assert not server.thread.is_alive()


def test_a_body_that_never_ends_is_given_up(running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_READ_SECONDS", 0.2)
    server = running()
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    for one in slow:
        one.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert post(server, input="a cat")[0] == 200
    for one in slow:
        one.settimeout(10)
        assert b"408 Request Timeout" in one.recv(1000)
        one.close()


def test_a_client_that_does_not_read_holds_nothing_for_long(
    running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_WRITE_SECONDS", 0.3)
    server = running()
    body = json.dumps({"model": "tiny", "input": ["a cat", "a dog"] * 1024}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall((head + body) * 4)
    until(lambda: server.state.active == 1)
    until(lambda: server.state.active == 0 and server.state.admission.held == 0)
    assert post(server, input="a cat")[0] == 200
    connection.close()
