"""The report of a plan's results: tables with intervals, heatmaps, curves; Markdown and one HTML page."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import Grid
from matryoshka2d.evaluation.report import depth_curves, heatmap, save_figure
from matryoshka2d.evaluation.report.figures import embedded
from matryoshka2d.files import staged_file
from matryoshka2d_reproduction.comparisons import Bootstrap, Place, Runs, runs_at, statistics_of
from matryoshka2d_reproduction.replicates import RESAMPLES
from matryoshka2d_reproduction.results import (
    CHOICE_FILE,
    PLAN_FILE,
    STATISTICS_FILE,
    Result,
    read_json,
    read_results,
    write_json,
)
from matryoshka2d_reproduction.sections import (
    Section,
    choice_section,
    claims_section,
    comparisons_section,
    cost_section,
    inversions_section,
    lead_section,
    machine_section,
    reported_section,
    scores_section,
    seeds_section,
)

PAGE_FILE = "README.md"
"""The report of a plan as Markdown, beside its results."""
_HTML = "report.html"
_TEMPLATE = "results.html.jinja"


@dataclass(frozen=True)
class Page:
    """A report before it is written in any form.

    Parameters
    ----------
    title
        Its heading.
    note
        What the plan says about itself.
    sections
        Its sections; pictures lie beside the report.
    """

    title: str
    note: str
    sections: tuple[Section, ...]

    def markdown(self) -> str:
        """Return the page as Markdown."""
        parts = [f"# {self.title}\n", *([f"{self.note}\n"] if self.note else [])]
        return "\n".join([*parts, *(section.markdown() for section in self.sections)])


def write_results_report(
    folder: str | Path, *, runs: str | Path = "runs", resamples: int = RESAMPLES
) -> list[Path]:
    """Write statistics, pictures, Markdown and HTML beside the results of a plan.

    Parameters
    ----------
    folder
        The results of one plan, as `reproduce` wrote them.
    runs
        Where `reproduce` kept the score of each pair: needed for more resamples than are kept beside the
        results.
    resamples
        As in `bootstrap_spearman`.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    UserError
        If the folder holds no results of a plan.
    """
    root = Path(folder)
    page, statistics, pictures = results_page(root, runs=runs, resamples=resamples)
    write_json(root / STATISTICS_FILE, statistics)
    for file, figure in pictures.items():
        save_figure(figure, root / file, dpi=90)
    write_text(root / PAGE_FILE, page.markdown())
    write_text(root / _HTML, _html(page, root))
    return [root / name for name in (STATISTICS_FILE, *pictures, PAGE_FILE, _HTML)]


def results_page(
    root: Path, *, runs: str | Path = "runs", resamples: int = RESAMPLES
) -> tuple[Page, dict[str, Any], dict[str, Any]]:
    """Return the page of a plan's results, its statistics, and its pictures by the names of their files."""
    facts = read_json(root / PLAN_FILE)
    if facts is None:
        raise UserError(f"{root} holds no results of a plan: expected the folder that `reproduce` wrote")
    known = set(facts["methods"])
    results = [result for result in read_results(root) if result.method in known]
    statistics = statistics_of(facts, results, Bootstrap(root, runs, resamples))
    sections: list[Section] = []
    pictures: dict[str, Any] = {}
    for entry in statistics["places"]:
        own, drawn = _place(entry, results, facts, len(statistics["places"]) > 1)
        sections += own
        pictures |= drawn
    trials = (read_json(root / CHOICE_FILE) or {}).get("trials", [])
    if trials:
        sections.append(choice_section(trials))
    sections += reported_section(facts["reported"])
    everything = [run for entry in statistics["places"] for run in runs_at(results, _at(entry)).values()]
    sections.append(machine_section(everything, facts["source"], facts["precision"]))
    return Page(facts["title"], facts["note"], tuple(sections)), statistics, pictures


def _at(entry: Mapping[str, Any]) -> Place:
    return Place(entry["backbone"], tuple(entry["data"]), entry["task"])


def _place(
    entry: Mapping[str, Any], results: Sequence[Result], facts: Mapping[str, Any], several: bool
) -> tuple[list[Section], dict[str, Any]]:
    """Return the sections and pictures of one backbone, data and task."""
    runs = runs_at(results, _at(entry))
    methods, comparisons = entry["methods"], entry["comparisons"]
    sections = [claims_section(entry["claims"])] if entry["claims"] else []
    sections.append(scores_section(methods, runs, facts))
    if comparisons:
        sections.append(comparisons_section(comparisons))
        sections += [lead_section(one) for one in comparisons if not one.get("missing")]
    figures = _figures(runs, facts)
    prefix = re.sub(r"[^\w.+-]+", "-", entry["place"]) + "-" if several else ""
    files = {f"{prefix}{name}.png": figure for name, (_, figure) in figures.items()}
    captions = [(caption, f"{prefix}{name}.png") for name, (caption, _) in figures.items()]
    if captions:
        sections.append(Section("Every size", pictures=tuple(captions)))
    sections.append(inversions_section(methods))
    sections.append(seeds_section(methods, comparisons))
    sections.append(cost_section(methods))
    if several:
        sections = [dataclasses.replace(one, title=f"{one.title}: {entry['place']}") for one in sections]
    return sections, files


def _figures(runs: Mapping[str, Runs], facts: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return file name without ending → caption and figure, of methods to show that have every size."""
    whole: dict[str, Grid] = {
        name: runs[name].mean_grid()
        for name in facts.get("pictures") or facts["methods"]
        if name in runs and len(runs[name].sizes) == len(facts["sizes"])
    }
    if not whole:
        return {}
    return {
        "heatmap": ("The score of every size, mean over seeds", heatmap(whole)),
        "curves": ("The score against the layers that run", depth_curves(whole)),
    }


def _html(page: Page, root: Path) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("matryoshka2d_reproduction"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["plain"] = lambda text: text.replace("**", "").replace("`", "")
    environment.filters["embedded"] = lambda file: embedded((root / file).read_bytes())
    return environment.get_template(_TEMPLATE).render(page=page)


def write_text(path: Path, text: str) -> None:
    """Write a page whole or not at all."""
    with staged_file(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
