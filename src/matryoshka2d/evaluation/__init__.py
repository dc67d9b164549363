"""Measuring a model at every size: sentence similarity, retrieval, and agreement with the original."""

from __future__ import annotations

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
