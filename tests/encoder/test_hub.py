"""The hub is asked once: a silent one costs a moment, and the cache is read."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from matryoshka2d import ElasticEncoder, UserError
from matryoshka2d.encoder.hub import hub_arguments, why_silent


class _Refuses(BaseHTTPRequestHandler):
    asked = 0

    def do_HEAD(self) -> None:
        _Refuses.asked += 1
        self.send_error(405)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub be asked, directly, wherever the endpoint points."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(online: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A hub that answers, if only with an error."""
    _Refuses.asked = 0
    with HTTPServer(("127.0.0.1", 0), _Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


@pytest.fixture
def silent(online: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a hub that is not there: a port that was free a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    return endpoint


def test_a_hub_that_answers_with_an_error_answers_and_is_asked_once(server: HTTPServer) -> None:
    assert [why_silent() for _ in range(3)] == [None, None, None]
    assert _Refuses.asked == 1
    assert hub_arguments("owner/name", {"device": "cpu"}) == {"device": "cpu"}


def test_an_address_that_is_none_is_left_to_the_hubs_library(
    online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "nowhere")
    assert why_silent() is None


def test_an_answer_that_is_no_http_is_one_too(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            caller, _ = server.accept()
            with caller:
                caller.recv(1000)
                caller.sendall(b"hello\n")

        threading.Thread(target=babble, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert why_silent() is None


def test_a_silent_hub_leaves_the_cache(silent: str) -> None:
    assert why_silent() == f"{silent} does not answer"
    assert hub_arguments("owner/name", {}) == {"local_files_only": True}


def test_what_was_asked_for_is_kept(silent: str, tmp_path: Path) -> None:
    assert hub_arguments("owner/name", {"local_files_only": False}) == {"local_files_only": False}
    assert hub_arguments(str(tmp_path), {}) == {}


def test_offline_is_not_asked(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert why_silent() == "HF_HUB_OFFLINE is set"
    assert _Refuses.asked == 0


@pytest.mark.parametrize("size", [None, "2x8"])
def test_a_model_of_a_silent_hub_is_one_line_that_says_so(silent: str, size: str | None) -> None:
    with pytest.raises(UserError, match=f"give it: {silent} does not answer, and no copy is in the cache"):
        ElasticEncoder("nobody/nothing-at-all", size=size)
