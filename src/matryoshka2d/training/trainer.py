"""sentence-transformers' trainer, with checkpoints that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from torch import nn
from torch.utils.data import BatchSampler, DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState

from matryoshka2d.data.batch_sampler import DistinctRowsBatchSampler, GroupDroppingCollator, MixedBatchSampler
from matryoshka2d.data.stream_batch_sampler import StreamBatchSampler
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import Grid, StsSet, read_sts, sts_grid
from matryoshka2d.losses.all_gather import processes
from matryoshka2d.losses.elastic_loss import ElasticLoss
from matryoshka2d.size import Size, parse_sizes
from matryoshka2d.training.checkpoints import WholeCheckpoints
from matryoshka2d.training.teachable import check_teaches
from matryoshka2d.training.teacher import DrawnRows, LiveTeacher

_TRAINED = "trained.safetensors"


class FullBatchSampler(DistinctRowsBatchSampler):
    """Leaves out the batches that are not full, unless a data set has no others.

    A small batch has few negatives; but a data set of fewer rows than a batch must not vanish.
    """

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, batch_size, drop_last, *args, **kwargs)
        if drop_last and len(self) == 0:
            if processes() > 1:
                raise UserError(
                    f"{len(dataset)} rows fill no batch of {batch_size} without a text or group that comes "
                    f"twice, and {processes()} processes need full batches: lower --batch-size"
                )
            super().__init__(dataset, batch_size, False, *args, **kwargs)


class ElasticTrainer(WholeCheckpoints, SentenceTransformerTrainer):
    """A trainer with whole checkpoints that logs the loss of every size.

    Parameters
    ----------
    *args, **choices
        As `SentenceTransformerTrainer` takes them.
    stream
        The batches of the run, if its rows are streamed; then there is no ``train_dataset``.
    teachers
        Who teaches streamed rows; see `DrawnRows`.
    shares
        How large a part of the batches comes from each data set, if not as much as it has rows.
    """

    data_collator_class = GroupDroppingCollator

    def __init__(
        self,
        *args: Any,
        stream: StreamBatchSampler | None = None,
        teachers: Mapping[str | None, LiveTeacher] | None = None,
        shares: Sequence[float] | None = None,
        **choices: Any,
    ) -> None:
        super().__init__(*args, **choices)
        self.samplers: list[tuple[Dataset, BatchSampler]] = []
        self.stream = stream
        self.teachers = teachers or {}
        self.shares = shares

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's part of the batches."""
        if self.stream is None:
            self.samplers.clear()
            loader = cast(DataLoader[Any], super().get_train_dataloader())
            self._check_batches()
            if loader.num_workers:
                # The tokenizer is part of the model, which under mixed precision cannot be pickled.
                loader.multiprocessing_context = "fork"
                # Each of them tokenizes in one thread; the library would warn of it.
                os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            return loader
        loader = DataLoader(
            DrawnRows(self.teachers),
            batch_sampler=self.stream,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return cast(DataLoader[Any], self.accelerator.prepare(loader))

    def get_batch_sampler(self, dataset: Dataset, *args: Any, **choices: Any) -> BatchSampler | None:
        """Return the sampler of a data set, and remember it."""
        sampler = super().get_batch_sampler(dataset, *args, **choices)
        if sampler is not None:
            self.samplers.append((dataset, sampler))
        return cast("BatchSampler | None", sampler)

    def _check_batches(self) -> None:
        """See that every data set has batches that teach something."""
        losses = self.loss if isinstance(self.loss, Mapping) else {"": self.loss}
        for (name, loss), (rows, sampler) in zip(losses.items(), self.samplers, strict=True):
            check_teaches(name, rows, loss.objective, list(sampler), quiet=self.args.disable_tqdm)

    def get_multi_dataset_batch_sampler(self, *args: Any, **choices: Any) -> BatchSampler:
        """Return the sampler of a mixture: the library's, by the rows, or one by shares."""
        if self.shares is None:
            return cast(BatchSampler, super().get_multi_dataset_batch_sampler(*args, **choices))
        return MixedBatchSampler(*args, shares=self.shares, **choices)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and beside the loss of the step that of every size since the last log."""
        by_size = losses_by_size(self.loss) if "loss" in logs else {}
        super().log({**logs, **by_size}, start_time)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the whole model, or beside frozen weights only what is trained."""
        if all(parameter.requires_grad for parameter in self.model.parameters()):
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: tensor for name, tensor in self.model.named_parameters() if tensor.requires_grad}
        save_file({name: tensor.detach().contiguous() for name, tensor in trained.items()}, folder / _TRAINED)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        """Read what `_save` wrote."""
        file = Path(checkpoint_path) / _TRAINED
        if not file.is_file():
            super()._load_from_checkpoint(checkpoint_path)
            return
        _, unknown = self.model.load_state_dict(load_file(file), strict=False)
        if unknown:
            raise UserError(
                f"the checkpoint {checkpoint_path} is of other adapters ({unknown[0]}): resume with the "
                "options that the run was started with"
            )


