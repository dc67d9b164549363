"""The quickstart: a real model made elastic on text that every Python has, judged on text it never saw."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.loading import default_model_path
from matryoshka2d.evaluation import Grid, RetrievalSet, agreement_grids, read_sts, retrieval_grid, sts_grid
from matryoshka2d.evaluation.report import grid_table, heatmap, save_figure, write_report
from matryoshka2d.files import check_free, staged_folder
from matryoshka2d.quickstart.corpus import Corpus, python_documentation
from matryoshka2d.quickstart.retrieval_task import DEMO_QUESTIONS, demo_passages, retrieval_task
from matryoshka2d.size import Size
from matryoshka2d.training import TrainingOptions, train

_HELD_OUT = 1500
_SENTENCES = 16_000
_ANSWERS = 3
_TITLES = {
    "agreement": "agreement with the untouched original's full size, on held-out modules",
    "retrieval": "finding the right docstring, on held-out modules",
    "sts": "sentence similarity, the seven STS sets",
}


@dataclass(frozen=True)
class QuickstartResult:
    """What the quickstart measured.

    Parameters
    ----------
    output
        Folder of the models, the report and the heatmap.
    before, after
        Task → grid: ``agreement``, ``retrieval`` and, if asked for, ``sts``.
    drift
        Mean cosine, times 100, between the new full size's vectors and the original's: 100 is no drift.
    seconds
        How long it took.
    """

    output: Path
    before: dict[str, Grid]
    after: dict[str, Grid]
    drift: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "output": str(self.output),
            "seconds": round(self.seconds, 1),
            "drift": round(self.drift, 2),
            "before": {task: grid.to_dict() for task, grid in self.before.items()},
            "after": {task: grid.to_dict() for task, grid in self.after.items()},
        }


def quickstart(
    output: str | Path = "quickstart",
    *,
    sts: str | None = None,
    size: str | Size = "3x128",
    seed: int = 0,
    sentences: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> QuickstartResult:
    """Make all-MiniLM-L6-v2 elastic by distillation from its own full size.

    Parameters
    ----------
    output
        Folder that is written: ``model``, ``model-3x128``, ``report.html``, ``heatmap.png``, ``grids.json``.
    sts
        Folder of STS files whose grid is added.
    size
        The size that is cut out.
    seed
        Seed of the training.
    sentences
        Train on so many sentences, 16,000 by default; fewer is faster and worse.
    overwrite
        Whether an existing output may be replaced.
    quiet
        Whether to print nothing.

    Returns
    -------
    QuickstartResult
        The grids before and after, and the drift.

    Raises
    ------
    UserError
        If the output is in use, or a file is missing.
    """
    console = Console(quiet=quiet)
    started = time.perf_counter()
    check_free(Path(output), overwrite=overwrite)
    sets = read_sts(sts) if sts else []
    original = ElasticEncoder(default_model_path())
    wanted = original.check(size)
    corpus = python_documentation()
    judge = Judge(original, corpus, sets)
    console.print(f"Text: {len(corpus.train)} sentences of the {corpus.source}; {len(judge.texts)} held out.")
    with staged_folder(output, overwrite=overwrite) as folder:
        with _timed(console, "Measuring the untouched model"):
            before, _ = judge(original)
        encoder = _train(folder, corpus, seed, sentences, quiet)
        _name_final_place(folder / "model", staged=folder, final=Path(output))
        with _timed(console, "Measuring the elastic model"):
            after, drift = judge(encoder)
        _show_grids(console, before, after, drift)
        _show_search(console, encoder, corpus, wanted)
        encoder.truncate(wanted).save(str(folder / f"model-{wanted}"))
        result = QuickstartResult(Path(output), before, after, drift, time.perf_counter() - started)
        _write(folder, result)
    _show_next(console, result, wanted)
    return result


class Judge:
    """Measure a model at every size on text held out from training.

    Parameters
    ----------
    original
        The untouched model; its full size is the reference of the agreement.
    corpus
        The documentation.
    sets
        STS sets, if any.
    """

    def __init__(self, original: ElasticEncoder, corpus: Corpus, sets: list[Any]) -> None:
        # Evenly spaced, so that every held-out module has its say.
        every = np.linspace(0, len(corpus.held_out) - 1, min(_HELD_OUT, len(corpus.held_out))).astype(int)
        self.texts = [corpus.held_out[i] for i in every]
        self.reference = original.exits(self.texts, layers=[original.depth])[original.depth]
        task = retrieval_task(corpus)
        relevance = {query: dict.fromkeys(titles, 1) for query, titles in task.relevant.items()}
        self.documentation = RetrievalSet("documentation", task.documents, task.queries, relevance)
        self.sets = sets

    def __call__(self, model: ElasticEncoder) -> tuple[dict[str, Grid], float]:
        """Return task → grid, and the mean cosine x100 to the original's full vectors."""
        fidelity = agreement_grids(model, self.reference, self.texts)
        grids = {
            "agreement": fidelity["similarity"],
            "retrieval": retrieval_grid(model, [self.documentation]),
        }
        if self.sets:
            grids["sts"] = sts_grid(model, self.sets)
        return grids, fidelity["cosine"].mean(Size(model.depth, model.width))


