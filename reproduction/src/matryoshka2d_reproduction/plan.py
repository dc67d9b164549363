"""A plan: methods x seeds x backbones x data as a table."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matryoshka2d.size import Size

KINDS = ("train", "untouched", "fit", "separate", "sentence-transformers", "rotate", "cut", "average")
"""How a method makes its models; see `Method.kind`."""

TRAINED_KINDS = ("train", "separate", "sentence-transformers")
"""Kinds of methods that train, with the plan's defaults."""

TEACHERS = ("self", "original", "tuned")
"""Teachers that `TrainingOptions` knows by itself: no method may take their names."""

PRECISIONS = ("fp32", "bf16")
"""What models may be measured in."""


@dataclass(frozen=True)
class Data:
    """Training data.

    Parameters
    ----------
    files
        Paths inside the data folder; several are mixed.
    limit
        Use only the first so many rows of every file.
    columns
        Names of columns that are not recognised, as in `TrainingOptions`.
    format
        ``triplets``, ``pairs``, ``scored`` or ``texts``: what a dry run makes up in place of the files.
    """

    files: tuple[str, ...]
    limit: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str = "triplets"


@dataclass(frozen=True)
class Backbone:
    """A model that methods start from.

    Parameters
    ----------
    model
        A folder, a hub name, or ``default`` (all-MiniLM-L6-v2).
    pooling
        ``mean``, ``cls`` or ``last``, for a plain transformers checkpoint.
    layers
        Keep only these layers of the model, counted from 1: a pruned backbone, worse than the model until
        it is taught again.
    distil
        Training options with which a pruned backbone first learns from the whole model, text only; the key
        ``data`` names data of the plan.
    """

    model: str = "default"
    pooling: str | None = None
    layers: tuple[int, ...] = ()
    distil: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """Options that are chosen on dev before the test runs.

    Parameters
    ----------
    options
        Option → the values that are tried, all combinations.
    limit
        Rows of every file that a trial trains on; those of the data by default.
    seed
        Seed of the trials. One: a choice, not a result.
    sizes
        Sizes whose mean on dev decides; all sizes of the plan by default. Name the full size for a method
        that is made for it alone. A separate model is always judged at its own size.
    by_depth
        Of a separate method: option → layers → the values tried at this depth, for options whose values are
        not the same at every depth. `options` then has all of them.
    """

    options: Mapping[str, tuple[Any, ...]]
    limit: int | None = None
    seed: int = 0
    sizes: str = ""
    by_depth: Mapping[str, Mapping[int, tuple[Any, ...]]] = field(default_factory=dict)

    def trials(self, size: Size | None = None) -> list[dict[str, Any]]:
        """Return every combination of values that is tried; for a separate model, at its depth.

        >>> Choice({"learning_rate": (1e-4, 3e-4)}).trials()
        [{'learning_rate': 0.0001}, {'learning_rate': 0.0003}]
        """
        values = {
            name: self.by_depth[name][size.layers] if size and name in self.by_depth else all_values
            for name, all_values in self.options.items()
        }
        return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Parameters
    ----------
    name
        How it is shown and named elsewhere in the plan.
    kind
        ``train`` (any `TrainingOptions`), ``untouched`` (the backbone as it is), ``fit`` (the backbone with
        fitted heads and no training), ``separate`` (the backbone cut to n layers and trained at d dims, for
        each of `sizes`), ``sentence-transformers`` (its Matryoshka2dLoss in its own trainer), ``rotate``
        (another method's model with its space turned, by texts of the data), ``cut`` (a PCA or random cut of
        another method's model) or ``average`` (the weights of other methods' models averaged).
    options
        Fields of `TrainingOptions`. ``model`` and ``teacher`` may name a method: its model with the same
        seed, trained first.
    sizes
        Of a separate method: the sizes, each a model of its own.
    of
        Of a rotation, a cut or an average: the methods whose models are used.
    cut
        Of a cut: ``pca``, fitted on training texts, or ``random``.
    weights
        Of an average: one weight for each method in `of`; equal by default.
    loss_options
        Of sentence-transformers: arguments of its Matryoshka2dLoss.
    seeds, backbones, data
        Restrict the method to some of the plan's; all by default. An untouched model has no seed.
    choose
        What is chosen on dev first.
    note
        A sentence for the report.
    """

    name: str
    kind: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[Size, ...] = ()
    of: tuple[str, ...] = ()
    cut: str = ""
    weights: tuple[float, ...] = ()
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    backbones: tuple[str, ...] | None = None
    data: tuple[str, ...] | None = None
    choose: Choice | None = None
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A sentence that the results confirm or do not.

    Parameters
    ----------
    text
        The claim, in one sentence.
    method, other
        Who is said to lead, over whom.
    sizes
        Where; every size that both have by default.
    verdict
        ``better``, ``at least as good`` or ``worse``: what must hold at each of these sizes; with ``mean``
        before it, of the mean over them: ``mean better``. Or ``keeps 97``: each of these sizes scores at
        least 97% of what the other scores at its full size.
    task
        Which task it is about; ``sts`` by default.
    """

    text: str
    method: str
    other: str
    sizes: str = ""
    verdict: str = "at least as good"
    task: str = "sts"


KEEPS = re.compile(r"keeps (\d+(?:\.\d+)?)")
VERDICTS = tuple(
    f"{scope}{verdict}" for scope in ("", "mean ") for verdict in ("at least as good", "better", "worse")
)


@dataclass(frozen=True)
class Plan:
    """Everything that `matryoshka2d reproduce` runs.

    Parameters
    ----------
    name
        The name of the file without its suffix, and of the folder of its results.
    title, note
        Shown on top of the report.
    sizes
        The sizes that every method is judged at.
    seeds
        Seeds of training.
    backbones, data, methods
        By name.
    sts, retrieval
        Test sets: STS folders or files, and retrieval sets, as paths inside the data folder.
    dev_sts, dev_captions
        Where dev sets are made from: the folder of STS files, and a file of grouped captions.
    precision
        What models are measured in: fp32, or bf16, which is several times as fast on a CPU with units for
        it and moves scores by hundredths of a point. Training has a precision of its own.
    defaults
        Training options of all methods.
    compare
        Pairs of methods: the lead of the first over the second.
    claims
        What the results confirm or do not.
    reported
        Figures of a paper, shown as reported and never as measured: title → name → figure.
    pictures
        Methods that heatmaps and curves show; by default all. Methods that lack sizes of the plan are in no
        picture.
    """

    name: str
    title: str
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...]
    backbones: Mapping[str, Backbone]
    data: Mapping[str, Data]
    methods: Mapping[str, Method]
    sts: tuple[str, ...] = ()
    retrieval: tuple[str, ...] = ()
    dev_sts: str = ""
    dev_captions: str = ""
    precision: str = "fp32"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    compare: tuple[tuple[str, str], ...] = ()
    claims: tuple[Claim, ...] = ()
    reported: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    note: str = ""

    def references(self, method: Method) -> tuple[str, ...]:
        """Return the methods whose models this one needs, in the order in which they are named."""
        options = {**self.defaults, **method.options} if method.kind in TRAINED_KINDS else {}
        named = [options.get(key) for key in ("model", "teacher")]
        return tuple(dict.fromkeys([*(str(n) for n in named if n in self.methods), *method.of]))
