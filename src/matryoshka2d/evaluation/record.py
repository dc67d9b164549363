"""The quality that a saved model carries: in its record, with the fingerprint of the weights it is of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.quality import Quality
from matryoshka2d.files import staged_file

RECORD = "elastic.json"
_KEY = "quality"
_NUMBERS = re.compile(r"\[\s+((?:[-+.\deE]+|null)(?:,\s+(?:[-+.\deE]+|null))*)\s+\]")


def check_folder(folder: str | Path) -> Path:
    """Return the folder of a saved model that quality may be written into, or raise a `UserError`."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError(
            f"quality is kept inside a saved model: {folder} is not a folder of yours, save it first"
        )
    return path


def store_quality(folder: str | Path, qualities: Iterable[Quality], of: str) -> None:
    """Write qualities into the record of a saved model, beside what it holds; in one step.

    Parameters
    ----------
    folder
        The model's folder.
    qualities
        One for each index precision; an older one of the same precision is replaced, and those of other
        weights are dropped.
    of
        The fingerprint of the weights that were measured.

    Raises
    ------
    UserError
        If the folder is missing or cannot be written, or its record cannot be read.
    """
    path = check_folder(folder) / RECORD
    record = _read(path) if path.is_file() else {"format": 1, "heads": []}
    old = record.get(_KEY)
    kept = old["by precision"] if isinstance(old, Mapping) and old.get("weights") == of else {}
    fresh = {quality.precision: quality.to_dict() for quality in qualities}
    record[_KEY] = {"weights": of, "by precision": {**kept, **fresh}}
    with staged_file(path) as temporary:
        temporary.write_text(_indented(record) + "\n", encoding="utf-8")


def stored_quality(record: Mapping[str, Any], precision: str, of: str) -> Quality | None:
    """Return the quality that a record holds for an index precision, or None if it holds none.

    Parameters
    ----------
    record
        The record of a model: ``ElasticEncoder.record``.
    precision
        ``"float32"``, ``"int8"`` or ``"binary"``.
    of
        The fingerprint of the weights at hand.

    Raises
    ------
    UserError
        If the record is of other weights, or cannot be read.
    """
    held = record.get(_KEY)
    if held is None:
        return None
    try:
        weights, table = held["weights"], held["by precision"]
        found = table.get(precision)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            "the stored quality cannot be read: measure it again with matryoshka2d evaluate --save"
        ) from error
    if weights != of:
        raise UserError(
            "the stored quality is of other weights, which have changed since: "
            "measure it again with matryoshka2d evaluate --save, or give --sts FOLDER or --texts FILE"
        )
    return None if found is None else Quality.from_dict(found)


def holds_quality(record: Mapping[str, Any]) -> bool:
    """Return whether a record holds any quality."""
    return bool(record.get(_KEY))


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a record: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} cannot be read as a record: expected a JSON object")
    return record


def _indented(record: Mapping[str, Any]) -> str:
    """Return indented JSON in which a list of numbers stands on one line."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
