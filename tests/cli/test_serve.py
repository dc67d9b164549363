"""What ``matryoshka2d serve`` says when it cannot serve."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[..., str]


@pytest.mark.usefixtures("no_model_is_loaded")
class TestBeforeAnyModelIsLoaded:
    def test_a_port_in_use(self, refused: Refused) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = refused("serve", "no-such-model", "--port", port)
        assert f"cannot listen on 127.0.0.1 port {port}" in said
        assert "choose another --port" in said

    def test_a_host_that_is_not_there(self, refused: Refused) -> None:
        assert "cannot listen on 203.0.113.7 port 8000" in refused(
            "serve", "default", "--host", "203.0.113.7"
        )

    def test_a_file_without_keys(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("# none yet\n")
        assert "holds no key" in refused("serve", "default", "--api-keys", tmp_path / "keys")
        assert "No such file" in refused("serve", "default", "--api-keys", tmp_path / "nowhere")

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("--deadline", "60", "a time with its unit"),
            ("--max-body", "32", "bytes with their unit"),
            ("--on-too-long", "cute", "expected cut or refuse"),
            ("--max-inputs", "0", "expected a number above 0"),
            ("--port", "99999", "expected 0 to 65535"),
        ],
    )
    def test_an_option_that_cannot_be(self, refused: Refused, option: str, value: str, said: str) -> None:
        assert said in refused("serve", "default", option, value)


def test_a_model_without_weights(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("serve", tmp_path / "empty", "--port", "0")


def test_a_model_that_is_not_there(refused: Refused) -> None:
    assert "no/such/model" in refused("serve", "no/such/model", "--port", "0")
