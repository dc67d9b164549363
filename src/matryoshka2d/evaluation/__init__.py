"""Measuring a model at every size: sentence similarity, retrieval, and agreement with the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matryoshka2d.lazy import lazy_names

if TYPE_CHECKING:
    from matryoshka2d.evaluation.agreement import agreement_grids as agreement_grids
    from matryoshka2d.evaluation.agreement import neighbor_recall as neighbor_recall
    from matryoshka2d.evaluation.agreement import reference_cosine as reference_cosine
    from matryoshka2d.evaluation.agreement import similarity_agreement as similarity_agreement
    from matryoshka2d.evaluation.bootstrap import LEVEL as LEVEL
    from matryoshka2d.evaluation.bootstrap import MARGIN as MARGIN
    from matryoshka2d.evaluation.bootstrap import Intervals as Intervals
    from matryoshka2d.evaluation.bootstrap import Replicates as Replicates
    from matryoshka2d.evaluation.bootstrap import against_size as against_size
    from matryoshka2d.evaluation.bootstrap import bootstrap_means as bootstrap_means
    from matryoshka2d.evaluation.bootstrap import bootstrap_spearman as bootstrap_spearman
    from matryoshka2d.evaluation.bootstrap import compare as compare
    from matryoshka2d.evaluation.bootstrap import score_intervals as score_intervals
    from matryoshka2d.evaluation.bootstrap import share_of as share_of
    from matryoshka2d.evaluation.cosine import pair_cosines as pair_cosines
    from matryoshka2d.evaluation.evaluator import Evaluation as Evaluation
    from matryoshka2d.evaluation.evaluator import evaluate as evaluate
    from matryoshka2d.evaluation.exits import CUTS as CUTS
    from matryoshka2d.evaluation.exits import Exits as Exits
    from matryoshka2d.evaluation.exits import PlainExits as PlainExits
    from matryoshka2d.evaluation.exits import turn as turn
    from matryoshka2d.evaluation.grid import Grid as Grid
    from matryoshka2d.evaluation.grid import Inversion as Inversion
    from matryoshka2d.evaluation.retrieval import ndcg as ndcg
    from matryoshka2d.evaluation.retrieval import retrieval_details as retrieval_details
    from matryoshka2d.evaluation.retrieval import retrieval_grid as retrieval_grid
    from matryoshka2d.evaluation.retrieval import retrieval_grids as retrieval_grids
    from matryoshka2d.evaluation.retrieval import retrieval_scores as retrieval_scores
    from matryoshka2d.evaluation.retrieval_sets import RetrievalSet as RetrievalSet
    from matryoshka2d.evaluation.retrieval_sets import read_beir as read_beir
    from matryoshka2d.evaluation.retrieval_sets import read_retrieval as read_retrieval
    from matryoshka2d.evaluation.retrieval_sets import read_squad as read_squad
    from matryoshka2d.evaluation.retrieval_sets import read_xsum as read_xsum
    from matryoshka2d.evaluation.sts import EncodedSts as EncodedSts
    from matryoshka2d.evaluation.sts import StsSet as StsSet
    from matryoshka2d.evaluation.sts import encode_sts as encode_sts
    from matryoshka2d.evaluation.sts import read_sts as read_sts
    from matryoshka2d.evaluation.sts import sts_grid as sts_grid
else:
    # A command that needs one file of this room should not wait for the libraries of all.
    __getattr__, __all__ = lazy_names(__name__)