def _train(folder: Path, corpus: Corpus, seed: int, sentences: int | None, quiet: bool) -> ElasticEncoder:
    text = folder / "sentences.txt"
    wanted = min(sentences or _SENTENCES, len(corpus.train))
    # Evenly spaced, so that every module is learnt from.
    chosen = [corpus.train[i] for i in np.linspace(0, len(corpus.train) - 1, wanted).astype(int)]
    text.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    options = TrainingOptions(
        model=default_model_path(),
        data=[str(text)],
        output=str(folder / "model"),
        teacher="original",
        objective_options={"match_vectors": "true"},
        # Half the default rates: the full size is to stay where the original is.
        learning_rate=1.5e-4,
        top_learning_rate=1.5e-5,
        batch_size=64,
        max_length=64,
        dropout=0.0,
        checkpoints=False,
        seed=seed,
    )
    return train(options, quiet=quiet)


def _name_final_place(model: Path, *, staged: Path, final: Path) -> None:
    """Let the model's record and card name the folder that the user asked for, not the one it was made in."""
    for name in ("elastic.json", "README.md"):
        text = (model / name).read_text(encoding="utf-8")
        (model / name).write_text(text.replace(str(staged), str(final)), encoding="utf-8")


@contextmanager
def _timed(console: Console, what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    console.print(f"{what}: {time.perf_counter() - started:.0f} s")


def _show_grids(console: Console, before: dict[str, Grid], after: dict[str, Grid], drift: float) -> None:
    for task, grid in after.items():
        console.print(grid_table(before[task], title=f"Before: {_TITLES[task]}"))
        console.print(grid_table(grid, title=f"After: {_TITLES[task]}"))
        means = before[task].mean_over_sizes(), grid.mean_over_sizes()
        console.print(f"Mean over {len(grid.sizes)} sizes: {means[0]:.2f} before, {means[1]:.2f} after.\n")
    console.print(
        f"Drift: the new full size's vectors have a mean cosine of {drift / 100:.4f} to the original's.\n"
    )


def _show_search(console: Console, encoder: ElasticEncoder, corpus: Corpus, small: Size) -> None:
    """Answer demo questions at full size and at the small size, side by side."""
    passages = demo_passages(corpus)
    exits = encoder.exits([passage.text for passage in passages], layers=[small.layers, encoder.depth])
    table = Table(title=f"Searching {len(passages)} passages of the documentation", show_lines=True)
    for heading in ("question", f"full size {encoder.size}", f"cut size {small}"):
        table.add_column(heading)
    for question in DEMO_QUESTIONS:
        answers = []
        for size in (encoder.size, small):
            documents = exits[size.layers][:, : size.dims]
            documents = documents / np.linalg.norm(documents, axis=1, keepdims=True)
            scores = documents @ encoder.encode(question, size=size)
            best = np.argsort(-scores, kind="stable")[:_ANSWERS]
            answers.append("\n".join(passages[i].title for i in best))
        table.add_row(question, *answers)
    console.print(table)


def _write(folder: Path, result: QuickstartResult) -> None:
    import json

    (folder / "grids.json").write_text(json.dumps(result.to_dict(), indent=1), encoding="utf-8")
    for task, grid in result.after.items():
        figure = heatmap({"before": result.before[task], "after": grid}, title=_TITLES[task])
        save_figure(figure, folder / ("heatmap.png" if task == "agreement" else f"heatmap-{task}.png"))
        write_report(
            folder / ("report.html" if task == "agreement" else f"report-{task}.html"),
            grid,
            title=f"Quickstart: {_TITLES[task]}",
            comparisons={"before training": result.before[task]},
            provenance={
                "command": "matryoshka2d quickstart",
                "drift of the full size": f"{result.drift:.2f}",
            },
        )


def _show_next(console: Console, result: QuickstartResult, size: Size) -> None:
    console.print(
        f"Wrote {result.output} in {result.seconds:.0f} s: the elastic model, size {size} cut from it "
        f"(model-{size}, a plain sentence-transformers model), report.html and heatmap.png."
    )
    console.print(f"Next: matryoshka2d encode {result.output}/model TEXTS.txt vectors.npy --size {size}")
