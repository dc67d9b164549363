"""Batches for in-batch negatives: no two rows of a batch share a text or a group.

With in-batch negatives every other row of a batch serves as "not similar". A row with the same text, or
a paraphrase from the same group, would teach the model that equal things differ.

Two parts are handed to `SentenceTransformerTrainer`: `DistinctRowsBatchSampler`, which reads the texts and
the ``group`` column of the data set, and `GroupDroppingCollator`, which takes ``group`` out of each batch
before the model would tokenize it as one more text. The data set itself stays as `read_rows` returned it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sentence_transformers.base.sampler import DefaultBatchSampler, MultiDatasetDefaultBatchSampler
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from matryoshka2d.data.row_formats import GROUP, NO_GROUP, text_columns
from matryoshka2d.data.shares import turns

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

Integers = npt.NDArray[np.int64]

_NO_KEY = -1
# How many batches a row is tried in before it is left for a later one: enough for real data, and it keeps
# the time linear where one text stands in thousands of rows.
_TRIES = 64


class DistinctRowsBatchSampler(DefaultBatchSampler):
    """Batches in which no two rows share a text (case and spacing aside) or a group.

    Pass the class itself as ``batch_sampler`` of `SentenceTransformerTrainingArguments`; the trainer
    makes one sampler for each data set.

    Every epoch has every row exactly once. Batches are full, but for a last one and for those that
    repeated texts force: if one text stands in more rows than there are full batches, small batches
    follow. With `drop_last`, batches that are not full are dropped, and every other row stays.

    The order depends on the seed and the epoch alone, so that a resumed run sees the batches that it
    would have seen.

    Parameters
    ----------
    dataset
        Rows with text columns and, optionally, a column ``group``; -1 and None are no group.
    batch_size
        Rows a batch. More rows are more negatives; every one must be distinct, so stay well below the
        number of groups.
    drop_last
        Whether to leave out batches that are not full. Default of the trainer: False; set
        ``dataloader_drop_last=True`` for losses or hardware that need one shape.
    valid_label_columns
        Columns that are labels and not texts. The trainer passes its collator's.
    generator
        Taken because the trainer passes one; nothing is drawn from it, since it is shared with the
        other data sets of a mixture.
    seed
        Default: 0; the trainer passes its own seed. Another seed gives other batches.

    Examples
    --------
    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"anchor": ["a dog", "A  dog", "a cat"], "positive": ["d", "e", "f"]})
    >>> batches = list(DistinctRowsBatchSampler(rows, batch_size=2, drop_last=False))
    >>> sorted(map(len, batches)), any({0, 1} <= set(batch) for batch in batches)
    ([1, 2], False)
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            valid_label_columns=valid_label_columns,
            generator=generator,
            seed=seed,
        )
        self._keys = row_keys(dataset, valid_label_columns or [])
        self._planned: tuple[int, list[list[int]]] | None = None

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row indices of each batch of the current epoch."""
        # Copies: whoever consumes a batch may change it, and the plan is kept for the epoch.
        yield from (list(batch) for batch in self._plan())

    def __len__(self) -> int:
        """Return the exact number of batches of the current epoch.

        The number is the same in every epoch unless repeated texts leave almost no room to place a row.
        """
        return len(self._plan())

    def _plan(self) -> list[list[int]]:
        if self._planned is None or self._planned[0] != self.epoch:
            generator = np.random.default_rng((self.seed or 0, self.epoch))
            batches = plan_batches(self._keys, self.batch_size, generator, drop_last=self.drop_last)
            self._planned = (self.epoch, batches)
        return self._planned[1]


@dataclass
class GroupDroppingCollator(SentenceTransformerDataCollator):
    """The collator of sentence-transformers, blind to the column ``group``.

    The trainer tokenizes every column that is not a label. A group is neither: it is there for the sampler.
    Parameters and result are those of `SentenceTransformerDataCollator`; a data set without groups
    gives the same batches with either.

    Examples
    --------
    >>> collator = GroupDroppingCollator(preprocess_fn=lambda texts, **_: {"input_ids": texts})
    >>> collator([{"anchor": "a dog", "group": "g1"}])
    {'anchor_input_ids': ['a dog']}
    """

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the model's inputs for the rows of one batch."""
        batch: dict[str, Any] = super().__call__(
            [{name: value for name, value in row.items() if name != GROUP} for row in features]
        )
        return batch


def row_keys(dataset: Dataset, label_columns: Iterable[str] = ()) -> Integers:
    """Return what each row shares with others, as numbers: shape (rows, columns), -1 for nothing.

    Equal texts have equal numbers in whatever column they stand; groups have numbers of their own. A
    text that a row repeats (its anchor is also its positive) is numbered once, and a text that stands in
    one row only is not numbered.

    Parameters
    ----------
    dataset
        Rows with text columns and, optionally, ``group``.
    label_columns
        Columns that are not texts.
    """
    plain = dataset.with_format(None)
    numbers: dict[tuple[bool, str], int] = {}
    columns = [
        [numbers.setdefault((False, fold(str(text))), len(numbers)) for text in plain[name][:]]
        for name in text_columns(plain.column_names, labels=label_columns)
    ]
    if GROUP in plain.column_names:
        columns.append(
            [
                _NO_KEY if group in (None, NO_GROUP) else numbers.setdefault((True, str(group)), len(numbers))
                for group in plain[GROUP][:]
            ]
        )
    keys = np.full((len(plain), len(columns)), _NO_KEY, dtype=np.int64)
    for place, column in enumerate(columns):
        keys[:, place] = column
    keys.sort(axis=1)
    keys[:, 1:][keys[:, 1:] == keys[:, :-1]] = _NO_KEY
    return np.where((keys != _NO_KEY) & (_counts(keys)[keys] > 1), keys, _NO_KEY)


