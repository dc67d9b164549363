"""Gradient caching: a batch of any size on the memory of a mini-batch, with the gradient of the whole batch.

A contrastive loss needs the vectors of the whole batch at once, but not what lies between a text and its
vector. So a step has three parts:

1. Every mini-batch is embedded, and all that the encoder computed on the way is dropped (`replayed`).
2. The loss is computed on the vectors of all exits, one term of the plan after another; each term's
   gradient is added to that of the vectors, and what the term computed is dropped too (`term_by_term`).
3. Mini-batch by mini-batch, the encoder runs once more, with the random state of its first run, so that
   dropout draws the same masks, and hands the gradient of its vectors down to the weights.

Parts 1 and 3 are torch's checkpointing, of one whole mini-batch at a time; on a CPU they are those of
`losses.lanes`, a mini-batch a core. It costs one more forward pass.

The method is that of Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited
Setup, arXiv 2101.06983; here it holds for many exits and widths, and for every strategy and objective.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")
Exits = Mapping[int, Sequence[Tensor]]
"""layer → the vectors of its exit, a float tensor [batch, width] for every text column."""


def replayed(run: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """Return the same function, which keeps only its inputs for the backward pass, and runs again then.

    Parameters
    ----------
    run
        A function of tensors; it may draw random numbers, and draws the same when it runs again. The device
        is that of the tensors among its positional arguments, dicts of tensors included.

    Examples
    --------
    >>> weight = torch.ones(3, requires_grad=True)
    >>> dropped_out = replayed(lambda x: torch.dropout(x * weight, 0.5, train=True))(torch.ones(3))
    >>> dropped_out.sum().backward()
    >>> torch.equal(weight.grad, dropped_out)
    True
    """

    def run_and_forget(*arguments: Inputs.args, **options: Inputs.kwargs) -> Output:
        if not torch.is_grad_enabled():
            return run(*arguments, **options)
        return cast(Output, checkpoint(partial(run, **options), *arguments, use_reentrant=False))

    return run_and_forget


def term_by_term(terms: Callable[[Exits], Iterable[Tensor]], exits: Exits) -> Tensor:
    """Return the sum of all terms; no two of them are ever in memory together.

    Parameters
    ----------
    terms
        The vectors of the exits → scalars, best a generator: each is dropped before the next is made.
    exits
        The vectors, with the graph that made them.

    Returns
    -------
    Tensor
        A scalar with the value and the gradient of ``sum(terms(exits))``.

    Examples
    --------
    >>> vectors = torch.tensor([[1.0, 2.0]], requires_grad=True)
    >>> total = term_by_term(lambda exits: (k * exits[1][0].sum() for k in (1, 10)), {1: [vectors]})
    >>> total.backward()
    >>> total.item(), vectors.grad.tolist()
    (33.0, [[11.0, 11.0]])
    """
    if not torch.is_grad_enabled():
        return torch.stack(list(terms(exits))).sum()
    leaves = {n: [column.detach().requires_grad_() for column in columns] for n, columns in exits.items()}
    total = torch.zeros((), device=next(iter(leaves.values()))[0].device)
    for term in terms(leaves):
        total = total + term.detach()
        if term.requires_grad:
            term.backward()  # type: ignore[no-untyped-call]
    gradients = [leaf.grad for columns in leaves.values() for leaf in columns]
    vectors = [column for columns in exits.values() for column in columns]
    known: Tensor = _KnownGradients.apply(total, gradients, *vectors)  # type: ignore[no-untyped-call]
    return known


class _KnownGradients(torch.autograd.Function):
    """A value whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list[Tensor | None], *vectors: Tensor) -> Tensor:  # noqa: ARG004
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = factors
        known = (None if gradient is None else gradient * factor for gradient in ctx.gradients)
        return (None, None, *known)
