"""The corpus is read once: it takes seconds and nobody changes it."""

from __future__ import annotations

import pytest

from matryoshka2d.quickstart.corpus import Corpus, python_documentation


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return python_documentation()
