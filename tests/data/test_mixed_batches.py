"""Shares of a mixture in memory: epochs follow one another as one run of batches."""

from __future__ import annotations

from collections import Counter

from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset

from matryoshka2d.data.batch_sampler import DistinctRowsBatchSampler, MixedBatchSampler
from matryoshka2d.data.shares import fixed_shares


def mixed(sizes: list[int], shares: list[float]) -> MixedBatchSampler:
    sets = [Dataset.from_dict({"text": [f"{n} {i}" for i in range(size)]}) for n, size in enumerate(sizes)]
    samplers = [DistinctRowsBatchSampler(rows, 2, drop_last=True) for rows in sets]
    return MixedBatchSampler(ConcatDataset(sets), samplers, shares=shares)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 12), st.floats(0.05, 1)), min_size=1, max_size=3), st.integers(1, 3))
def test_epochs_are_one_run_in_which_shares_are_kept(sets: list[tuple[int, float]], epochs: int) -> None:
    sizes = [size for size, _ in sets]
    names = list(map(str, range(len(sets))))
    shares = fixed_shares(dict(zip(names, (weight for _, weight in sets), strict=True)), names)
    sampler = mixed(sizes, shares)
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    run: list[list[int]] = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        run += batches
    homes = [next(place for place, end in enumerate(ends) if row < end) for row, _ in run]
    for place, share in enumerate(shares):
        own = [batch for batch, home in zip(run, homes, strict=True) if home == place]
        assert abs(len(own) - share * len(run)) < 1 + 1e-6
        # Every pass over a data set has each of its rows once, wherever the epochs end.
        whole = sizes[place] // 2
        for start in range(0, len(own) - whole + 1, whole):
            rows = Counter(row for batch in own[start : start + whole] for row in batch)
            assert max(rows.values()) == 1
    # An epoch that a resumed run begins with is the one that follows the others.
    again = mixed(sizes, shares)
    again.set_epoch(epochs - 1)
    assert list(again) == batches
