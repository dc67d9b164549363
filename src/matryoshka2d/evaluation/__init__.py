"""Measuring a model at every size: sentence similarity, retrieval, and agreement with the original."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.evaluation.agreement import (
        agreement_grids,
        neighbor_recall,
        reference_cosine,
        similarity_agreement,
    )
    from matryoshka2d.evaluation.bootstrap import (
        LEVEL,
        MARGIN,
        Intervals,
        Replicates,
        against_size,
        bootstrap_means,
        bootstrap_spearman,
        compare,
        score_intervals,
        share_of,
    )
    from matryoshka2d.evaluation.cosine import pair_cosines
    from matryoshka2d.evaluation.evaluator import Evaluation, evaluate
    from matryoshka2d.evaluation.exits import CUTS, Exits, PlainExits, turn
    from matryoshka2d.evaluation.grid import Grid, Inversion
    from matryoshka2d.evaluation.retrieval import (
        ndcg,
        retrieval_details,
        retrieval_grid,
        retrieval_grids,
        retrieval_scores,
    )
    from matryoshka2d.evaluation.retrieval_sets import (
        RetrievalSet,
        read_beir,
        read_retrieval,
        read_squad,
        read_xsum,
    )
    from matryoshka2d.evaluation.sts import EncodedSts, StsSet, encode_sts, read_sts, sts_grid

_HOMES = {
    "agreement": (
        "agreement_grids",
        "neighbor_recall",
        "reference_cosine",
        "similarity_agreement",
    ),
    "bootstrap": (
        "LEVEL",
        "MARGIN",
        "Intervals",
        "Replicates",
        "against_size",
        "bootstrap_means",
        "bootstrap_spearman",
        "compare",
        "score_intervals",
        "share_of",
    ),
    "cosine": ("pair_cosines",),
    "evaluator": (
        "Evaluation",
        "evaluate",
    ),
    "exits": (
        "CUTS",
        "Exits",
        "PlainExits",
        "turn",
    ),
    "grid": (
        "Grid",
        "Inversion",
    ),
    "retrieval": (
        "ndcg",
        "retrieval_details",
        "retrieval_grid",
        "retrieval_grids",
        "retrieval_scores",
    ),
    "retrieval_sets": (
        "RetrievalSet",
        "read_beir",
        "read_retrieval",
        "read_squad",
        "read_xsum",
    ),
    "sts": (
        "EncodedSts",
        "StsSet",
        "encode_sts",
        "read_sts",
        "sts_grid",
    ),
}

__all__ = [
    "CUTS",
    "LEVEL",
    "MARGIN",
    "EncodedSts",
    "Evaluation",
    "Exits",
    "Grid",
    "Intervals",
    "Inversion",
    "PlainExits",
    "Replicates",
    "RetrievalSet",
    "StsSet",
    "against_size",
    "agreement_grids",
    "bootstrap_means",
    "bootstrap_spearman",
    "compare",
    "encode_sts",
    "evaluate",
    "ndcg",
    "neighbor_recall",
    "pair_cosines",
    "read_beir",
    "read_retrieval",
    "read_squad",
    "read_sts",
    "read_xsum",
    "reference_cosine",
    "retrieval_details",
    "retrieval_grid",
    "retrieval_grids",
    "retrieval_scores",
    "score_intervals",
    "share_of",
    "similarity_agreement",
    "sts_grid",
    "turn",
]


def __getattr__(name: str) -> Any:
    # A command that needs one file of this room should not wait for the libraries of all.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
