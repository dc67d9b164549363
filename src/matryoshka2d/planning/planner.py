"""plan(): from a model and a budget to a plan, measuring what is not known yet."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.agreement import check_measure
from matryoshka2d.evaluation.cost import INDEX_PRECISIONS, Costs, measure_costs
from matryoshka2d.evaluation.quality import Quality
from matryoshka2d.planning.budget import Budget
from matryoshka2d.planning.result import Plan
from matryoshka2d.size import Size, parse_sizes

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.evaluation import RetrievalSet, StsSet
    from matryoshka2d.inference import Engine

Paths = str | os.PathLike[str] | Sequence[str]

_TIMED = 512
_JUDGED = 4000
_IN_MEMORY = 64


@dataclass(frozen=True)
class Sources:
    """What quality is read from, and what is timed: files that were read before any model is loaded.

    Parameters
    ----------
    sts, retrieval
        Labelled sets; at most one of the two is given.
    texts
        Texts without labels.
    timed
        Texts to time; empty to take those of the other sources.
    details
        Kept with the quality: which rows were read.
    """

    sts: tuple[StsSet, ...] = ()
    retrieval: tuple[RetrievalSet, ...] = ()
    texts: tuple[str, ...] = ()
    timed: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_time(self) -> tuple[tuple[str, ...], str]:
        """Return at most 512 distinct texts to time, and where they are from."""
        for texts, origin in (
            (self.timed, "the texts to time"),
            (self.texts, "the texts given"),
            ([text for one in self.sts for text in (*one.sentence1, *one.sentence2)], "the STS sentences"),
            ([text for one in self.retrieval for text in one.queries.values()], "the queries"),
        ):
            if texts:
                return spread(list(dict.fromkeys(texts)), _TIMED), origin
        from matryoshka2d.inference.benchmark import sample_texts

        return sample_texts(), "sentences of this package"


def plan(
    model: str | Path | ElasticEncoder,
    budget: Budget | Mapping[str, Any] | None = None,
    *,
    sts: Paths | None = None,
    retrieval: Paths | None = None,
    texts: str | os.PathLike[str] | Iterable[str] | None = None,
    time_on: str | os.PathLike[str] | Iterable[str] | None = None,
    split: str = "test",
    qrels: str | os.PathLike[str] | None = None,
    exclude_self: bool | None = None,
    fidelity_by: str = "similarity",
    sizes: str | Iterable[str | Size] | None = None,
    engine: str = "auto",
    engine_precision: str = "auto",
    device: str | None = None,
    pooling: str | None = None,
    memory: bool = False,
    seconds: float = 10.0,
    save: bool = False,
    show_progress_bar: bool = False,
) -> Plan:
    """Choose a size for a budget: measured quality, cost measured on this machine, and why.

    Quality is taken from `sts` or `retrieval` if they are given, else from `texts` (as fidelity), else from
    what the saved model carries.

    Parameters
    ----------
    model
        The folder of a model, a hub name, ``"default"``, or an `ElasticEncoder`.
    budget
        The limits, or a mapping of its fields: ``{"max_latency": "2ms", "min_quality": "97%"}``. Without
        one, the cheapest of the best sizes is recommended.
    sts
        File or folder of sentence pairs with scores, or several files.
    retrieval
        One or more folders in BEIR form.
    texts
        Texts without labels, or a file of them: quality is then estimated as agreement with the full size.
        Of more than 4,000, as many are taken, evenly spread.
    time_on
        Texts to time, or a file of them; by default those that quality is measured on. Time depends on the
        length of texts, so name your own where quality comes from the saved model.
    split
        Which rows of STS files.
    qrels
        Other judgments of the retrieval folders: see `read_beir`.
    exclude_self
        Whether a query never finds the document of its own id: see `retrieval_scores`.
    fidelity_by
        ``"similarity"`` or ``"recall"``: see `matryoshka2d.evaluation.agreement.fidelity`.
    sizes
        As ``"1-6x32,64"``; by default those that the model shows, or whose quality it carries.
    engine, engine_precision, device
        As in `open_engine`: the engine whose cost is measured, the precision that it computes in.
    pooling
        Only for a plain transformers checkpoint.
    memory
        Whether to measure peak memory, in a process for each depth that takes a few seconds; it always is
        where the budget limits it.
    seconds
        About how long to time single texts.
    save
        Keep the measured quality inside the saved model, for every index precision.
    show_progress_bar
        Whether to draw progress.

    Returns
    -------
    Plan
        Print it, show it in a notebook, or read ``.size``, ``.row``, ``.front``, ``.relaxations``.

    Raises
    ------
    UserError
        If there is no quality to go by, an amount or a file cannot be read, or the model lacks a size.

    Examples
    --------
    >>> from matryoshka2d.inference.benchmark import sample_texts
    >>> made = plan("default", Budget(min_quality="50%"), texts=sample_texts()[:64], sizes="1,6x64,384",
    ...     seconds=0.1, engine_precision="fp32", device="cpu")
    >>> made.quality.fidelity, made.rows[-1].kept
    (True, 1.0)
    """
    from matryoshka2d.encoder.elastic import ElasticEncoder
    from matryoshka2d.inference import open_engine
    from matryoshka2d.planning.memory import measure_memory

    limits = budget if isinstance(budget, Budget) else Budget.from_dict(budget or {})
    check_measure(fidelity_by)
    sources = read_sources(
        sts=sts, retrieval=retrieval, texts=texts, time_on=time_on, split=split, qrels=qrels
    )
    check_before_loading(model, sources, sizes=sizes, save=save)
    encoder = _load(model, pooling, device)
    opened = open_engine(
        encoder if isinstance(model, ElasticEncoder) else str(model),
        engine,
        engine_precision,
        device,
        pooling=None if isinstance(model, ElasticEncoder) else pooling,
        calibration=sources.to_time()[0] if engine_precision == "int8" else None,
    )
    quality = measured_quality(
        encoder,
        sources,
        precision=limits.precision,
        sizes=sizes,
        fidelity_by=fidelity_by,
        exclude_self=exclude_self,
        name=_name(model),
        save_to=str(model) if save else None,
        show_progress_bar=show_progress_bar,
    )
    layers = sorted({size.layers for size in quality.sizes})
    peaks = None
    if memory or limits.max_memory is not None:
        texts_held = sources.to_time()[0][:_IN_MEMORY]
        peaks = measure_memory(
            encoder, layers, texts_held, engine=opened.name, precision=opened.precision, device=device
        )
    costs = measured_costs(opened, layers, sources, memory=peaks, seconds=seconds)
    return Plan(limits, quality, costs, _name(model))


# --- before a model is loaded -------------------------------------------------------------------------


def read_sources(
    *,
    sts: Paths | None = None,
    retrieval: Paths | None = None,
    texts: str | os.PathLike[str] | Iterable[str] | None = None,
    time_on: str | os.PathLike[str] | Iterable[str] | None = None,
    split: str = "test",
    qrels: str | os.PathLike[str] | None = None,
) -> Sources:
    """Read every file that a plan needs; arguments as in `plan`."""
    from matryoshka2d.evaluation import read_retrieval, read_sts

    if qrels is not None and retrieval is None:
        raise UserError("qrels are judgments of retrieval sets: expected --retrieval FOLDER beside them")
    if sum(source is not None for source in (sts, retrieval, texts)) > 1:
        raise UserError(
            "quality can come from one kind of data only: expected one of sts, retrieval and texts"
        )
    return Sources(
        tuple(read_sts(_only(sts), split)) if sts is not None else (),
        tuple(read_retrieval(folder, qrels=qrels) for folder in _listed(retrieval)),
        _texts(texts),
        _texts(time_on),
        {"split": split} if sts is not None else {},
    )


def check_before_loading(
    model: str | Path | ElasticEncoder,
    sources: Sources,
    *,
    sizes: str | Iterable[str | Size] | None = None,
    save: bool = False,
) -> None:
    """Find every mistake that can be found before a model is loaded."""
    from matryoshka2d.evaluation.record import check_folder

    if sizes is not None:
        parse_sizes(sizes)
    if save:
        if not (sources.sts or sources.retrieval):
            raise UserError(
                "nothing to save: quality is measured on --sts or --retrieval, expected one of them"
            )
        if not isinstance(model, (str, Path)):
            raise UserError(
                "quality is kept inside a saved model: give its folder instead of the loaded model"
            )
        check_folder(model)


def _texts(source: str | os.PathLike[str] | Iterable[str] | None) -> tuple[str, ...]:
    if source is None:
        return ()
    if isinstance(source, (str, os.PathLike)):
        from matryoshka2d.inference.encoding import read_texts

        return tuple(dict.fromkeys(read_texts(source)))
    return tuple(dict.fromkeys(source))


def _only(paths: Paths) -> Paths:
    """Return the one path of a list of one, which may be a folder."""
    return paths if isinstance(paths, (str, os.PathLike)) or len(paths) != 1 else paths[0]


def _listed(paths: Paths | None) -> Sequence[Any]:
    if paths is None:
        return ()
    return [paths] if isinstance(paths, (str, os.PathLike)) else paths


def spread(texts: Sequence[str], count: int) -> tuple[str, ...]:
    """Return at most so many of the texts, evenly spread over them.

    >>> spread("abcdef", 3)
    ('a', 'c', 'e')
    """
    step = max(1, len(texts) / count)
    return tuple(texts[int(i * step)] for i in range(min(len(texts), count)))


def _load(model: str | Path | ElasticEncoder, pooling: str | None, device: str | None) -> ElasticEncoder:
    from matryoshka2d.encoder.default_model import resolve_model
    from matryoshka2d.encoder.elastic import ElasticEncoder

    if isinstance(model, ElasticEncoder):
        return model
    return ElasticEncoder(resolve_model(str(model)), pooling=pooling, device=device)


def _name(model: str | Path | ElasticEncoder) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__


# --- quality ------------------------------------------------------------------------------------------


def measured_quality(
    encoder: ElasticEncoder,
    sources: Sources,
    *,
    precision: str,
    sizes: str | Iterable[str | Size] | None = None,
    fidelity_by: str = "similarity",
    exclude_self: bool | None = None,
    name: str = "",
    save_to: str | None = None,
    show_progress_bar: bool = False,
) -> Quality:
    """Return the quality from the sources, or what the saved model carries.

    Raises
    ------
    UserError
        If there are no sources and the model carries none.
    """
    from matryoshka2d.encoder.fingerprints import weights_fingerprint
    from matryoshka2d.evaluation.agreement import fidelity
    from matryoshka2d.evaluation.quality import labelled_qualities
    from matryoshka2d.evaluation.record import store_quality, stored_quality

    if sources.texts:
        return fidelity(
            encoder,
            spread(sources.texts, _JUDGED),
            measure=fidelity_by,
            sizes=sizes,
            precision=precision,
            name=name,
            show_progress_bar=show_progress_bar,
        )
    weights = weights_fingerprint(encoder)
    if not (sources.sts or sources.retrieval):
        stored = stored_quality(encoder.record, precision, weights)
        if stored is None:
            raise no_quality(precision, any_stored=bool(encoder.record.get("quality")))
        return stored.only(sizes) if sizes is not None else stored
    found = labelled_qualities(
        encoder,
        sources.sts or sources.retrieval,
        precisions=(precision,) if save_to is None else tuple(INDEX_PRECISIONS),
        sizes=sizes,
        name=name,
        details=sources.details,
        **({"exclude_self": exclude_self} if sources.retrieval else {}),
        show_progress_bar=show_progress_bar,
    )
    if save_to is not None:
        store_quality(save_to, found.values(), weights)
    return found[precision]


def no_quality(precision: str, *, any_stored: bool) -> UserError:
    """Return the error that says how to give a model its quality."""
    what = f"no quality of {precision} vectors" if any_stored else "no quality"
    return UserError(
        f"the model carries {what} and none is given: expected --sts FOLDER, --retrieval FOLDER or, without "
        "labels, --texts FILE; matryoshka2d evaluate MODEL --sts FOLDER --save keeps it in the model"
    )


# --- cost ---------------------------------------------------------------------------------------------


def measured_costs(
    engine: Engine,
    layers: Iterable[int],
    sources: Sources,
    *,
    memory: Mapping[int, float] | None = None,
    seconds: float = 10.0,
) -> Costs:
    """Measure what every depth costs in an engine on this machine."""
    texts, origin = sources.to_time()
    words = sum(len(text.split()) for text in texts) / len(texts)
    details = {
        "engine": engine.name,
        "precision": engine.precision,
        "device": engine.device,
        "timed on": f"{origin} ({words:.0f} words in the mean)",
        "processors": os.cpu_count() or 1,
        "machine": platform.machine(),
        "date": date.today().isoformat(),
    }
    return measure_costs(engine, layers, texts, seconds=seconds, memory=memory, details=details)
