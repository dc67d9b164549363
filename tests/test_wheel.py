"""The wheel holds everything: it works from an empty folder, templates and types included."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# One process builds the wheel and uses it.
pytestmark = pytest.mark.xdist_group("wheel")
ROOT = Path(__file__).parent.parent
EXTRAS = {
    "train": ("accelerate", "datasets", "peft", "tensorboard"),
    "report": ("matplotlib", "PIL"),
    "cli": ("typer", "rich", "psutil", "pyarrow"),
}
# Python imports it at its start. A module that is None is not found; some libraries ask for the distribution.
_WITHOUT = """import os, sys
hidden = os.environ.get("WITHOUT", "").split()
if hidden:
    from importlib import metadata
    sys.modules.update(dict.fromkeys(hidden))
    found = metadata.Distribution.from_name

    def from_name(name):
        if name in hidden:
            raise metadata.PackageNotFoundError(name)
        return found(name)

    metadata.Distribution.from_name = from_name
"""


class Site:
    """A folder with the installed wheel, and an empty one to work in."""

    def __init__(self, home: Path) -> None:
        self.site, self.empty = home / "site", home / "empty"
        pip = [sys.executable, "-m", "pip", "--quiet"]
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", home / "dist", ROOT], check=True)
        (wheel,) = (home / "dist").glob("*.whl")
        subprocess.run([*pip, "install", "--no-deps", "--target", self.site, wheel], check=True)
        (self.site / "sitecustomize.py").write_text(_WITHOUT)
        self.empty.mkdir()

    def start(self, *arguments: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run Python, where some libraries cannot be found."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.site),
            "HF_HUB_OFFLINE": "1",
            "WITHOUT": " ".join(without),
        }
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.empty, env=environment, capture_output=True, text=True, check=False
        )

    def run(self, *arguments: str, without: tuple[str, ...] = ()) -> str:
        """Return what a run that succeeds prints."""
        done = self.start(*arguments, without=without)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def command(self, line: str, *, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command of the package."""
        return self.start("-m", "matryoshka2d", *shlex.split(line), without=without)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("wheel"))
    made.run("-m", "matryoshka2d", "truncate", "default", "2x32", "small")
    (made.empty / "toy.tsv").write_text("score\tsentence1\tsentence2\n5\ta cat\tone cat\n0\ta cat\tthe sea\n")
    (made.empty / "texts.txt").write_text("\n".join(f"sentence number {i}" for i in range(64)) + "\n")
    yield made


@pytest.mark.slow
def test_the_wheel_works_from_an_empty_folder(site: Site) -> None:
    printed = site.run("-c", "import matryoshka2d; print(matryoshka2d.__file__)")
    assert printed.strip().startswith(str(site.site))
    assert (site.site / "matryoshka2d" / "py.typed").exists()
    assert (site.empty / "small" / "model.safetensors").exists()
    site.run("-m", "matryoshka2d", "evaluate", "small", "--sts", "toy.tsv", "--output", "report")
    assert (site.empty / "report" / "report.html").exists()
    words = "train --model small --data texts.txt --output trained -q"
    site.run("-m", "matryoshka2d", *words.split())
    assert "matryoshka2d train" in (site.empty / "trained" / "README.md").read_text()


EVERYTHING = tuple(name for names in EXTRAS.values() for name in names)
_CORE = """
from matryoshka2d import ElasticEncoder, evaluate, open_engine
model = ElasticEncoder("small")
assert model.encode(["a cat", "one cat"], size="1x16").shape == (2, 16)
assert open_engine("small").embed(["a cat"], size="1x16").shape == (1, 16)
model.truncate("1x16").save("core")
grid = evaluate(model, sts="toy.tsv", sizes="1-2x16").grids["sts"]["prefix"]
assert len(grid.sizes) == 2
"""


def test_a_model_is_loaded_used_and_measured_without_any_extra(site: Site) -> None:
    site.run("-c", _CORE, without=EVERYTHING)


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("train", "from matryoshka2d import distill"),
        ("train", "from matryoshka2d import fit"),
        ("train", "from matryoshka2d import rotate"),
        ("train", "from matryoshka2d import train"),
        (
            "cli",
            "from matryoshka2d import open_engine\n"
            "from matryoshka2d.inference.encoding import encode_file\n"
            "encode_file(open_engine('small'), 'texts.txt', 'vectors.parquet')",
        ),
        (
            "report",
            "from matryoshka2d import evaluate\n"
            "from matryoshka2d.evaluation.report import write_folder\n"
            "write_folder('pages', evaluate('small', sts='toy.tsv'))",
        ),
    ],
)
def test_a_missing_extra_is_named_in_the_library(site: Site, extra: str, code: str) -> None:
    done = site.start("-c", code, without=EVERYTHING)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("matryoshka2d.errors.UserError: this needs ")
    assert last.endswith(f": pip install 'matryoshka2d[{extra}]'")
    assert not (site.empty / "pages").exists()


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ("train", "train --model small --data texts.txt --output new"),
        ("train", "distill --model small --data texts.txt --output new --layers 1"),
        ("train", "fit --model small --data texts.txt --output new"),
        ("train", "rotate --model small --data texts.txt --output new"),
        ("report", "evaluate small --sts toy.tsv --output new"),
        ("report", "plan small --max-latency 9s --texts texts.txt --output new"),
        ("cli", "encode small texts.txt new.npy"),
        ("cli", "--help"),
    ],
)
def test_a_missing_extra_is_one_line_of_the_command(site: Site, extra: str, line: str) -> None:
    done = site.command(line, without=EXTRAS[extra])
    assert done.returncode == 2, done.stderr
    (said,) = done.stderr.strip().splitlines()
    assert said.startswith("error: this needs ")
    assert said.endswith(f": pip install 'matryoshka2d[{extra}]'")
    assert not list(site.empty.glob("new*"))
