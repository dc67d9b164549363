"""Measuring a model at every size: sentence similarity, retrieval, and agreement with the original."""

from __future__ import annotations

from matryoshka2d.evaluation.agreement import (
    agreement_grids,
    neighbour_recall,
    reference_cosine,
    similarity_agreement,
)
from matryoshka2d.evaluation.cosine import pair_cosines
from matryoshka2d.evaluation.cuts import CUTS, turn
from matryoshka2d.evaluation.exits import Exits, PlainExits
from matryoshka2d.evaluation.grid import Grid, Inversion
from matryoshka2d.evaluation.intervals import Intervals, against_size, compare, score_intervals
from matryoshka2d.evaluation.over_seeds import seed_tests
from matryoshka2d.evaluation.resampling import Replicates, bootstrap_means, bootstrap_spearman
from matryoshka2d.evaluation.retrieval import (
    ndcg,
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
from matryoshka2d.evaluation.sts import StsSet, read_sts
from matryoshka2d.evaluation.sts_grid import EncodedSts, encode_sts, sts_grid

__all__ = [
    "CUTS",
    "EncodedSts",
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
    "ndcg",
    "neighbour_recall",
    "pair_cosines",
    "read_beir",
    "read_retrieval",
    "read_squad",
    "read_sts",
    "read_xsum",
    "reference_cosine",
    "retrieval_grid",
    "retrieval_grids",
    "retrieval_scores",
    "score_intervals",
    "seed_tests",
    "similarity_agreement",
    "sts_grid",
    "turn",
]
