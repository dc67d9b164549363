"""ElasticLoss: an objective at the sizes that a strategy names, from one pass of the encoder a step.

>>> from matryoshka2d.encoder.elastic import ElasticEncoder
>>> from matryoshka2d.encoder.default_model import default_model_path
>>> encoder = ElasticEncoder(default_model_path(), device="cpu")
>>> loss = ElasticLoss(encoder, objective="infonce", strategy="2dmse")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.losses.all_gather import same_chance, whole_batch
from matryoshka2d.losses.columns import run_columns
from matryoshka2d.losses.gradient_cache import term_by_term
from matryoshka2d.losses.loss_meter import SizeLosses
from matryoshka2d.losses.objectives import DataFormat, Objective, make_objective
from matryoshka2d.losses.objectives.distillation import TEXTS_AT_ONCE
from matryoshka2d.losses.strategies import DEFAULT_STRATEGY, make_strategy
from matryoshka2d.losses.strategies.base import (
    Alignment,
    Columns,
    Pull,
    Shape,
    StepPlan,
    StepRandom,
    Strategy,
    Term,
)
from matryoshka2d.losses.strategies.cross_exit import with_cross_exit
from matryoshka2d.options import require

TeacherLookup = Callable[[Tensor], Tensor]
"""Row numbers int64 [batch], or what the labels hold → the teacher's float32 [batch, columns, width]."""


