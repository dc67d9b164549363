"""What a run cost is its own, whatever ran before it in the same process."""

from __future__ import annotations

import platform

import pytest

from matryoshka2d_reproduction.machine import measured


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is given back through glibc")
def test_the_peak_of_a_run_holds_nothing_that_an_earlier_one_freed() -> None:
    with measured() as first:
        blocks = [bytearray(64_000) for _ in range(4_000)]
    kept = blocks[::100]  # the heap cannot shrink below the last of these
    del blocks
    with measured() as second:
        pass
    assert len(kept) == 40
    assert second.peak_memory_mb < first.peak_memory_mb - 200


def test_a_block_that_is_freed_within_counts() -> None:
    with measured() as idle:
        pass
    with measured() as busy:
        bytearray(300_000_000)
    assert busy.peak_memory_mb > idle.peak_memory_mb + 200
