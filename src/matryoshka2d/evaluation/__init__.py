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
from matryoshka2d.evaluation.retrieval import (
    RetrievalSet,
    ndcg,
    read_retrieval,
    retrieval_grid,
    retrieval_grids,
    retrieval_scores,
)
from matryoshka2d.evaluation.sts import StsSet, read_sts
from matryoshka2d.evaluation.sts_grid import EncodedSts, encode_sts, sts_grid

__all__ = [
    "CUTS",
    "EncodedSts",
    "Exits",
    "Grid",
    "Inversion",
    "PlainExits",
    "RetrievalSet",
    "StsSet",
    "agreement_grids",
    "encode_sts",
    "ndcg",
    "neighbour_recall",
    "pair_cosines",
    "read_retrieval",
    "read_sts",
    "reference_cosine",
    "retrieval_grid",
    "retrieval_grids",
    "retrieval_scores",
    "similarity_agreement",
    "sts_grid",
    "turn",
]
