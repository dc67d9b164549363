"""Write the dev sets of STS-B and SICK-R without the pairs that are in any test set.

    python benchmarks/dev_pairs.py STS_FOLDER DEV_FOLDER

Choose hyper-parameters on what this writes: `matryoshka2d evaluate M --sts DEV_FOLDER --split dev`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matryoshka2d.evaluation import StsSet, read_sts

SETS = ("stsb", "sickr")


def folded(left: str, right: str) -> frozenset[str]:
    """Return a pair without its order, case and spacing."""
    return frozenset(" ".join(text.lower().split()) for text in (left, right))


def without(dev: StsSet, tested: set[frozenset[str]]) -> list[str]:
    """Return the lines of a dev set whose pairs are not tested."""
    rows = zip(dev.gold, dev.sentence1, dev.sentence2, strict=True)
    return [
        f"dev\t{gold}\t{left}\t{right}" for gold, left, right in rows if folded(left, right) not in tested
    ]


def main(source: str, target: str) -> None:
    """Write one file a set and say how many pairs it holds."""
    tested = {
        folded(left, right)
        for one in read_sts(source)
        for left, right in zip(one.sentence1, one.sentence2, strict=True)
    }
    Path(target).mkdir(parents=True, exist_ok=True)
    for dev in read_sts([Path(source) / f"{name}.tsv" for name in SETS], split="dev"):
        lines = without(dev, tested)
        text = "\n".join(["split\tscore\tsentence1\tsentence2", *lines]) + "\n"
        (Path(target) / f"{dev.name}.tsv").write_text(text, encoding="utf-8")
        print(f"{dev.name}: {len(lines)} of {len(dev)} pairs")


if __name__ == "__main__":
    main(*sys.argv[1:])
