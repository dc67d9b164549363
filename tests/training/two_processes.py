"""What two processes do in `test_ranks.py`, each with its rows of the batches: started by torchrun.

torchrun --nproc-per-node 2 -m tests.training.two_processes JOB FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.losses.elastic_loss import ElasticLoss
from matryoshka2d.training.teacher import TeacherVectors
from matryoshka2d.training.trainer import StepOfLoss
from tests.loss_cases import Computed, value_and_gradients
from tests.training import small

ROWS = 32
TEACHER = torch.randn(3 * ROWS, 20, generator=torch.Generator().manual_seed(0)).numpy()
TRIPLES = torch.arange(3 * ROWS).reshape(ROWS, 3).numpy()

# What is learnt, the form of the rows, whether from a frozen teacher too, and the tokens of a mini-batch.
CASES: dict[str, tuple[str, str, str, bool, int | None]] = {
    f"{objective} on {form}, {strategy}": (objective, form, strategy, False, None)
    for objective, form in (
        ("infonce", "pairs"),
        ("infonce", "triplets"),
        ("angle", "triplets"),
        ("angle", "scored"),
        ("cosent", "scored"),
    )
    for strategy in ("all-sizes", "2dmse")
}
CASES |= {
    "infonce, cached": ("infonce", "triplets", "all-sizes", False, 60),
    "infonce, starbucks": ("infonce", "pairs", "starbucks", False, None),
    "infonce and a teacher": ("infonce", "triplets", "all-sizes", True, None),
    "cosent and a teacher, cached": ("cosent", "scored", "all-sizes", True, 60),
    "distillation from itself": ("distillation", "pairs", "2dmse", False, None),
    "distillation from a teacher": ("distillation", "triplets", "2dmse", True, None),
}


def loss_of(encoder: ElasticEncoder, case: str) -> ElasticLoss:
    objective, form, strategy, taught, tokens = CASES[case]
    columns = 3 if form == "triplets" else 2
    teacher = TeacherVectors(TEACHER, TRIPLES[:, :columns]) if taught else None
    loss = ElasticLoss(encoder, objective, strategy, seed=7, teacher=teacher, mini_batch_tokens=tokens)
    loss.step = 5
    return loss


def rows_of(encoder: ElasticEncoder, case: str, part: slice) -> tuple[list[dict[str, Any]], Tensor | None]:
    """Return some rows of a batch: the columns and the labels."""
    _, form, _, taught, _ = CASES[case]
    rows = small.rows(form, ROWS)[part]
    columns = [encoder.preprocess([row[name] for row in rows]) for name in rows[0] if name != "score"]
    scores = torch.tensor([row["score"] for row in rows]) if form == "scored" else None
    if not taught:
        return columns, scores
    numbers = torch.arange(ROWS)[part]
    return columns, numbers if scores is None else torch.stack([scores, numbers.float()], dim=1)


def computed(encoder: ElasticEncoder, loss: ElasticLoss, batch: Any) -> Computed:
    """Return the loss of a batch and the gradient of every weight."""
    return value_and_gradients(encoder, lambda: loss(*batch))


def gradients(folder: Path) -> None:
    """Compute every case on this process's half of the batch, and one with halves that are uneven."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    encoder = ElasticEncoder(str(folder / "still"), device="cpu").train()
    encoder.add_heads()
    wrapped = DistributedDataParallel(encoder, find_unused_parameters=True)
    found = {}
    for case in CASES:
        loss = loss_of(encoder, case)
        loss.model = wrapped
        half = slice(0, 16) if rank == 0 else slice(16, 32)
        found[case] = computed(encoder, loss, rows_of(encoder, case, half))
    loss = loss_of(encoder, "infonce, cached")
    loss.model = wrapped
    uneven = slice(0, 21) if rank == 0 else slice(21, 32)
    found["uneven"] = computed(encoder, loss, rows_of(encoder, "infonce, cached", uneven))
    torch.manual_seed(rank)  # as dropout would: the processes are at different places of their random numbers
    loss = ElasticLoss(encoder, "infonce", "ese")
    loss.model = wrapped
    found["chance"] = computed(encoder, loss, rows_of(encoder, "infonce on pairs, 2dmse", half))
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def die_at(step: int) -> None:
    """End this process for good at the beginning of a step."""
    begin = StepOfLoss.on_step_begin

    def dying(self: StepOfLoss, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(self, args, state, control, **kwargs)

    StepOfLoss.on_step_begin = dying  # type: ignore[method-assign]


def runs(folder: Path) -> None:
    """Train as a file says, one run after the other."""
    for choices in json.loads((folder / "runs.json").read_text()):
        step = choices.pop("dies_at", None)
        if step is not None:
            die_at(step)
        small.run(folder, **choices)


if __name__ == "__main__":
    {"gradients": gradients, "runs": runs}[sys.argv[1]](Path(sys.argv[2]))
