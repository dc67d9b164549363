"""distill(): a shallow tower for a finished model, taught without labels to land on the full size's vectors.

The tower is a copy of the first layers. It answers the small sizes; the model itself is not touched, so that
indexes stay valid, and shallow queries may search them.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Normalize

from matryoshka2d.data import read_mixture
from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.heads import identity_dense
from matryoshka2d.errors import UserError
from matryoshka2d.files import remove_folder, staged_file
from matryoshka2d.options import given_options, stated
from matryoshka2d.size import default_sizes
from matryoshka2d.training.fitting import fit_heads, mean_cosines, nearest_map
from matryoshka2d.training.model_card import write_made
from matryoshka2d.training.model_settings import training_settings
from matryoshka2d.training.run_logs import saying_what_lowers_memory
from matryoshka2d.training.teacher import Prompted, embedded_once
from matryoshka2d.training.texts import (
    Texts,
    exits_of,
    mixture_prompts,
    number_of,
    split,
    texts_of,
    warn_of_few,
)
from matryoshka2d.training.tower_training import Progress, Schedule, TowerData, TowerTraining
from matryoshka2d.training.training_options import DistillOptions
from matryoshka2d.training.unfinished import TOWER_CHECKPOINT, begin_anew

_CHECKPOINT_EVERY = 100
# Texts that the full size embeds together, just before the tower learns from them: enough for batches of one
# length and for the maps that it starts from, and a short wait.
_PART = 4096
# Texts that judge how near the exits came: a mean over so many says enough.
_JUDGES = 1000


def distill(options: DistillOptions | None = None, *, quiet: bool = False, **choices: Any) -> ElasticEncoder:
    """Give a finished model a shallow tower that lands on its full size, and write it to a folder.

    Parameters
    ----------
    options
        A `DistillOptions`; or leave it out and name its fields here. Not both.
    quiet
        Whether to keep notes and the progress bar to oneself.
    **choices
        Fields of `DistillOptions`: ``model``, ``data``, ``output``, ``layers``, ``steps`` …

    Returns
    -------
    ElasticEncoder
        The encoder, as it was written to ``output``. Its ``record["distill"]["cosines"]`` holds, for every
        exit of the tower, the mean cosine to the full size on texts that were left out, before (the model's
        own exit) and after.

    Raises
    ------
    UserError
        If an option, a file, the model or the output is wrong, or the training diverges; no model is written
        then.

    Examples
    --------
    >>> distill(data=["missing.txt"], output="my-model")
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: ...
    """
    options = given_options(DistillOptions, options, choices)
    options.check_ready()
    mixture = read_mixture(options.data, options.columns or None, options.limit)
    encoder = ElasticEncoder(resolve_model(options.model), pooling=options.pooling, device=options.device)
    check_can_be_distilled(encoder, options.layers, options.model)
    prompts = mixture_prompts(encoder, mixture)
    train_texts, held_out = split(texts_of(mixture, prompts, options.texts, options.seed))
    held_out = {prompt: texts[:_JUDGES] for prompt, texts in held_out.items()}
    count = number_of(train_texts)
    if not quiet:
        print(
            f"Distilling {options.model} into {options.layers} layers, on up to {count} texts",
            file=sys.stderr,
        )
    if not options.resume:
        begin_anew(options.run_folder, quiet=quiet)
    tower = shallow_copy(encoder, options.layers)
    advice = f"out of memory with {options.batch_tokens} tokens a step: lower --batch-tokens or --max-length"
    with (
        training_settings(encoder, options.max_length, on_cpu=False),
        training_settings(tower, options.max_length, on_cpu=tower.device.type == "cpu"),
        saying_what_lowers_memory(advice),
    ):
        before = mean_cosines(encoder, held_out)
        count = train_tower(tower, encoder, train_texts, options, quiet=quiet)
        tower.record = {"sizes": [str(size) for size in default_sizes(tower.depth, tower.width)]}
        encoder.add_tower(tower)
        after = mean_cosines(encoder, held_out)
    if not quiet:
        warn_of_few(train_texts, held_out)
    encoder.record = {
        **encoder.record,
        "sizes": [str(size) for size in default_sizes(encoder.depth, encoder.width)],
        "distill": {
            **stated(options),
            "cosines": {
                str(n): [round(before[n], 4), round(after[n], 4)] for n in before if n <= tower.depth
            },
        },
    }
    found = encoder.record["distill"]["cosines"]
    write_made(
        encoder,
        options,
        "distill",
        "distilled_card.md.j2",
        count=count,
        layers=options.layers,
        cosines=found,
    )
    remove_folder(options.run_folder)
    return encoder


def check_can_be_distilled(encoder: ElasticEncoder, layers: int, name: str) -> None:
    """Raise a `UserError` if the model is too shallow for the tower, or has one already."""
    if layers >= encoder.depth:
        deepest = encoder.depth - 1
        raise UserError(
            f"a tower of {layers} layers for {name}, which has {encoder.depth}: "
            + (f"expected --layers 1 to {deepest}" if deepest else "choose a deeper model")
        )
    if encoder.tower is not None:
        raise UserError(
            f"{name} has a shallow tower already: distill the model that it was made from, for longer"
        )


def shallow_copy(encoder: ElasticEncoder, layers: int) -> ElasticEncoder:
    """Return a copy of the first layers in float32, every exit behind a linear map that starts as identity.

    The map of the deepest exit is a stock Dense module before the normalization, so that a tower is an
    ordinary model; inner exits have a head beyond it.

    Parameters
    ----------
    encoder
        The model; it is not changed.
    layers
        How many.
    """
    plain = encoder.first_layers(layers).float()
    modules = [module for module in plain if not isinstance(module, Normalize)]
    tower = ElasticEncoder(
        modules=[*modules, identity_dense(encoder.width), Normalize()], device=str(encoder.device)
    )
    tower.prompts, tower.default_prompt_name = dict(encoder.prompts), encoder.default_prompt_name
    if layers > 1:
        tower.add_heads()
    return tower


def train_tower(
    tower: ElasticEncoder, encoder: ElasticEncoder, texts: Texts, options: DistillOptions, *, quiet: bool
) -> int:
    """Train a tower to give the full size's vectors of some texts, and return from how many it learnt.

    The full size embeds a part of them at a time, so that training starts at once and nothing is embedded
    that it does not reach. No text comes back before all have come.

    Parameters
    ----------
    tower
        What `shallow_copy` gives; it is changed.
    encoder
        The model whose full size teaches.
    texts
        What is learnt from.
    options
        How long and how fast; a checkpoint in its run folder is gone on from if it says so.
    quiet
        Whether to draw no progress.
    """
    start = time.monotonic()
    pairs = [(prompt, text) for prompt, some in texts.items() for text in some]
    order = np.random.default_rng(options.seed).permutation(len(pairs))
    parts = [[pairs[row] for row in order[i : i + _PART]] for i in range(0, len(order), _PART)]
    store = options.run_folder / "teacher-vectors"

    @lru_cache(maxsize=1)
    def part(number: int) -> TowerData:
        return taught(tower, encoder, parts[number % len(parts)], store)

    checkpoint = options.run_folder / TOWER_CHECKPOINT
    if not options.resume:
        fit_maps(tower, part(0))
    dims = sorted({size.dims for size in default_sizes(1, tower.width)})
    schedule = Schedule(
        options.steps, options.minutes, options.learning_rate, options.batch_tokens, dims, options.seed
    )
    training = TowerTraining(tower, part, schedule)
    training.progress.seconds = time.monotonic() - start
    if options.resume:
        training.load(_read(checkpoint, options))
    with _progress_bar(schedule, training.progress, quiet) as show:

        def after_step(progress: Progress) -> None:
            show(progress)
            if progress.step % _CHECKPOINT_EVERY == 0:
                _write(checkpoint, options, training)

        training.run(after_step)
    return sum(map(len, parts[: training.progress.parts]))


def taught(tower: ElasticEncoder, encoder: ElasticEncoder, pairs: list[Prompted], store: Path) -> TowerData:
    """Return texts with the full size's vectors, which are kept in the cache, or in `store`."""
    texts = [text for _, text in pairs]
    # Once there was no place in the cache, it is not asked again: it says so each time.
    targets = embedded_once(encoder, pairs, cache=store if store.is_dir() else None, otherwise=store)
    return TowerData(texts, [prompt for prompt, _ in pairs], targets, np.array(tower.token_counts(texts)))