class ElasticLoss(nn.Module):
    """A loss for `SentenceTransformerTrainer` that makes an `ElasticEncoder` good at many sizes.

    Parameters
    ----------
    model
        The encoder to train.
    objective
        A name from `matryoshka2d.losses.objectives.OBJECTIVES` or an objective: what is computed on a size.
    strategy
        A name from `matryoshka2d.losses.strategies.STRATEGIES` or a strategy: which sizes a step trains.
    seed
        Together with the step number it fixes which sizes a sampling strategy draws.
    teacher
        A lookup that turns row numbers into the vectors of a frozen teacher. The distillation objective
        learns from it, and so do strategies that ask for one (``all-sizes``). The labels of a batch are
        then its row numbers [batch], or, for scored pairs, scores and row numbers [batch, 2]; or the
        vectors themselves, which the lookup is handed: [batch, columns, width], for scored pairs behind one
        that holds the score. Without one the model's own full size, detached, is the teacher.
    cross_exit
        Weight of shallow queries that meet documents at full depth, beside each size by itself; see
        `losses.strategies.cross_exit`. Default 0. Set 1 to search one full-depth index at any depth.
    rows_per_group
        Texts that run through the encoder together, default as many as suit the device; see
        `matryoshka2d.losses.columns`.
    mini_batch_tokens
        Tokens that run through the encoder together, instead. The gradient is then cached, so that memory
        depends on this number and hardly on the batch size; see `losses.gradient_cache`. Set it for large
        batches: 1024 on a CPU, more on a GPU. None, the default, is faster where a batch fits in memory.

    Attributes
    ----------
    by_size
        Means of the losses of every size since they were last taken, for logs.

    Notes
    -----
    Under data-parallel training the loss is that of the rows of all processes: see `losses.all_gather`.

    Examples
    --------
    >>> from sentence_transformers import SentenceTransformerTrainer
    >>> def train(encoder, dataset):
    ...     return SentenceTransformerTrainer(encoder, train_dataset=dataset, loss=ElasticLoss(encoder))
    """

    def __init__(
        self,
        model: ElasticEncoder,
        objective: str | Objective = "infonce",
        strategy: str | Strategy = DEFAULT_STRATEGY,
        *,
        seed: int = 0,
        teacher: TeacherLookup | None = None,
        cross_exit: float = 0.0,
        rows_per_group: int | None = None,
        mini_batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, ElasticEncoder):
            raise UserError(f"ElasticLoss trains an ElasticEncoder, not a {type(model).__name__}")
        self.model = model
        self.objective = make_objective(objective) if isinstance(objective, str) else objective
        self.strategy = make_strategy(strategy) if isinstance(strategy, str) else strategy
        self.distils = DataFormat.TEXT in self.objective.formats
        self.shape = Shape(model.depth, model.width, has_teacher=teacher is not None and not self.distils)
        if self.shape.has_teacher and not self.strategy.plan(self.shape, StepRandom(seed, 0)).needs_teacher:
            names = f"{type(self.objective).__name__} with {type(self.strategy).__name__}"
            raise UserError(
                f"{names} learns from no teacher: choose all-sizes or distillation, or leave it out"
            )
        self.as_output = model.ends_in_normalize
        self.seed = seed
        self.step = 0
        self.teacher = teacher
        self.cross_exit = cross_exit
        require(0 <= cross_exit < math.inf, f"ElasticLoss.cross_exit is {cross_exit}: expected 0 or more")
        self.rows_per_group = rows_per_group
        self.mini_batch_tokens = mini_batch_tokens
        self.by_size = SizeLosses()

    def plan(self) -> StepPlan:
        """Return the plan of the current step: a function of the seed and the step number alone."""
        plan = self.strategy.plan(self.shape, StepRandom(self.seed, self.step))
        return with_cross_exit(plan, self.shape, self.cross_exit)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> Tensor:
        """Return the loss of one batch.

        Parameters
        ----------
        sentence_features
            One dict of tensors [batch, tokens] for every text column.
        labels
            What the objective compares with, if anything.
        """
        plan = self.plan()
        chance = StepRandom(self.seed, self.step).getrandbits(63)
        self.step += int(self.training)
        exits, labels = whole_batch(self._exits(list(sentence_features), plan), labels)
        device = exits[plan.layers()[0]][0].device
        taught = None
        if self.shape.has_teacher:
            labels, taught = self._ask_teacher(labels, len(exits[plan.layers()[0]]))
        targets = self._targets(exits, labels)
        noted: list[LossPart] = []
        columns = exits[plan.layers()[0]]
        together = self.mini_batch_tokens is None and len(columns) * len(columns[0]) <= TEXTS_AT_ONCE

        def terms(vectors: Mapping[int, Columns]) -> Iterator[Tensor]:
            parts = loss_parts(
                plan, vectors, self.objective, targets, self.as_output, taught, together=together
            )
            for part in parts:
                noted.append(part._replace(values=part.values.detach()))
                yield part.total()

        with torch.autocast(device.type, enabled=False), same_chance(chance, device):
            total = sum_of(terms(exits)) if self.mini_batch_tokens is None else term_by_term(terms, exits)
        if self.training:
            self.by_size.add([name for part in noted for name in part.names], [part.values for part in noted])
        return total

    def _exits(self, columns: list[dict[str, Any]], plan: StepPlan) -> Mapping[int, Columns]:
        """Return the vectors that the plan reads, from one call of the encoder."""
        needs_own_teacher = self.distils and self.teacher is None
        layers = sorted({*plan.layers(), *([self.shape.layers] if needs_own_teacher else [])})
        found: Mapping[int, Columns] = self.model(
            columns,
            exits=layers,
            run=partial(
                run_columns, rows_per_group=self.rows_per_group, mini_batch_tokens=self.mini_batch_tokens
            ),
        )["exit_vectors"]
        return found

    def _ask_teacher(self, labels: Tensor | None, columns: int) -> tuple[Tensor | None, Columns]:
        """Return the objective's own labels and the frozen teacher's vectors, a tensor a column."""
        assert self.teacher is not None
        if labels is None:
            raise UserError("a teacher needs a label column that holds the row numbers")
        scores, asked = None, labels
        if labels.ndim == 2:
            scores, asked = labels[:, 0], labels[:, 1].long()
        elif labels.ndim == 3 and labels.shape[1] > columns:
            scores, asked = labels[:, 0, 0], labels[:, 1:]
        return scores, self.teacher(asked).unbind(dim=1)

    def _targets(self, exits: Mapping[int, Columns], labels: Tensor | None) -> Tensor | None:
        if not self.distils:
            return labels
        if self.teacher is None:
            return torch.stack([column.detach() for column in exits[self.shape.layers]], dim=1)
        if labels is None:
            raise UserError("distillation from a teacher needs a label column that holds the row numbers")
        return self.teacher(labels)

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says about this loss."""
        return {"objective": repr(self.objective), "strategy": repr(self.strategy), "seed": self.seed}

    @property
    def citation(self) -> str:
        """The paper whose method this is."""
        return (
            "@misc{li2024matryoshka2d,\n"
            "    title={2D Matryoshka Sentence Embeddings},\n"
            "    author={Xianming Li and Zongxi Li and Jing Li and Haoran Xie and Qing Li},\n"
            "    year={2024},\n    eprint={2402.14776},\n    archivePrefix={arXiv}\n}\n"
        )


class LossPart(NamedTuple):
    """Terms or pulls of a step that are alike but for their exit; often a single one.

    Parameters
    ----------
    names
        What they are and at which size, as ``loss/3x128``.
    weight
        What each of them weighs in the loss of the step.
    values
        Float [names], without the weight, so that sizes can be compared.
    """

    names: tuple[str, ...]
    weight: float
    values: Tensor

    def total(self) -> Tensor:
        """Return what they add to the loss of the step: a float scalar."""
        return self.weight * self.values.sum()


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of scalars, in their order."""
    first, *others = terms
    return sum(others, start=first)


