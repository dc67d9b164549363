"""evaluate: a model and labelled data → the grid of every task and cut, from one pass over the texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.encoder.fingerprints import weights_fingerprint
from matryoshka2d.encoder.loading import check_prompt
from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.evaluation.cosine import correlation_of
from matryoshka2d.evaluation.cost import INDEX_PRECISIONS
from matryoshka2d.evaluation.exits import Exits, check_cut
from matryoshka2d.evaluation.grid import Grid
from matryoshka2d.evaluation.quality import Quality, labelled_qualities, with_full
from matryoshka2d.evaluation.record import check_folder, store_quality
from matryoshka2d.evaluation.retrieval import check_sides, retrieval_grids
from matryoshka2d.evaluation.retrieval_sets import read_retrieval
from matryoshka2d.evaluation.sts import encode_sts, read_sts
from matryoshka2d.size import Size, parse_sizes

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Sizes = str | Iterable[str | Size] | None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Parameters
    ----------
    grids
        Task (``"sts"``, ``"retrieval"``) → cut (``"prefix"`` first) → grid.
    qualities
        Index precision → quality with intervals, for those that were asked for: what ``plan`` reads.
    """

    grids: Mapping[str, Mapping[str, Grid]]
    qualities: Mapping[str, Quality] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The prefix grid of the first task."""
        return next(iter(self.grids.values()))["prefix"]

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the grids, each sentence once, without a full stop."""
        every = (grid for by_cut in self.grids.values() for grid in by_cut.values())
        return list(dict.fromkeys(note for grid in every for note in grid.details.get("notes", ())))

    def to_dict(self) -> dict[str, Any]:
        """Return the first task's prefix grid at the top, other cuts and tasks below it, for JSON."""
        first, *others = self.grids
        value: dict[str, Any] = self.grid.to_dict()
        cuts = {cut: grid.to_dict() for cut, grid in self.grids[first].items() if cut != "prefix"}
        if cuts:
            value["cuts"] = cuts
        for task in others:
            value[task] = {cut: grid.to_dict() for cut, grid in self.grids[task].items()}
        return value


