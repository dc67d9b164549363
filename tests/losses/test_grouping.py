"""The groups of `tests/conftest.py` reach what deals tests out; when they do not, nothing else says so."""

from __future__ import annotations

import pytest


def test_tests_that_share_a_dear_fixture_run_in_one_worker(request: pytest.FixtureRequest) -> None:
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("tests run in one process, or are not dealt out by groups")
    grouped = [item for item in request.session.items if item.get_closest_marker("xdist_group")]
    assert all("@" in item.nodeid for item in grouped), "this pytest hides the groups: see constraints.txt"
