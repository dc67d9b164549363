"""The report of a plan's results: tables with intervals, heatmaps and curves, as pages of Markdown."""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from matryoshka2d import Grid, Size, UserError
from matryoshka2d.evaluation.report import depth_curves, heatmap, metric_label, png_bytes, sets_label
from matryoshka2d.files import staged_file
from matryoshka2d.size import parse_sizes
from matryoshka2d_reproduction.comparisons import IntervalBook, MethodRuns, Place, runs_at, statistics_of
from matryoshka2d_reproduction.measuring import RESAMPLES
from matryoshka2d_reproduction.results import CHOICE_FILE, PLAN_FILE, Result, Results, read_json

PAGE_FILE = "README.md"
"""The report of a plan, beside its results."""

Draw = Callable[[], Any]
"""Draws a figure."""

_DOTS_AN_INCH = 90
_COLORS = 128

_NONE = "–"
_LISTED = 8

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A heading, some sentences, maybe a table, maybe pictures.

    Parameters
    ----------
    title
        The heading.
    text
        Sentences, a paragraph each.
    headers, rows
        A table of texts; none if there are no headers.
    pictures
        Caption → the picture's file beside the report.
    detail
        Whether a page of several plans leaves it to the plan's own report.
    """

    title: str
    text: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()
    detail: bool = False

    def markdown(self, level: int = 2, base: str = "") -> str:
        """Return the section as Markdown; `base` is put before the pictures' files."""
        parts = [f"{'#' * level} {self.title}", *self.text]
        if self.headers:
            lines = [self.headers, ("---",) * len(self.headers), *self.rows]
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        parts += [f"![{caption}]({base}{file})" for caption, file in self.pictures]
        return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Page:
    """A report before it is written.

    Parameters
    ----------
    title
        Its heading.
    note
        What the plan says about itself.
    sections
        Its sections; pictures lie beside the report.
    claims
        Every claim of the plan, judged or missing.
    """

    title: str
    note: str
    sections: tuple[Section, ...]
    claims: tuple[Entry, ...] = ()

    def markdown(self) -> str:
        """Return the page as Markdown."""
        parts = [f"# {self.title}\n", *([f"{self.note}\n"] if self.note else [])]
        return "\n".join([*parts, *(section.markdown() for section in self.sections)])


def write_report(
    folder: str | Path, *, cache: str | Path = "cache", resamples: int = RESAMPLES
) -> list[Path]:
    """Write intervals, pictures and a Markdown page beside the results of a plan.

    Parameters
    ----------
    folder
        The results of one plan, as `reproduce` wrote them.
    cache
        Where `reproduce` kept the score of each pair: needed for intervals of more resamples than are kept
        beside the results.
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
    book = IntervalBook(Results(root), cache, resamples)
    page, pictures = make_page(book)
    book.save()
    for file, draw in pictures.items():
        _write_picture(draw(), root / file)
    write_text(root / PAGE_FILE, page.markdown())
    return [root / name for name in (*pictures, PAGE_FILE)]


def make_page(book: IntervalBook) -> tuple[Page, dict[str, Draw]]:
    """Return the page of a plan's results, and what draws its pictures, by the names of their files."""
    root = book.results.folder
    facts = read_json(root / PLAN_FILE)
    if facts is None:
        raise UserError(f"{root} holds no results of a plan: expected the folder that `run` wrote")
    results = [result for result in book.results.read() if result.method in facts["methods"]]
    statistics = statistics_of(facts, results, book)
    sections: list[Section] = []
    pictures: dict[str, Draw] = {}
    for entry in statistics:
        own, drawn = _place(entry, results, facts, len(statistics) > 1)
        sections += own
        pictures |= drawn
    trials = (read_json(root / CHOICE_FILE) or {}).get("trials", [])
    if trials:
        sections.append(choice_section(trials))
    sections += reported_section(facts["reported"])
    everything = [run for entry in statistics for run in runs_at(results, _at(entry)).values()]
    sections.append(machine_section(everything, facts["source"], facts["precision"]))
    fewest = book.fewest_resamples()
    if fewest < book.resamples:
        sections.append(resamples_section(fewest, book.resamples))
    claims = tuple(claim for entry in statistics for claim in entry["claims"])
    return Page(facts["title"], facts["note"], tuple(sections), claims), pictures


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
        sections += [lead_section(one) for one in comparisons]
    figures = _drawings(runs, facts)
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


