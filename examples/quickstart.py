"""Make a real model elastic without labels, then search Python's language reference with it in several ways.

`make quickstart` runs it, or `python examples/quickstart.py [--train]`. Nothing is downloaded but packages:
the model is all-MiniLM-L6-v2 from a wheel, the text (pydoc_data.topics) is in every Python.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from matryoshka2d import ElasticEncoder, Grid, UserError, fit, open_engine, rotate, train
from matryoshka2d.encoder.default_model import default_model_path
from matryoshka2d.evaluation import agreement_grids
from matryoshka2d.evaluation.report import grid_table, write_report
from matryoshka2d.search import Answer, Index, index_documents, open_index, recut

QUESTIONS = (
    "How do I make sure that a file is closed when an error occurs?",
    "What happens if I change a list while looping over it?",
    "Why do calls of my function share the same default list?",
    "How can I print a number with a comma as thousands separator?",
    "What is the difference between == and is?",
    "How do I make instances of my class callable like a function?",
    "How can I stop my program and look at its variables?",
    "Which values count as false in a condition?",
    "Can a variable of the enclosing function be assigned to?",
    "How do I keep the original exception when I raise another one?",
    "How can I remove spaces from both ends of a string?",
    "How do I sort a list without making a copy?",
)
K = 10
GOOD, BAD = 90, 75
console = Console(width=110)


def main() -> None:
    """Make the model, measure every size, index the text, ask the questions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("quickstart"), help="folder of what is made")
    parser.add_argument("--train", action="store_true", help="also train on the text, without labels")
    options = parser.parse_args()
    start, folder = time.perf_counter(), options.output
    folder.mkdir(parents=True, exist_ok=True)

    console.rule("1. Make the model elastic: no labels, no training")
    texts, held_out = write_texts(folder)
    made = {"untouched": default_model_path(), "fit and rotate": str(folder / "model")}
    fit(model="default", data=[texts], output=str(folder / "fitted"), overwrite=True)
    rotate(model=str(folder / "fitted"), data=[texts], output=made["fit and rotate"], overwrite=True)
    if options.train:
        made["train and rotate"] = trained(folder, texts)

    console.rule("2. How well does each size agree with the untouched full size?")
    show_grids(made, held_out, folder / "report.html")

    console.rule("3. One index at full size, searched in several ways")
    index = f"faiss:{folder}/index"
    model = made["fit and rotate"]
    for name in ("index", "index-int8"):
        shutil.rmtree(folder / name, ignore_errors=True)
    index_documents(open_engine(model), folder / "passages.jsonl", index, model=model, prefix=64)
    recut(index, codes="int8", to=f"{index}-int8")  # from the stored vectors: nothing is embedded again
    show_search(index, model)
    console.print(
        f"{time.perf_counter() - start:.0f} s. The grids as a page: {folder}/report.html. Ask more:"
    )
    console.print(f"  matryoshka2d search {index} 'How do I copy a list?'", highlight=False)


def write_texts(folder: Path) -> tuple[str, list[str]]:
    """Write the passages, and the sentences of most to learn from; return these and the other passages."""
    topics: dict[str, str] = {}
    for topic, text in pydoc_data.topics.topics.items():
        for block in re.split(r"\n\s*\n", text):
            passage = " ".join(block.split())
            is_code = "::=" in passage or ">>>" in passage or passage.startswith(("Changed in", "Added in"))
            if len(passage.split()) >= 12 and not is_code:
                topics.setdefault(passage, topic)
    rows = [{"id": str(n), "text": text, "topic": topic} for n, (text, topic) in enumerate(topics.items())]
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    passages = list(topics)
    known = [text for number, text in enumerate(passages) if number % 5]
    sentences = [s for text in known for s in re.split(r"(?<=[.:?]) (?=[A-Z])", text) if len(s.split()) > 5]
    (folder / "texts.txt").write_text("\n".join(dict.fromkeys(sentences)) + "\n", encoding="utf-8")
    console.print(
        f"{len(passages)} passages of the language reference; {len(sentences)} sentences to learn from."
    )
    return str(folder / "texts.txt"), passages[::5]


