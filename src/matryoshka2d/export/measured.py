"""What is known of an exported size: the quality that the model carries, and the cost measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import UserError
from matryoshka2d.export.check import TEXTS
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder import ElasticEncoder
    from matryoshka2d.evaluation.quality import Quality
    from matryoshka2d.export.loaded import Loaded

SECONDS = 1.0
"""About how long single texts are timed, for all sizes together."""

# Sentences: neither the empty text nor those that fill the window.
_TIMED = tuple(text for text in TEXTS if 5 < len(text) < 120)


@dataclass(frozen=True)
class _ByDepth:
    """Loaded exports by depth, in the form that timing asks for."""

    exports: Mapping[int, Loaded]
    width: int

    @property
    def depth(self) -> int:
        return max(self.exports)

    def embed(self, texts: Sequence[str], size: str | Size | None = None) -> Any:
        assert isinstance(size, Size)
        return self.exports[size.layers](texts)


def costs_of(exports: Mapping[Size, Loaded]) -> dict[Size, dict[str, float | None]]:
    """Time loaded exports on this machine: one text by itself, and many at once.

    Sizes of one depth cost the same, so one of them is timed.

    Parameters
    ----------
    exports
        Size → the export, loaded.

    Returns
    -------
    dict
        Size → ``latency_p50`` and ``latency_p95`` in seconds, ``throughput`` in texts a second.
    """
    from matryoshka2d.evaluation.cost import measure_costs

    by_depth = _ByDepth({size.layers: export for size, export in exports.items()}, 1)
    costs = measure_costs(by_depth, by_depth.exports, _TIMED, seconds=SECONDS)
    found = {size: costs.of(size).to_dict() for size in exports}
    return {size: {key: row[key] for key in row if key != "memory"} for size, row in found.items()}


def quality_of(encoder: ElasticEncoder) -> Quality | None:
    """Return the quality that a saved model carries, or None if it has none or one of other weights."""
    from matryoshka2d.evaluation.record import fingerprint, holds_quality, stored_quality

    if not holds_quality(encoder.record):
        return None
    try:
        return stored_quality(encoder.record, "float32", fingerprint(encoder))
    except UserError:
        return None


def quality_row(quality: Quality, size: Size) -> dict[str, list[float]] | None:
    """Return a size's score and its share of the full size's, each with the ends of its 95% interval.

    None if the size was not measured.
    """
    if size not in quality.sizes:
        return None
    score = [round(float(value), 2) for value in quality.score(size)]
    return {"score": score, "share": [round(float(value), 4) for value in quality.kept(size)]}


def provenance(quality: Quality) -> str:
    """Return in one sentence what the scores are and where they come from."""
    sets = ", ".join(f"{name} ({count:,})" for name, count in quality.units.items())
    what = "Agreement with the full size" if quality.fidelity else f"{quality.grid.metric} x100"
    when = f", measured {quality.details['date']}" if "date" in quality.details else ""
    return f"{what}, mean over sets, on the {quality.of} of {sets}{when}; of the model before the export."