def _drawings(runs: Mapping[str, MethodRuns], facts: Mapping[str, Any]) -> dict[str, tuple[str, Draw]]:
    """Return file name without ending → caption and figure, of methods to show that have every size."""
    whole: dict[str, Grid] = {
        name: runs[name].mean_grid()
        for name in facts.get("pictures") or facts["methods"]
        if name in runs and len(runs[name].sizes) == len(facts["sizes"])
    }
    if not whole:
        return {}
    return {
        "heatmap": ("The score of every size, mean over seeds", partial(heatmap, whole)),
        "curves": ("The score against the layers that run", partial(depth_curves, whole)),
    }


def _write_picture(figure: Any, path: Path) -> None:
    """Write a figure in few colors: enough for a chart, in a third of the bytes."""
    picture = Image.open(io.BytesIO(png_bytes(figure, dpi=_DOTS_AN_INCH)))
    with staged_file(path) as temporary:
        picture.convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE).save(
            temporary, format="png", optimize=True
        )


def write_text(path: Path, text: str) -> None:
    """Write a page whole or not at all."""
    with staged_file(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


# --- the sections of a page -------------------------------------------------------------------------


def shown_sizes(sizes: Sequence[Size]) -> list[Size]:
    """Return up to nine sizes that stand for a grid: the largest, middle and smallest of both directions.

    >>> [str(size) for size in shown_sizes(parse_sizes("1-6x8,32,128,384"))]
    ['6x384', '6x128', '6x8', '3x384', '3x128', '3x8', '1x384', '1x128', '1x8']
    """
    layers = sorted({size.layers for size in sizes})
    dims = sorted({size.dims for size in sizes})
    picked = [
        Size(n, d)
        for n in dict.fromkeys((layers[-1], layers[(len(layers) - 1) // 2], layers[0]))
        for d in dict.fromkeys((dims[-1], dims[len(dims) // 2], dims[0]))
    ]
    return [size for size in picked if size in sizes]


def claims_section(claims: Sequence[Entry]) -> Section:
    """Return each claim with whether the results confirm it here."""
    rows = []
    for claim in claims:
        if claim.get("missing"):
            rows.append((str(claim["text"]), "not compared", _NONE))
            continue
        verdict = "**confirmed here**" if claim["holds"] else "**not confirmed here**"
        rows.append((str(claim["text"]), verdict, _figures(claim)))
    text = (
        "Confirmed means: in this setting, with the intervals below. What was not run here is neither "
        "confirmed nor refuted. Of a claim about many sizes the weakest one is named: its simultaneous bound "
        "is the nearest to failing, or it keeps the least."
    )
    return Section("Claims", (text,), ("claim", "", "figures"), tuple(rows))


def _figures(claim: Entry) -> str:
    estimates: Mapping[str, Sequence[float]] = claim["sizes"]
    share = str(claim["verdict"]).startswith("keeps")
    run = "%" if share else ""
    if len(estimates) == 1:
        ((size, (estimate, low, high, *_)),) = estimates.items()
        where = size
    else:
        estimate, low, high = claim["mean over sizes"]
        least, said = _weakest(estimates, str(claim["verdict"]))
        where = f"weakest at {least}: {said}; mean of {len(estimates)}"
    return f"{where}: {_signed(estimate, share)}{run} [{_signed(low, share)}, {_signed(high, share)}]"


def _weakest(estimates: Mapping[str, Sequence[float]], verdict: str) -> tuple[str, str]:
    """Return the size that decides a claim about many sizes, and its figures.

    What is claimed of each size stands or falls with the simultaneous bound nearest to failing, which need
    not be that of the smallest lead; a share has to be reached by the estimate itself.
    """
    if verdict.startswith("keeps"):
        size = min(estimates, key=lambda one: estimates[one][0])
        return size, f"{_signed(estimates[size][0], plain=True)}%"
    worse = verdict.endswith("worse")
    size = max(estimates, key=lambda one: estimates[one][4] if worse else -estimates[one][3])
    estimate, *_, low, high = estimates[size]
    return size, f"{_signed(estimate)} [{_signed(low)}, {_signed(high)}]"


def _signed(value: float, plain: bool = False) -> str:
    return f"{value:.2f}" if plain else f"{value:+.2f}"


def scores_section(methods: Sequence[Entry], runs: Mapping[str, MethodRuns], facts: Entry) -> Section:
    """Return one row a method: seeds, the mean over sizes, and nine sizes, with 95% intervals."""
    sizes = shown_sizes(parse_sizes(facts["sizes"]))
    rows = []
    for entry in methods:
        own = runs[entry["method"]]
        mean = own.mean_grid()
        intervals = entry.get("intervals", {})
        cells = [
            _score(mean.mean(size), intervals.get("sizes", {}).get(str(size))) if size in own.sizes else _NONE
            for size in sizes
        ]
        whole = _score(entry["mean"], intervals.get("mean over sizes"))
        scope = "" if len(own.sizes) == len(facts["sizes"]) else f" (of {len(own.sizes)})"
        rows.append((str(entry["method"]), str(len(entry["seeds"])), whole + scope, *cells))
    grid = next(iter(runs.values())).grids[0]
    what = f"{metric_label(grid)}, {sets_label(grid)}"
    text = f"{what}. After ±, half of the 95% interval over seeds and pairs, each size by itself."
    headers = ("method", "seeds", f"mean of {len(facts['sizes'])}", *map(str, sizes))
    return Section("Scores", (text,), headers, tuple(rows))


def _score(value: float, interval: Sequence[float] | None) -> str:
    if interval is None:
        return f"{value:.2f}"
    return f"{value:.2f} ± {(interval[2] - interval[1]) / 2:.2f}"


def comparisons_section(comparisons: Sequence[Entry]) -> Section:
    """Return one row a comparison: at how many sizes the first is better, level, worse."""
    rows = []
    for entry in comparisons:
        better, worse, count = len(entry["better"]), len(entry["worse"]), entry["count"]
        mean, low, high = entry["mean over sizes"]
        short = entry["not_at_least_as_good"]
        listed = ", ".join(short[:_LISTED]) + (" …" if len(short) > _LISTED else "")
        rows.append(
            (
                entry["method"],
                entry["other"],
                str(count),
                f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]",
                str(better),
                str(count - better - worse),
                str(worse),
                f"{count - len(short)} of {count}",
                listed or _NONE,
            )
        )
    margin = comparisons[0]["margin"]
    text = (
        "The lead of a method over another, in points. Better, worse and at least as good "
        f"(within {margin:g} points) are read from simultaneous 95% intervals: with 95% confidence none of a "
        "row's verdicts is wrong. Level means neither better nor worse. Pairs of sentences are drawn anew "
        "together for both methods, and seeds where both have them.",
    )
    headers = (
        *("method", "over", "sizes", "mean lead [95%]", "better", "level", "worse"),
        *("at least as good", "not shown to be at least as good"),
    )
    return Section("Comparisons", text, headers, tuple(rows))


def lead_section(entry: Entry) -> Section:
    """Return the lead of one comparison at every size, as a grid or, for a few sizes, as a list."""
    sizes = {Size.parse(size): values for size, values in entry["sizes"].items()}
    title = f"{entry['method']} over {entry['other']}"
    layers, dims = sorted({s.layers for s in sizes}), sorted({s.dims for s in sizes})
    if len(sizes) < len(layers) * len(dims) or len(sizes) == 1:
        rows = [
            (str(size), f"{estimate:+.2f}", f"[{low:+.2f}, {high:+.2f}]", f"[{lower:+.2f}, {upper:+.2f}]")
            for size, (estimate, low, high, lower, upper) in sizes.items()
        ]
        headers: tuple[str, ...] = ("size", "lead", "95%", "95%, all sizes at once")
        return Section(title, (), headers, tuple(rows), detail=True)
    table = [(str(n), *(_lead(entry, Size(n, d), sizes[Size(n, d)]) for d in dims)) for n in layers]
    text = "Lead in points; + better, − worse, ? not shown to be at least as good."
    return Section(title, (text,), ("layers / dims", *map(str, dims)), tuple(table), detail=True)


def _lead(entry: Entry, size: Size, values: Sequence[float]) -> str:
    name = str(size)
    marks = {"better": " +", "worse": " −", "not_at_least_as_good": " ?"}
    mark = next((sign for key, sign in marks.items() if name in entry[key]), "")
    return f"{values[0]:+.2f}{mark}"


def seeds_section(methods: Sequence[Entry], comparisons: Sequence[Entry]) -> Section:
    """Return how far seeds lie apart, and what tests over seeds say where they can say anything."""
    rows = []
    for entry in methods:
        spread: Mapping[str, float] = entry["spread"]
        if not spread:
            continue
        widest = max(spread, key=lambda size: spread[size])
        middle = float(np.median(list(spread.values())))
        rows.append(
            (entry["method"], str(len(entry["seeds"])), f"{middle:.2f}", f"{spread[widest]:.2f} at {widest}")
        )
    tested = [entry for entry in comparisons if entry.get("tests_over_seeds")]
    said = [
        f"{entry['method']} over {entry['other']}, mean over sizes: "
        + ", ".join(f"{name} p = {p:.3f}" for name, p in entry["tests_over_seeds"]["mean over sizes"].items())
        for entry in tested
    ]
    none = "Tests over seeds (paired t, Wilcoxon) are left out: so few seeds cannot reject anything."
    headers = ("method", "seeds", "median spread", "largest spread")
    text = ("Standard deviation over seeds of a size's score, in points.", *(said or [none]))
    return Section("Seeds", text, headers, tuple(rows))


def inversions_section(methods: Sequence[Entry]) -> Section:
    """Return the cells where a deeper or wider size is worse than a smaller one."""
    rows = [
        (
            entry["method"],
            str(len(entry["inversions"])),
            "; ".join(entry["inversions"][:3]) + (" …" if len(entry["inversions"]) > 3 else ""),
        )
        for entry in methods
    ]
    text = (
        "Cells more than 0.1 points below the next shallower or narrower one: work that takes quality away."
    )
    return Section(
        "Deeper or wider, and worse",
        (text,),
        ("method", "cells", "the first of them"),
        tuple(rows),
        detail=True,
    )


def cost_section(methods: Sequence[Entry]) -> Section:
    """Return what training and measuring took."""
    rows = [
        (
            entry["method"],
            f"{entry['cost']['train_seconds']:.0f}",
            f"{entry['cost']['train_peak_memory_mb']:.0f}",
            f"{entry['cost']['evaluate_seconds']:.0f}",
        )
        for entry in methods
    ]
    text = (
        "Seconds of one seed, summed over the models that the method needs for its sizes. Runs may have gone "
        "side by side with others: read these as sizes, not as a benchmark."
    )
    headers = ("method", "train, s", "peak memory, MB", "evaluate, s")
    return Section("Cost", (text,), headers, tuple(rows))


def choice_section(trials: Sequence[Entry]) -> Section:
    """Return what was tried and chosen on dev."""
    places: dict[tuple[str, ...], list[Entry]] = {}
    for trial in trials:
        place = tuple(str(trial[key]) for key in ("method", "backbone", "data", "size"))
        places.setdefault(place, []).append(trial)
    rows = []
    for (method, backbone, data, size), tried in places.items():
        best = max(tried, key=lambda trial: trial["score"])
        others = ", ".join(f"{_options(t['options'])}: {t['score']:.2f}" for t in tried)
        rows.append((method, size or "all", f"{backbone}, {data}", _options(best["options"]), others))
    text = (
        "Chosen before the test runs, on dev sets that share no pair with a test set; one seed, so a choice "
        "and not a result."
    )
    headers = ("method", "size", "where", "chosen", "dev score x100 of each")
    return Section("Chosen on dev", (text,), headers, tuple(rows))


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in options.items())


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def reported_section(reported: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """Return figures of others, plainly as theirs."""
    return [
        Section(
            f"Reported elsewhere: {title}",
            ("Copied from the publication; not measured here.",),
            ("", "reported"),
            tuple((str(name), str(figure)) for name, figure in figures.items()),
        )
        for title, figures in reported.items()
    ]


def resamples_section(fewest: int, asked: int) -> Section:
    """Return that some intervals come from fewer resamples than others."""
    text = (
        f"The scores of some pairs were not at hand: intervals that were not computed before come from the "
        f"{fewest} resamples that are published, in place of {asked}."
    )
    return Section("Intervals from fewer resamples", (text,))


def machine_section(runs: Iterable[MethodRuns], source: str, precision: str) -> Section:
    """Return where, when and with what the figures were made."""
    seen: dict[str, None] = {}
    for own in runs:
        for part in own.parts:
            for result in part:
                facts = {**result.facts.get("trained_on", {}), **result.facts.get("measured_on", {})}
                versions = ", ".join(
                    f"{name} {facts[name]}"
                    for name in ("torch", "transformers", "sentence-transformers")
                    if name in facts
                )
                on = f"{facts['accelerator']}, beside " if "accelerator" in facts else ""
                threads = f"{facts.get('threads', '?')} thread"
                seen[f"{on}{facts.get('processor', '?')}, {threads}; {versions}"] = None
    dates = sorted(
        {
            str(result.facts.get("measured_on", {}).get("date", "?"))
            for own in runs
            for part in own.parts
            for result in part
        }
    )
    until = f" to {dates[-1]}" if dates[0] != dates[-1] else ""
    made = f"Made by `matryoshka2d-reproduce run {source} --data DATA`, {dates[0]}{until}"
    text = (f"{made}; measured in {precision}.", *seen)
    return Section("Where these figures come from", text)


# --- several plans on one page ---------------------------------------------------------------------


def write_joint_page(
    folders: Sequence[str | Path],
    target: str | Path,
    *,
    cache: str | Path = "cache",
    resamples: int = RESAMPLES,
    title: str = "Results",
) -> Path:
    """Write the reports of several plans into one Markdown page, such as ``results.md``.

    Parameters
    ----------
    folders
        Results of plans, whose own reports are there: they and their pictures are linked.
    target
        The page.
    cache, resamples
        As in `write_report`.
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
        page, _ = make_page(IntervalBook(Results(folder), cache, resamples))
        contents.append(f"- [{page.title}](#{_anchor(page.title)}): {_confirmed(page.claims)}")
        bodies.append(_body(page, _posix(os.path.relpath(folder, path.parent))))
    command = f"matryoshka2d-reproduce report {' '.join(map(_posix, folders))} --page {_posix(path)}"
    head = [f"# {title}\n", f"Generated: `{command}`.\n", "\n".join(contents) + "\n"]
    write_text(path, "\n".join([*head, *bodies]))
    return path


def _body(page: Page, base: str) -> str:
    """Return a plan's part of the page; `base` is the way from the page to the plan's folder."""
    link = f"[Every size of every comparison, and where deeper is worse]({base}/{PAGE_FILE})"
    parts = [f"## {page.title}\n", *([f"{page.note}\n"] if page.note else []), f"{link}.\n"]
    parts += [section.markdown(3, f"{base}/") for section in page.sections if not section.detail]
    return "\n".join(parts)


def _confirmed(claims: Sequence[Entry]) -> str:
    """Return how many claims of a plan its results confirm.

    >>> _confirmed([{"holds": True}, {"holds": False}, {"missing": True}]), _confirmed([])
    ('1 of 2 claims confirmed', 'no claims')
    """
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