def fit_maps(tower: ElasticEncoder, data: TowerData) -> None:
    """Start the linear map of every exit of a tower where least squares puts it."""
    texts: dict[str, list[str]] = {}
    rows: dict[str, list[int]] = {}
    for row, (prompt, text) in enumerate(zip(data.prompts, data.texts, strict=True)):
        texts.setdefault(prompt, []).append(text)
        rows.setdefault(prompt, []).append(row)
    targets = data.targets[np.concatenate([np.asarray(some) for some in rows.values()])]
    exits = exits_of(tower, texts, [tower.depth])
    dense: Any = [module for module in tower if hasattr(module, "linear")][-1]
    with torch.no_grad():
        dense.linear.weight.copy_(torch.from_numpy(nearest_map(exits[tower.depth], targets).T))
    if tower.heads is not None:
        fit_heads(tower, texts, targets)


def _write(checkpoint: Path, options: DistillOptions, training: TowerTraining) -> None:
    with staged_file(checkpoint) as temporary:
        torch.save({"options": _what_counts(options), **training.state()}, temporary)


def _read(checkpoint: Path, options: DistillOptions) -> dict[str, Any]:
    """Return the state in a checkpoint, if it is of the same run."""
    state: dict[str, Any] = torch.load(checkpoint, weights_only=False)
    if state["options"] != _what_counts(options):
        raise UserError(
            f"the checkpoint in {checkpoint.parent} is of a run with other options: name the same, or begin "
            "anew with --overwrite"
        )
    return state


def _what_counts(options: DistillOptions) -> dict[str, Any]:
    """Return the options that must be the same for a run to go on."""
    free = ("resume", "overwrite", "device", "steps", "minutes")
    return {name: value for name, value in stated(options).items() if name not in free}


@contextlib.contextmanager
def _progress_bar(
    schedule: Schedule, progress: Progress, quiet: bool
) -> Iterator[Callable[[Progress], None]]:
    """Yield what shows how far a run is, in steps or in minutes."""
    from tqdm.auto import tqdm

    timed = schedule.minutes is not None
    total = round(60 * schedule.minutes) if schedule.minutes is not None else schedule.steps
    with tqdm(total=total, desc="Distilling", unit="s" if timed else "step", disable=quiet) as bar:

        def show(now: Progress) -> None:
            bar.set_postfix(loss=f"{now.loss:.4f}", refresh=False)
            bar.update(min(total, int(now.seconds) if timed else now.step) - bar.n)

        show(progress)
        yield show
