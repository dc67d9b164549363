"""What every test shares: quiet libraries, no network, two threads, the real MiniLM."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import transformers

# Fixtures that take ten seconds to a minute to make, and would be made again in every worker.
_DEAR = ("ran", "exports", "graphs", "rotated", "corpus", "int8", "found", "opened_once")


# Before the plugin that deals tests out reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let all tests of a room that share a dear fixture run in one worker (``--dist loadgroup``)."""
    for item in items:
        shared = next((name for name in _DEAR if name in getattr(item, "fixturenames", ())), None)
        if shared:
            item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name} {shared}"))


def pytest_collection_finish() -> None:
    """Take what imports and collection made out of the garbage collector's sight.

    A trainer collects garbage at every end, and would look through half a million objects each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@pytest.fixture(scope="session")
def minilm() -> str:
    """Return the folder of the real all-MiniLM-L6-v2."""
    from matryoshka2d.encoder.default_model import default_model_path

    return default_model_path()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep teachers' vectors of tests out of the user's cache."""
    monkeypatch.setenv("MATRYOSHKA2D_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def sts_folder() -> Path:
    """Return the folder of the real STS files, or skip."""
    folder = os.environ.get("MATRYOSHKA2D_STS")
    if not folder:
        pytest.skip("MATRYOSHKA2D_STS does not name a folder")
    return Path(folder)
