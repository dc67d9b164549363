"""The page of choices: every trial on dev, apart from all test scores, and the best of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filelock import FileLock

from matryoshka2d.size import Size
from matryoshka2d_reproduction.plan import Plan
from matryoshka2d_reproduction.request import Request
from matryoshka2d_reproduction.results import CHOICE_FILE, read_json, write_json


def read_trials(request: Request) -> list[dict[str, Any]]:
    """Return every trial that was noted, those of options that the plan names no more among them."""
    return list((read_json(request.results / CHOICE_FILE) or {}).get("trials", []))


def note_trial(request: Request, trial: dict[str, Any]) -> None:
    """Add a trial to the page, beside those that another process may have added meanwhile."""
    about = "Chosen on dev sets that share no pair with a test set. One seed: a choice, no result."
    request.runs.mkdir(parents=True, exist_ok=True)
    with FileLock(request.runs / f"{request.plan.name}.lock"):
        known = {one["key"]: one for one in read_trials(request)} | {trial["key"]: trial}
        write_json(request.results / CHOICE_FILE, {"about": about, "trials": list(known.values())})


def read_choices(request: Request) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """Return the best trial on dev of every method, backbone, data and size, of those that the plan names."""
    best: dict[tuple[str, str, str, str], dict[str, Any]] = {}
    for trial in read_trials(request):
        if not _counts(trial, request.plan):
            continue
        place = (trial["method"], trial["backbone"], trial["data"], trial["size"])
        if place not in best or trial["score"] > best[place]["score"]:
            best[place] = trial
    return {place: trial["options"] for place, trial in best.items()}


def _counts(trial: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether a trial is among those of the plan: its options, and as many rows."""
    method, data = plan.methods.get(trial["method"]), plan.data.get(trial["data"])
    if method is None or method.choose is None or data is None:
        return False
    rows = method.choose.limit or data.limit
    size = Size.parse(trial["size"]) if trial["size"] else None
    if size and size not in method.sizes:
        return False
    return trial["options"] in method.choose.trials(size) and trial["limit"] == rows