def trained(folder: Path, texts: str) -> str:
    """Train every size to agree with the untouched full size, then rotate; return the folder."""
    train(
        model="default",
        data=[texts],
        output=str(folder / "trained"),
        teacher="original",
        objective_options={"match_vectors": "true"},  # the full size stays where it is
        learning_rate=1.5e-4,
        top_learning_rate=1.5e-5,
        max_length=64,
        dropout=0.0,
        checkpoints=False,
        overwrite=True,
    )
    rotate(
        model=str(folder / "trained"), data=[texts], output=str(folder / "trained-rotated"), overwrite=True
    )
    return str(folder / "trained-rotated")


def show_grids(models: dict[str, str], texts: list[str], report: Path) -> None:
    """Print how alike each size of a model and the untouched full size rank pairs of held-out passages."""
    original = ElasticEncoder(models["untouched"])
    reference = original.exits(texts, layers=[original.depth])[original.depth]
    grids: dict[str, Grid] = {}
    for name, model in models.items():
        measured = agreement_grids(ElasticEncoder(model), reference, texts, name=name)
        grids[name] = grid = measured["similarity"]
        console.print(grid_table(grid, title=f"{name}: Spearman x100"))
        good = [str(size) for size in grid.sizes if grid.mean(size) >= GOOD]
        bad = sum(grid.mean(size) < BAD for size in grid.sizes)
        console.print(
            f"{GOOD} or more: {', '.join(good)}. Bad, below {BAD}: {bad} of {len(grid.sizes)} sizes.\n"
        )
    last = grids.pop(list(grids)[-1])
    write_report(report, last, title="Agreement with the full size", comparisons=grids)


def show_search(uri: str, model: str) -> None:
    """Ask every question in several ways, one at a time, and compare with exact search at full size."""
    table = Table(title=f"{len(QUESTIONS)} questions, medians", title_justify="left")
    for heading in ("", "embed ms", "search ms", f"of the exact top {K}", "bytes a passage", ""):
        table.add_column(heading, justify="right" if heading else "left")
    firsts: dict[str, list[str]] = {}
    with open_index(uri, model) as whole, open_index(f"{uri}-int8", model) as small:
        width = whole.meta.size.dims
        ways: dict[str, tuple[Index, dict[str, Any]]] = {
            "exact": (whole, {"exact": True}),
            "prefix of 64 dims, rescored": (whole, {}),
            "the same in int8": (small, {}),
            "int8, questions of 5 layers": (small, {"query_size": f"5x{width}"}),
            "int8, questions of 3 layers": (small, {"query_size": f"3x{width}"}),
            "prefix of 64 dims alone": (whole, {"oversample": 1}),
        }
        exact: list[list[str]] = []
        refusals: list[str] = []
        for way, (index, how) in ways.items():
            try:
                found = ask(index, how)
            except UserError as error:  # the index knows which layers its vectors can be compared with
                table.add_row(way, "", "", "refused", "", "bad")
                refusals.append(f"{way}: {error}")
                continue
            ids = [[hit.id for hit in answer.hits] for answer in found]
            exact = exact or ids
            kept = float(np.mean([len({*a} & {*b}) / K for a, b in zip(ids, exact, strict=True)]))
            embed = float(np.median([answer.milliseconds["embed"] for answer in found]))
            total = float(np.median([sum(answer.milliseconds.values()) for answer in found]))
            size = 4 * width if "exact" in how else index.bytes()["first stage"] / len(index)
            verdict = "good" if kept >= GOOD / 100 else "bad" if kept < BAD / 100 else "fair"
            table.add_row(way, f"{embed:.1f}", f"{total - embed:.1f}", f"{kept:.0%}", f"{size:.0f}", verdict)
            firsts[way] = [f"{answer.hits[0].fields['topic']}: {answer.hits[0].text}" for answer in found]
    console.print(table, *refusals, "", sep="\n", highlight=False)
    for number, question in enumerate(QUESTIONS):
        answer = firsts["exact"][number]
        others = [way for way, first in firsts.items() if first[number] != answer]
        console.print(f"[bold]{question}[/bold]\n  {answer[:100]}", highlight=False)
        console.print(f"  [dim]another first answer: {'; '.join(others) or 'none'}[/dim]", highlight=False)


def ask(index: Index, how: dict[str, Any]) -> list[Answer]:
    """Ask every question by itself, as a user would; the first one is asked twice, to be warm."""
    index.search(QUESTIONS[0], K, **how)
    return [index.search(question, K, **how)[0] for question in QUESTIONS]


if __name__ == "__main__":
    main()