def evaluate(
    model: str | Path | SentenceTransformer,
    *,
    sts: Paths | None = None,
    retrieval: Paths | None = None,
    sizes: Sizes = None,
    query_sizes: Sizes = None,
    document_size: str | Size | None = None,
    cuts: Sequence[str] = ("prefix",),
    metric: str = "spearman",
    split: str = "test",
    qrels: str | os.PathLike[str] | None = None,
    exclude_self: bool | None = None,
    prompt_name: str | None = None,
    query_prompt_name: str | None = None,
    document_prompt_name: str | None = None,
    index_precision: str | Sequence[str] = (),
    save: bool = False,
    exits: Callable[[Any], Any] | None = None,
    pooling: str | None = None,
    device: str | None = None,
    batch_size: int = 64,
    show_progress_bar: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> Evaluation:
    """Measure a model at every size: correlation x100 on STS, nDCG@10 on retrieval, one pass a text.

    Parameters
    ----------
    model
        The folder of a model, a hub name, ``"default"``, or a loaded `ElasticEncoder` or
        SentenceTransformer. One of an unknown architecture has its full depth only.
    sts
        File or folder of sentence pairs with scores, or several files.
    retrieval
        One or more BEIR folders, SQuAD or XSum files. At least one of `sts` and `retrieval` is needed.
    sizes
        As ``"1-6x32,64"`` or a list; by default those that the model was trained for.
    query_sizes, document_size
        Instead of `sizes`, retrieval alone: sizes of queries over documents of one size; see
        `retrieval_grids`.
    cuts
        ``"pca"`` and ``"random"`` besides ``"prefix"``, to see what a cut without training gives.
    metric
        ``"spearman"``, as papers report, or ``"pearson"``. STS only.
    split
        Which rows of STS files: ``"test"``, ``"dev"`` or ``"train"``.
    qrels
        Other judgments of the retrieval folders: a file, or a split, as ``"dev"``.
    exclude_self
        Whether a query never finds the document of its own id. By default where that has the query's text.
    prompt_name
        A prompt of the model for every text. By default its default prompt for STS, its query and document
        prompts for retrieval.
    query_prompt_name, document_prompt_name
        A prompt for that side of retrieval alone.
    index_precision
        ``"float32"``, ``"int8"``, ``"binary"`` or several: measure the quality of the first task with
        intervals too, with documents held so. Needs every depth of the model.
    save
        Keep that quality inside the model, whose folder is named, where ``plan`` reads it: for all three
        unless `index_precision` names some.
    exits
        Loaded model → what gives its exits, such as `matryoshka2d.inference.open_exits`, which runs in bf16
        where that pays. By default the model itself, in fp32.
    pooling
        Only for a plain transformers checkpoint that is named.
    device
        Where a model that is named is loaded; by default the best there is.
    batch_size
        Texts a batch.
    show_progress_bar
        Whether to draw progress.
    on_note
        Gets a sentence when there is something to know before the result, as an unknown architecture.

    Raises
    ------
    UserError
        If there is nothing to evaluate on, a name, a file or a size is wrong, or the model lacks a size.

    Examples
    --------
    >>> import json, tempfile
    >>> rows = [("a cat", "a kitten", 4.5), ("a cat", "a train", 0.5), ("a dog", "a puppy", 4.0)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "pairs.jsonl"
    ...     lines = [json.dumps({"sentence1": a, "sentence2": b, "score": c}) for a, b, c in rows]
    ...     _ = file.write_text("\\n".join(lines), encoding="utf-8")
    ...     found = evaluate("default", sts=file, sizes="3,6x128", device="cpu")
    >>> [str(size) for size in found.grid.sizes]
    ['3x128', '6x128']
    """
    cuts = list(dict.fromkeys(["prefix", *cuts]))
    precisions = [index_precision] if isinstance(index_precision, str) else list(index_precision)
    if save and not precisions:
        precisions = list(INDEX_PRECISIONS)
    sides: dict[str, Any] = {"query_sizes": query_sizes, "document_size": document_size}
    _check(sts, retrieval, sizes, metric, cuts, precisions)
    _check_sides(sts, sizes, sides, measures_quality=bool(precisions))
    _check_retrieval(retrieval, qrels, query_prompt_name, document_prompt_name, exclude_self)
    if save:
        check_folder(_name(model))
    pairs = list(read_sts(_only(sts), split=split)) if sts else []
    collections = [read_retrieval(folder, qrels=qrels) for folder in _listed(retrieval)]
    loaded = load_model(model, pooling, device, on_note=on_note)
    for name in (prompt_name, query_prompt_name, document_prompt_name):
        check_prompt(getattr(loaded, "prompts", None) or {}, name)
    if precisions and not isinstance(loaded, Exits):
        raise UserError(
            f"plan cannot use the quality of {_name(model)}, which has its full depth only: leave out --save"
        )
    measured = loaded if exits is None else exits(loaded)
    if precisions:
        sizes = with_full(loaded, sizes)
    encoding: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
    ranking: dict[str, Any] = {
        "query_prompt_name": query_prompt_name or prompt_name,
        "corpus_prompt_name": document_prompt_name or prompt_name,
        "exclude_self": exclude_self,
        **encoding,
    }
    short = Path(_name(model)).name
    grids: dict[str, dict[str, Grid]] = {}
    encoded = None
    if pairs:
        encoded = encode_sts(measured, pairs, sizes=sizes, prompt_name=prompt_name, **encoding)
        grids["sts"] = {cut: encoded.grid(metric=metric, cut=cut, name=short) for cut in cuts}
    if collections:
        grids["retrieval"] = retrieval_grids(
            measured, collections, sizes=sizes, cuts=cuts, name=short, **sides, **ranking
        )
    if not precisions:
        return Evaluation(grids)
    qualities = labelled_qualities(
        measured,
        collections if encoded is None else encoded,
        precisions=precisions,
        sizes=sizes,
        details={} if encoded is None else {"split": split},
        **(ranking if encoded is None else {}),
    )
    if save:
        store_quality(_name(model), qualities.values(), weights_fingerprint(loaded))
    return Evaluation(grids, qualities)


def load_model(
    model: str | Path | SentenceTransformer,
    pooling: str | None = None,
    device: str | None = None,
    *,
    on_note: Callable[[str], None] | None = None,
) -> Any:
    """Return an `ElasticEncoder`, or a plain SentenceTransformer where the architecture is not in the table.

    Parameters
    ----------
    model, pooling, device, on_note
        As in `evaluate`; a loaded model is returned as it is.
    """
    from sentence_transformers import SentenceTransformer

    from matryoshka2d.encoder import loading
    from matryoshka2d.encoder.architectures import UnknownArchitectureError
    from matryoshka2d.encoder.default_model import resolve_model
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.encoder.hub import hub_arguments

    if not isinstance(model, (str, Path)):
        return model
    name = resolve_model(str(model))
    try:
        return ElasticEncoder(name, pooling=pooling, device=device)
    except UnknownArchitectureError as unknown:
        if on_note is not None:
            on_note(f"{unknown}. Only its full depth is evaluated.")
        with loading.in_one_line(name):
            choices = hub_arguments(name, {"device": device})
            plain = SentenceTransformer(**loading.init_arguments(name, None, pooling, choices))
            return loading.settled(plain, name)


# --- before a file is read or a model is loaded --------------------------------------------------------


def _check(
    sts: Paths | None,
    retrieval: Paths | None,
    sizes: Sizes,
    metric: str,
    cuts: Sequence[str],
    index_precisions: Sequence[str],
) -> None:
    """Find names and sizes that cannot be."""
    if not sts and not retrieval:
        raise UserError("nothing to evaluate on: expected --sts FOLDER or --retrieval FOLDER")
    correlation_of(metric)
    for cut in cuts:
        check_cut(cut)
    for precision in index_precisions:
        if precision not in INDEX_PRECISIONS:
            raise UserError(
                f"index precision '{precision}' is not known: expected one of {', '.join(INDEX_PRECISIONS)}."
                f"{did_you_mean(precision, INDEX_PRECISIONS)}"
            )
    if sizes is not None:
        parse_sizes(sizes)


def _check_sides(
    sts: Paths | None, sizes: Sizes, sides: Mapping[str, Any], *, measures_quality: bool
) -> None:
    """Find what cannot be meant by sizes of queries and documents."""
    if all(side is None for side in sides.values()):
        return
    if sts:
        raise UserError(
            "--query-size and --document-size are of retrieval alone: leave out --sts, or ask in two commands"
        )
    if measures_quality:
        raise UserError(
            "plan reads the quality of queries and documents of one size: leave out --save, or "
            "--query-size and --document-size"
        )
    check_sides(sizes, **sides)


def _check_retrieval(retrieval: Paths | None, *asked: object) -> None:
    """Find options of retrieval where there is none."""
    if not retrieval and any(one is not None for one in asked):
        raise UserError(
            "--qrels, --query-prompt-name, --document-prompt-name and --exclude-self are of retrieval alone: "
            "expected --retrieval FOLDER beside them"
        )


def _listed(paths: Paths | None) -> Sequence[str | os.PathLike[str]]:
    if paths is None:
        return []
    return [paths] if isinstance(paths, (str, os.PathLike)) else paths


def _only(paths: Paths) -> Paths:
    """Return the one path of a list of one, which may be a folder."""
    return paths if isinstance(paths, (str, os.PathLike)) or len(paths) != 1 else paths[0]


def _name(model: object) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__
