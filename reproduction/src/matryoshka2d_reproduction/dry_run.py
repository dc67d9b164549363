"""A dry run: every method of a plan on a tiny random model and made-up text: mistakes show in seconds.

Its figures mean nothing and nothing of it is kept.
"""

from __future__ import annotations

import dataclasses
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matryoshka2d import UserError
from matryoshka2d_reproduction.plan import Data, Method, Plan
from matryoshka2d_reproduction.report import write_report
from matryoshka2d_reproduction.runner import Outcome, reproduce
from matryoshka2d_reproduction.runs import Request

_WORDS = [first + second for first in ("ba", "ke", "li", "mo", "nu") for second in "rstlndg"]
_ROWS = 24
_PAIRS = 20
_BATCH = 4

_Row = dict[str, Any]


def rehearse(request: Request, log: Callable[[str], None] = print) -> Outcome:
    """Run a plan small: one seed, a few rows, one size or two of separate models, and its report.

    Parameters
    ----------
    request
        As for `reproduce`; its folders are not touched.
    log
        Where notes go, a line each.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plan = small(request.plan, root)
        tried = dataclasses.replace(
            request,
            plan=plan,
            data_folder=str(root / "data"),
            results=root / "results" / plan.name,
            cache=root / "cache",
            seeds=None,
        )
        outcome = reproduce(tried, log)
        pages = write_report(tried.results, cache=tried.cache, resamples=20)
        log(f"dry run: {len(outcome.done)} runs, a report of {len(pages)} files; the figures mean nothing")
    return outcome


def small(plan: Plan, root: Path) -> Plan:
    """Write tiny models and made-up data into a folder, and return the plan that uses them."""
    rng = random.Random(0)
    width = max(size.dims for size in plan.sizes)
    for name, data in plan.data.items():
        _write_data(root / "data", name, data, rng)
    for folder in plan.sts:
        _write_sts(root / "data", folder, rng)
    if plan.dev_sts and plan.dev_sts not in plan.sts:
        _write_sts(root / "data", plan.dev_sts, rng)
    for folder in plan.retrieval:
        _write_retrieval(root / "data" / folder, rng)
    if plan.dev_captions:
        _write_captions(root / "data" / plan.dev_captions, rng)
    backbones = {}
    for name, backbone in plan.backbones.items():
        depth = max([size.layers for size in plan.sizes] + list(backbone.layers))
        model = tiny_model(root / "models" / name, depth, width, plain=backbone.pooling is not None)
        distill = {**backbone.distill, "batch_size": _BATCH} if backbone.distill else {}
        backbones[name] = dataclasses.replace(backbone, model=model, distill=distill)
    return dataclasses.replace(
        plan,
        seeds=plan.seeds[:1],
        backbones=backbones,
        defaults={**plan.defaults, **_QUICK},
        methods={name: _small_method(plan, method) for name, method in plan.methods.items()},
    )


_QUICK = {"batch_size": _BATCH, "gradient_accumulation": 1, "epochs": 1.0, "precision": "fp32"}


def _small_method(plan: Plan, method: Method) -> Method:
    choice = method.choose and dataclasses.replace(
        method.choose,
        options={key: values[:2] for key, values in method.choose.options.items()},
        by_depth={},
        limit=None,
        seed=plan.seeds[0],
    )
    ends = tuple(sorted({method.sizes[0], method.sizes[-1]})) if method.sizes else ()
    options = {key: _QUICK.get(key, value) for key, value in method.options.items()}
    return dataclasses.replace(method, seeds=None, choose=choice, sizes=ends, options=options)


# --- a model -------------------------------------------------------------------------------------------


def tiny_model(folder: Path, depth: int, width: int, *, plain: bool = False) -> str:
    """Write a BERT of random weights with little inside each layer, and return its folder.

    Parameters
    ----------
    folder
        Where to write.
    depth, width
        Its layers and dims.
    plain
        Whether to leave out pooling and normalization, as a transformers checkpoint does.
    """
    import math

    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(_WORDS) + 8,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=math.gcd(width, 4),
        intermediate_size=16,
        max_position_embeddings=64,
    )
    base = folder / "base"
    BertModel(config).save_pretrained(base)
    _tokenizer().save_pretrained(base)
    if plain:
        return str(base)
    model = SentenceTransformer(modules=[Transformer(str(base)), Pooling(width, "mean"), Normalize()])
    model.save(str(folder / "model"), create_model_card=False)
    return str(folder / "model")


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = {word: number for number, word in enumerate([*special.values(), *_WORDS])}
    raw = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()
    raw.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=64, **special)


# --- made-up data --------------------------------------------------------------------------------------


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(3, 8)))


def _rows(form: str, rng: random.Random) -> Iterator[_Row]:
    names = {
        "triplets": ("anchor", "positive", "negative"),
        "pairs": ("anchor", "positive"),
        "scored": ("sentence1", "sentence2"),
        "texts": ("text",),
    }
    if form not in names:
        raise UserError(f"data of the format '{form}': expected one of {', '.join(names)}")
    for number in range(_ROWS):
        row: _Row = {name: _sentence(rng) for name in names[form]}
        yield {**row, "score": number % 5 / 4} if form == "scored" else row


def _write_data(root: Path, name: str, data: Data, rng: random.Random) -> None:
    for file in data.files:
        if not file.endswith(".jsonl"):
            raise UserError(f"data {name}: a dry run makes up files that end in .jsonl, not {file}")
        rows = _rows(data.format, rng)
        back = dict(data.columns)
        _write_lines(root / file, [{back.get(key, key): value for key, value in row.items()} for row in rows])


def _write_lines(path: Path, rows: list[_Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_sts(root: Path, name: str, rng: random.Random) -> None:
    """Write an STS file, or a folder with the two sets that have a dev split."""
    path = root / name
    files = [path] if path.suffix else [path / "stsb.tsv", path / "sickr.tsv"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            f"{split}\t{number % 6}\t{_sentence(rng)}\t{_sentence(rng)}"
            for split in ("test", "dev")
            for number in range(_PAIRS)
        ]
        file.write_text("\n".join(["split\tscore\tsentence1\tsentence2", *rows]) + "\n", encoding="utf-8")


def _write_retrieval(folder: Path, rng: random.Random) -> None:
    documents = [{"_id": f"d{number}", "text": _sentence(rng)} for number in range(_PAIRS)]
    _write_lines(folder / "corpus.jsonl", documents)
    queries = [{"_id": f"q{number}", "text": _sentence(rng)} for number in range(6)]
    _write_lines(folder / "queries.jsonl", queries)
    judged = [f"q{number}\td{2 * number}\t1" for number in range(6)]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")


def _write_captions(path: Path, rng: random.Random) -> None:
    rows = [
        {"anchor": _sentence(rng), "positive": _sentence(rng), "group": f"g{number // 2}"}
        for number in range(_ROWS)
    ]
    _write_lines(path, rows)