def release(model: nn.Module, trainer: SentenceTransformerTrainer) -> None:
    """Take off what mixed precision put around `forward`: from now on the model computes as it is saved."""
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    # What is left is the class's own method, bound to this one object.
    vars(model).pop("forward", None)


def losses_by_size(loss: nn.Module | Mapping[str, nn.Module]) -> dict[str, float]:
    """Take the losses of every size, in a mixture under the name of their data set."""
    if isinstance(loss, nn.Module):
        found = [part for part in loss.modules() if isinstance(part, ElasticLoss)]
        return {name: value for part in found for name, value in part.by_size.take().items()}
    return {
        f"{dataset}/{name}": value
        for dataset, one in loss.items()
        for name, value in losses_by_size(one).items()
    }


class StepOfLoss(TrainerCallback):
    """Tell the losses the step number, so that a resumed run samples the sizes an unbroken one would."""

    def __init__(self, losses: list[ElasticLoss], accumulation: int) -> None:
        self.losses = losses
        self.accumulation = accumulation

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the number of the batch that comes next."""
        for loss in self.losses:
            loss.step = state.global_step * self.accumulation


class EpochOfBatches(TrainerCallback):
    """Tell the batch sampler the epoch, so that a resumed run sees the batches that an unbroken one would.

    The trainer reaches a sampler behind one wrapper; of several processes, one that goes on in the middle of
    an epoch has it behind two.
    """

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the epoch of every sampler under the data loader."""
        sampler = kwargs["train_dataloader"]
        while (sampler := getattr(sampler, "batch_sampler", None)) is not None:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(int(state.epoch + 1e-6))


class DevGrid(SentenceEvaluator):
    """An evaluator for sentence-transformers' trainer: Spearman x100 on dev pairs, averaged over sizes.

    Parameters
    ----------
    sets
        Dev sets, from `matryoshka2d.evaluation.read_sts`.
    sizes
        The sizes that are judged; checkpoints are compared by their mean.
    """

    def __init__(self, sets: Iterable[StsSet], sizes: Iterable[Size]) -> None:
        super().__init__()
        self.primary_metric = "dev_mean"
        self.sets = list(sets)
        self.sizes = tuple(sizes)

    def grid(self, model: Any) -> Grid:
        """Return the whole dev grid of a model."""
        return sts_grid(model, self.sets, sizes=self.sizes, name="dev")

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return the mean over sizes, and the score of the smallest and of the largest size."""
        means = self.grid(model).values()
        ends = {f"dev_{size}": means[size] for size in (min(means), max(means))}
        return {self.primary_metric: sum(means.values()) / len(means), **ends}


def dev_grid(path: str, sizes: str | Iterable[Size]) -> DevGrid:
    """Read the dev split of an STS file or folder.

    Raises
    ------
    UserError
        If there is no such file or it has no dev split.
    """
    return DevGrid(read_sts(path, split="dev"), parse_sizes(sizes))
