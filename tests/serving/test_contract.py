"""The OpenAPI document says what the server does: a thousand requests made from it find no difference."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest
import schemathesis

from matryoshka2d.serving.searching import ServedIndex
from tests.serving.conftest import Running


@pytest.mark.parametrize("options", [{}, {"keys": ("right",)}, {"token_ids": "accept", "any_size": True}])
def test_the_document_is_one(running: Callable[..., Running], options: dict[str, object]) -> None:
    server = running(**options)
    head = {"Authorization": "Bearer right"}
    document = httpx.get(f"{server.url}/openapi.json", headers=head).json()
    schemathesis.openapi.from_dict(document).validate()
    assert ("security" in document["paths"]["/v1/models"]["get"]) == ("keys" in options)


@pytest.mark.parametrize("searched", [False, True])
def test_a_thousand_requests_find_no_difference(
    running: Callable[..., Running], index: ServedIndex, searched: bool
) -> None:
    server = running(index if searched else None, keys=("right",))
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--checks", "all", "--phases", "coverage,fuzzing", "--max-examples", "500", "--no-color"]
    command += ["--generation-deterministic", "-H", "Authorization: Bearer right"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found is not None and int(found[1]) >= 1000, done.stdout