def loss_parts(
    plan: StepPlan,
    exits: Mapping[int, Columns],
    objective: Objective,
    labels: Tensor | None,
    normalized_output: bool,
    taught: Columns | None = None,
    *,
    together: bool = False,
) -> Iterator[LossPart]:
    """Carry a plan out on vectors, one part after the other.

    Parameters
    ----------
    plan
        The terms and pulls of the step.
    exits
        layer → one float tensor [batch, width] per column, neither cut nor normalized.
    objective, labels
        What is computed at every term.
    normalized_output
        Whether the model itself returns unit vectors; pulls marked `as_output` then see those.
    taught
        The frozen teacher's vectors, float [batch, its width] per column; for pulls towards it.
    together
        Compute what differs in its exit alone at once: the same values to rounding, from a fraction of the
        kernels, which is what a small batch on a GPU waits for. It takes the memory of all of them.

    Yields
    ------
    LossPart
        The terms, then the pulls, in the order of the plan but for those that are computed together.
    """
    stack = _Stack(exits)
    for terms in _alike(plan.terms, lambda _: together and _stacks(objective), _term_kind):
        students = stack.columns([(term.layers, term.documents) for term in terms])
        values = _values(lambda *columns: objective(columns, labels), _prefix(students, terms[0].dims))
        yield LossPart(tuple(_name("loss", term) for term in terms), terms[0].weight, values)
    for pulls in _alike(plan.pulls, lambda one: together and _stacks(one.alignment), _pull_kind):
        pull = pulls[0]
        students = stack.columns([(one.student[0], one.documents) for one in pulls])
        teacher = _teacher_of(pull, exits, taught)
        if pull.as_output and normalized_output:
            students, teacher = _unit(students), _unit(teacher)
        if pull.teacher is not None:
            teacher = _prefix(teacher, pull.teacher[1])
        aligned = partial(_aligned, pull.alignment, teacher)
        values = _values(aligned, _prefix(students, pull.student[1]))
        yield LossPart(tuple(_name("alignment", one) for one in pulls), pull.weight, values)


Part = TypeVar("Part", Term, Pull)


def _alike(
    parts: Iterable[Part], stacks: Callable[[Part], bool], kind: Callable[[Part], Any]
) -> list[list[Part]]:
    """Return the parts that stack in groups of the same kind, and any other by itself."""
    groups: dict[Any, list[Part]] = {}
    for place, part in enumerate(parts):
        groups.setdefault(kind(part) if stacks(part) else place, []).append(part)
    return list(groups.values())


def _term_kind(term: Term) -> Any:
    return term.dims, term.weight


def _pull_kind(pull: Pull) -> Any:
    return pull.student[1], pull.teacher, pull.alignment, pull.weight, pull.detach, pull.as_output


def _stacks(function: Any) -> bool:
    return bool(getattr(function, "stacks", False))


class _Stack:
    """The columns of several exits on top of each other, made once for all widths that are cut of them."""

    def __init__(self, exits: Mapping[int, Columns]) -> None:
        self.exits = exits
        self.made: dict[tuple[tuple[int, int | None], ...], Columns] = {}

    def columns(self, read: Sequence[tuple[int, int | None]]) -> Columns:
        """Return float [exits, batch, width] for every column, of exits and those their documents are of."""
        key = tuple(read)
        if key not in self.made:
            columns = [_columns(self.exits, *one) for one in key]
            self.made[key] = [torch.stack(column) for column in zip(*columns, strict=True)]
        return self.made[key]


def _values(function: Callable[..., Tensor], columns: Columns) -> Tensor:
    """Return the value of a function of columns for each of the exits that are stacked: float [exits]."""
    if len(columns[0]) == 1:
        return function(*(column[0] for column in columns))[None]
    values: Tensor = torch.vmap(function)(*columns)
    return values


def _aligned(alignment: Alignment, teacher: Columns, *student: Tensor) -> Tensor:
    return alignment(student, teacher)


def _name(kind: str, part: Term | Pull) -> str:
    """Name a part for logs: ``loss/3x128``, or ``cross_exit_loss/3x128`` over documents of another exit."""
    layers, dims = (part.layers, part.dims) if isinstance(part, Term) else part.student
    return f"{'' if part.documents is None else 'cross_exit_'}{kind}/{layers}x{dims}"


def _columns(exits: Mapping[int, Columns], layers: int, documents: int | None) -> Columns:
    """Return the columns of an exit, or its queries with the documents of another one, detached."""
    if documents is None:
        return exits[layers]
    queries, others = exits[layers], [column.detach() for column in exits[documents]]
    if len(queries) > 1:
        return [queries[0], *others[1:]]
    # Texts without a counterpart: every other one is a document.
    is_query = torch.arange(len(queries[0]), device=queries[0].device) % 2 == 0
    return [torch.where(is_query[:, None], queries[0], others[0])]


def _teacher_of(pull: Pull, exits: Mapping[int, Columns], taught: Columns | None) -> Columns:
    """Return the vectors that a pull goes towards, at their full width."""
    if pull.teacher is None:
        assert taught is not None, "the plan asks for a teacher that the run does not have"
        return taught
    columns = exits[pull.teacher[0]]
    return [column.detach() for column in columns] if pull.detach else columns


def _prefix(columns: Columns, dims: int) -> list[Tensor]:
    return [column[..., :dims] for column in columns]


def _unit(columns: Columns) -> list[Tensor]:
    return [nn.functional.normalize(column, dim=-1) for column in columns]
