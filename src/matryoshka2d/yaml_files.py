"""YAML files that a user wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matryoshka2d.errors import UserError


def read_yaml(path: Path, kind: str, expected: str) -> Any:
    """Return what a YAML file holds.

    Parameters
    ----------
    path
        The file.
    kind
        What messages call it, as ``"plan"``.
    expected
        What should have been named, for the message when there is no such file.

    Raises
    ------
    UserError
        If the file is missing or not YAML.

    Examples
    --------
    >>> read_yaml(Path("missing.yaml"), "plan", "a YAML file")
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: plan missing.yaml does not exist: expected a YAML file
    """
    import yaml

    if not path.is_file():
        raise UserError(f"{kind} {path} does not exist: expected {expected}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {kind} {path}: {error.strerror or error}") from error
    # A value such as 2024-13-45 is no date, and some are no value of their tag.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{kind} {path} is not YAML: {error}") from error
