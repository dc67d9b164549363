"""One page of several plans: what each confirms, its scores and comparisons, and where the rest is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matryoshka2d_reproduction.replicates import RESAMPLES
from matryoshka2d_reproduction.report import PAGE_FILE, Page, results_page, write_text


def write_joint_page(
    folders: Sequence[str | Path],
    target: str | Path,
    *,
    runs: str | Path = "runs",
    resamples: int = RESAMPLES,
    title: str = "Results",
) -> Path:
    """Write the reports of several plans into one Markdown page, such as ``docs/results.md``.

    Parameters
    ----------
    folders
        Results of plans, whose own reports are there: they and their pictures are linked.
    target
        The page.
    runs, resamples
        As in `write_results_report`.
    title
        Its heading.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        If a folder holds no results of a plan.
    """
    path = Path(target)
    contents, bodies = [], []
    for folder in folders:
        page, statistics, _ = results_page(Path(folder), runs=runs, resamples=resamples)
        contents.append(f"- [{page.title}](#{_anchor(page.title)}): {_confirmed(statistics)}")
        bodies.append(_body(page, _posix(os.path.relpath(folder, path.parent))))
    command = f"matryoshka2d report {' '.join(map(_posix, folders))} --page {_posix(path)}"
    head = [f"# {title}\n", f"Generated: `{command}`.\n", "\n".join(contents) + "\n"]
    write_text(path, "\n".join([*head, *bodies]))
    return path


def _body(page: Page, base: str) -> str:
    """Return a plan's part of the page; `base` is the way from the page to the plan's folder."""
    link = f"[Every size of every comparison, and where deeper is worse]({base}/{PAGE_FILE})"
    parts = [f"## {page.title}\n", *([f"{page.note}\n"] if page.note else []), f"{link}.\n"]
    parts += [section.markdown(3, f"{base}/") for section in page.sections if not section.detail]
    return "\n".join(parts)


def _confirmed(statistics: Mapping[str, Any]) -> str:
    """Return how many claims of a plan its results confirm.

    >>> _confirmed({"places": [{"claims": [{"holds": True}, {"holds": False}, {"missing": "a run"}]}]})
    '1 of 2 claims confirmed'
    >>> _confirmed({"places": [{"claims": []}]})
    'no claims'
    """
    claims = [claim for place in statistics["places"] for claim in place["claims"]]
    judged = [claim for claim in claims if not claim.get("missing")]
    if not judged:
        return "no claims"
    return f"{sum(claim['holds'] for claim in judged)} of {len(judged)} claims confirmed"


def _anchor(title: str) -> str:
    """Return the link to a heading, as code hosts make it.

    >>> _anchor("One epoch of 20,000 NLI triplets on all-MiniLM-L6-v2")
    'one-epoch-of-20000-nli-triplets-on-all-minilm-l6-v2'
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _posix(path: str | Path) -> str:
    return Path(path).as_posix()
