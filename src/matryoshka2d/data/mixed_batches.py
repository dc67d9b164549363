"""Batches of a mixture in memory, with shares of the user's choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, islice
from typing import Any

from sentence_transformers.base.sampler import MultiDatasetDefaultBatchSampler

from matryoshka2d.data.shares import turns


class MixedBatchSampler(MultiDatasetDefaultBatchSampler):
    """As many batches an epoch as the data sets have together, dealt out to them by shares.

    A data set with a larger share than rows begins anew within an epoch; one with a smaller share goes on in
    the next epoch where it stopped. The sampler of a data set knows its passes as epochs.

    Parameters
    ----------
    dataset, batch_samplers, generator, seed
        As the trainer passes them; nothing is drawn from the generator.
    shares
        How large a part of the batches comes from each data set; positive, with the sum 1.

    Examples
    --------
    >>> from datasets import Dataset
    >>> from torch.utils.data import ConcatDataset
    >>> from matryoshka2d.data.batching import DistinctRowsBatchSampler
    >>> sets = [Dataset.from_dict({"text": [f"{name}{i}" for i in range(4)]}) for name in "ab"]
    >>> samplers = [DistinctRowsBatchSampler(rows, 1, drop_last=True) for rows in sets]
    >>> sampler = MixedBatchSampler(ConcatDataset(sets), samplers, shares=[0.75, 0.25])
    >>> [batch[0] // 4 for batch in sampler]
    [0, 0, 0, 1, 0, 0, 0, 1]
    """

    def __init__(self, *arguments: Any, shares: Sequence[float], **choices: Any) -> None:
        super().__init__(*arguments, **choices)
        self.shares = list(shares)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of each batch of the current epoch, in the data sets one after the other."""
        offsets = [0, *accumulate(len(rows) for rows in self.dataset.datasets)]
        order = turns(self.shares)
        before = Counter(islice(order, self.epoch * len(self)))
        batches = [self._batches(place, before[place]) for place in range(len(self.shares))]
        for place in islice(order, len(self)):
            yield [row + offsets[place] for row in next(batches[place])]

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return sum(map(len, self.batch_samplers))

    def _batches(self, place: int, start: int) -> Iterator[list[int]]:
        """Yield a data set's batches without end, from one that is counted over all its passes."""
        sampler = self.batch_samplers[place]
        first, skipped = divmod(start, len(sampler))
        for number in count(first):
            sampler.set_epoch(number)
            yield from islice(sampler, skipped if number == first else 0, None)
