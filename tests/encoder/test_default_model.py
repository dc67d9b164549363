"""The packaged default model: found without an import, checked, the hub's name where it is absent."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from matryoshka2d.encoder import loading as default_model
from matryoshka2d.encoder.loading import HUB_NAME, PACKAGE, default_model_path, resolve_model
from matryoshka2d.errors import UserError


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the same name whose weights are three bytes, before the real one on the path."""
    package = tmp_path / PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "model" / "model.safetensors").write_bytes(b"abc")
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return package


def test_the_package_is_found_without_importing_it(fake_package, monkeypatch):
    monkeypatch.setattr(default_model, "WEIGHTS_SHA256", hashlib.sha256(b"abc").hexdigest())
    assert default_model_path() == str(fake_package / "model")


def test_other_weights_are_refused_in_one_line(fake_package):
    with pytest.raises(UserError, match=r"SHA-256 ba7816bf8f01…; expected 53aa51172d14….*Reinstall") as error:
        default_model_path()
    assert "\n" not in str(error.value)


def test_weights_that_change_are_checked_again(fake_package, monkeypatch):
    monkeypatch.setattr(default_model, "WEIGHTS_SHA256", hashlib.sha256(b"abc").hexdigest())
    default_model_path()
    (fake_package / "model" / "model.safetensors").write_bytes(b"abcd")
    with pytest.raises(UserError, match="SHA-256"):
        default_model_path()


def test_missing_weights_are_refused(fake_package):
    (fake_package / "model" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights at"):
        default_model_path()


def test_without_the_package_the_hub_name(monkeypatch):
    monkeypatch.setattr(default_model, "find_spec", lambda name: None)
    assert default_model_path() == HUB_NAME


def test_the_installed_package_carries_a_whole_model():
    pytest.importorskip(PACKAGE)
    assert {"model.safetensors", "tokenizer.json", "modules.json"} <= {
        path.name for path in Path(default_model_path()).iterdir()
    }


@pytest.mark.parametrize("alias", ["default", "all-MiniLM-L6-v2"])
def test_aliases(alias, monkeypatch):
    monkeypatch.setattr(default_model, "default_model_path", lambda: "the default")
    assert resolve_model(alias) == "the default"


@pytest.mark.parametrize("name", ["answerdotai/ModernBERT-base", "runs/mine", "Default"])
def test_other_names_are_left_alone(name):
    assert resolve_model(name) == name


def test_a_directory_goes_before_an_alias(tmp_path, monkeypatch):
    (tmp_path / "default").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("default") == "default"


def test_the_module_does_not_import_torch():
    code = "import sys, matryoshka2d.encoder.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