def fold(text: str) -> str:
    """Return a text as it is compared: without case, and with single spaces.

    >>> fold("  A\\tDOG ") == fold("a dog")
    True
    """
    return " ".join(text.casefold().split())


def plan_batches(
    keys: Integers, batch_size: int, generator: np.random.Generator, *, drop_last: bool = False
) -> list[list[int]]:
    """Return batches of rows such that no key comes twice in a batch, in random order.

    Rows are dealt like cards: those that share a key lie next to each other, the most shared keys
    first, and go to one batch after another; rows that share nothing fill up the batches. Where no key is
    shared by more rows than there are batches, conflicts are rare, and the next batch takes the row. The
    time is linear in the rows.

    Parameters
    ----------
    keys
        As from `row_keys`, shape (rows, columns).
    batch_size
        The most rows a batch has.
    generator
        What makes the order random.
    drop_last
        Whether to return full batches only.

    Returns
    -------
    list of list of int
        Full batches in random order, then smaller ones, the larger first.

    Examples
    --------
    >>> keys = np.array([[0], [0], [1], [1]])
    >>> [len(batch) for batch in plan_batches(keys, 2, np.random.default_rng(0))]
    [2, 2]
    """
    order = _dealing_order(keys, generator)
    held = [[key for key in row if key != _NO_KEY] for row in keys.tolist()]
    batches: list[list[int]] = []
    while order:
        dealt, order = _deal(order, held, _capacities(keys[order], batch_size))
        batches += dealt
    full = [batch for batch in batches if len(batch) == batch_size]
    small = sorted((batch for batch in batches if 0 < len(batch) < batch_size), key=len, reverse=True)
    return [full[place] for place in generator.permutation(len(full))] + ([] if drop_last else small)


def _dealing_order(keys: Integers, generator: np.random.Generator) -> list[int]:
    """Return all rows, those with the most shared keys first, sharers side by side, otherwise at random."""
    rows = len(keys)
    if keys.size == 0:
        return [int(row) for row in generator.permutation(rows)]
    counts = _counts(keys)
    shared = np.where(keys != _NO_KEY, counts[keys], 0)
    place = shared.argmax(axis=1)
    most_shared, count = keys[np.arange(rows), place], shared[np.arange(rows), place]
    # One more than the keys, for the rows without any (-1): they are only shuffled.
    priority = generator.permutation(len(counts) + 1)
    # To lexsort, the last criterion is the first.
    order: list[int] = np.lexsort((generator.random(rows), priority[most_shared], -count)).tolist()
    return order


def _counts(keys: Integers) -> Integers:
    """Return how many rows share each key."""
    return np.bincount(keys[keys != _NO_KEY], minlength=1)


def _capacities(keys: Integers, batch_size: int) -> list[int]:
    """Return how many rows each batch of a round may take.

    As many full batches as the rows can fill, and the remainder; or, if they fill none, one batch for
    each sharer of the most shared key.
    """
    rows, counts = len(keys), _counts(keys)
    full = _full_batches(rows, counts, batch_size)
    if full == 0:
        return [batch_size] * max(-(-rows // batch_size), int(counts.max()))
    return [batch_size] * full + [min(rows - full * batch_size, batch_size - 1)]


def _full_batches(rows: int, counts: Integers, batch_size: int) -> int:
    """Return how many batches can be full if no batch may hold two sharers of a key.

    Of a key's sharers, a number n of batches can take only n; the others are in excess. The answer is the
    largest n whose places do not outnumber the rows that are left.
    """
    most = rows // batch_size
    if not most or counts.max() <= most:
        return most
    candidates = np.arange(most, 0, -1)
    many = counts[counts > 1]
    excess = [int(np.maximum(many - full, 0).sum()) for full in candidates]
    fits = candidates[rows - np.array(excess) >= candidates * batch_size]
    return int(fits[0]) if len(fits) else 0


def _deal(
    order: Sequence[int], held: Sequence[Sequence[int]], capacities: Sequence[int]
) -> tuple[list[list[int]], list[int]]:
    """Deal rows to batches in turn; return the batches and the rows that found no place."""
    batches: list[list[int]] = [[] for _ in capacities]
    taken: list[set[int]] = [set() for _ in capacities]
    turn = deque(batch for batch, capacity in enumerate(capacities) if capacity)
    left: list[int] = []
    for row in order:
        row_held = held[row]
        fitting = (
            place for place, batch in enumerate(islice(turn, _TRIES)) if taken[batch].isdisjoint(row_held)
        )
        place = next(fitting, None)
        if place is None:
            left.append(row)
            continue
        # Those passed over stay in front: they are the first that the next row is tried in.
        batch = turn[place]
        del turn[place]
        batches[batch].append(row)
        taken[batch].update(row_held)
        if len(batches[batch]) < capacities[batch]:
            # Sharers spread over the batches; the others fill one batch at a time, so that few stay small.
            (turn.append if row_held else turn.appendleft)(batch)
    return batches, left


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
    >>> from matryoshka2d.data.batch_sampler import DistinctRowsBatchSampler
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
