"""Scaling out as the docs show it: two processes behind nginx, one of which is stopped in the middle."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from matryoshka2d.encoder.elastic import ElasticEncoder
from tests import tiny
from tests.serving.conftest import Patched, Running

DEPLOY = Path(__file__).parents[2] / "deploy"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

_AROUND = """
daemon off;
pid nginx.pid;
error_log stderr warn;
events {{ }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    {server}
}}
"""


@pytest.fixture
def balanced(running: Callable[..., Running], tmp_path: Path) -> Iterator[tuple[str, list[Running]]]:
    """Return the address of an nginx with the example's configuration, and the two servers behind it."""
    servers = [running(), running()]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = (DEPLOY / "nginx.conf").read_text()
    for written, ours in [
        ("8001", servers[0].port),
        ("8002", servers[1].port),
        ("listen 8000", f"listen 127.0.0.1:{port}"),
    ]:
        assert written in text
        text = text.replace(written, str(ours))
    (tmp_path / "nginx.conf").write_text(_AROUND.format(server=text))
    assert NGINX is not None
    nginx = subprocess.Popen(
        [NGINX, "-p", str(tmp_path), "-c", "nginx.conf"], stderr=subprocess.PIPE, text=True
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(100):
        try:
            httpx.get(f"{address}/ready")
            break
        except httpx.ConnectError:
            time.sleep(0.05)
    yield address, servers
    nginx.terminate()
    nginx.communicate(timeout=10)


@pytest.mark.skipif(NGINX is None, reason="no nginx on this machine: apt-get install nginx-light")
def test_no_request_is_lost_when_one_of_two_is_stopped(
    balanced: tuple[str, list[Running]], runner: Patched, encoder: ElasticEncoder
) -> None:
    address, servers = balanced
    expected = encoder.encode(tiny.TEXTS, size="2x16")
    with httpx.Client(base_url=address) as client:
        for turn in range(40):
            if turn == 15:
                servers[0].tell_to_stop()
            answer = client.post("/v1/embeddings", json={"model": "tiny@2x16", "input": tiny.TEXTS})
            assert answer.status_code == 200, answer.text
            found = np.array([one["embedding"] for one in answer.json()["data"]])
            np.testing.assert_allclose(found, expected, atol=2e-6)
    servers[0].thread.join(10)
    assert not servers[0].thread.is_alive()


def test_the_manifest_probes_what_is_served() -> None:
    parts = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert [part["kind"] for part in parts] == ["Deployment", "Service", "PodDisruptionBudget"]
    pod = parts[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    grace = container["args"][container["args"].index("--grace") + 1]
    pause = container["lifecycle"]["preStop"]["exec"]["command"][1]
    assert int(grace.removesuffix("s")) + int(pause) < pod["terminationGracePeriodSeconds"]
