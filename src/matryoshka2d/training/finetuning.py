"""train(): data, encoder, losses and trainer put together; the result written in one step."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from transformers import set_seed

from matryoshka2d.data import POSITIVE_PAIRS, SCORED_PAIRS, TEXTS, TRIPLETS, read_mixture, text_columns
from matryoshka2d.data.mixture import Mixture, open_mixture
from matryoshka2d.data.stream_batch_sampler import StreamBatchSampler
from matryoshka2d.data.streams import Stream
from matryoshka2d.encoder.default_model import resolve_model
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import Grid
from matryoshka2d.files import remove_folder, staged_folder
from matryoshka2d.losses.elastic_loss import ElasticLoss, TeacherLookup
from matryoshka2d.losses.objectives import DataFormat, Objective, default_objective, make_objective
from matryoshka2d.losses.strategies import Shape
from matryoshka2d.losses.strategies.cross_exit import check_cross_exit
from matryoshka2d.options import given_options, stated
from matryoshka2d.training import distributed as ranks
from matryoshka2d.training.checkpoints import Elapsed, last_complete_checkpoint, seconds_before
from matryoshka2d.training.fitting import check_has_no_tower, fit_heads
from matryoshka2d.training.lora import add_adapters, merge_adapters, target_layers
from matryoshka2d.training.model_card import write_model_card
from matryoshka2d.training.model_settings import (
    cast_weights,
    check_checkpointing,
    check_reads_the_text,
    mapping,
    trained_sizes,
    training_settings,
    widen,
)
from matryoshka2d.training.rotation import check_can_be_turned, rotate_by, turned_dims
from matryoshka2d.training.run_logs import (
    keep_logs,
    run_guarded,
    saying_what_lowers_memory,
    show_progress,
)
from matryoshka2d.training.stream_shares import mixture_shares, stream_batches
from matryoshka2d.training.teacher import (
    ORIGINAL,
    SELF,
    TUNED,
    LiveTeacher,
    check_has_translations,
    check_teacher_is_heard,
    columns_read,
    learns_without_labels,
    load_teacher,
    plain_options,
    prompts_read,
    takes_teacher,
    teacher_name,
    with_teacher,
)
from matryoshka2d.training.texts import mixture_prompts, texts_of
from matryoshka2d.training.trainer import (
    DevGrid,
    ElasticTrainer,
    EpochOfBatches,
    FullBatchSampler,
    StepOfLoss,
    dev_grid,
    release,
)
from matryoshka2d.training.training_options import TrainingOptions, run_folder_of
from matryoshka2d.training.training_run import TrainingRun, resolve
from matryoshka2d.training.unfinished import begin_anew

# What a file holds, in the objectives' words: data knows no objectives, and objectives know no files.
_FORM_OF = {
    SCORED_PAIRS: DataFormat.SCORED_PAIRS,
    POSITIVE_PAIRS: DataFormat.POSITIVE_PAIRS,
    TRIPLETS: DataFormat.TRIPLETS,
    TEXTS: DataFormat.TEXT,
}


def train(options: TrainingOptions | None = None, *, quiet: bool = False, **choices: Any) -> ElasticEncoder:
    """Train an elastic model and write it to a folder.

    Parameters
    ----------
    options
        A `TrainingOptions`; or leave it out and name its fields here. Not both.
    quiet
        Whether to keep progress bars and notes to oneself.
    **choices
        Fields of `TrainingOptions`: ``model``, ``data``, ``output``, ``strategy``, ``seed`` …

    Returns
    -------
    ElasticEncoder
        The trained encoder, as it was written to ``output``.

    Raises
    ------
    UserError
        If an option, a file or the output is wrong; nothing is written then.

    Examples
    --------
    >>> train(data=["missing.jsonl"], output="my-model")
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: ...
    """
    options = given_options(TrainingOptions, options, choices)
    options.check_ready()
    ranks.join(options.device)
    ranks.check_batch_size(options.batch_size)
    quiet = quiet or not ranks.is_first()
    checkpoint = _checkpoint(options) if options.resume else None
    elapsed = Elapsed(seconds_before(options.run_folder) if options.resume else 0.0)
    run = resolve(options)
    mixture = _mixture(options)
    if options.translations:
        check_has_translations(text_columns(rows.column_names) for rows in mixture.datasets.values())
    shares = mixture_shares(mixture.rows, options) if options.mix and not options.streaming else None
    stream = stream_batches(mixture, options) if options.streaming else None
    set_seed(options.seed)
    encoder = ElasticEncoder(resolve_model(options.model), pooling=options.pooling, device=options.device)
    check_has_no_tower(encoder, options.model)
    dtype = encoder.dtype
    has_new_heads = _prepare(encoder, run)
    dev = _dev(encoder, options)
    objectives = _objectives(mixture, run)
    _begin_anew(options, quiet)
    losses, datasets, teachers = _losses(encoder, mixture, objectives, run, quiet)
    on_cpu = encoder.device.type == "cpu"
    if not quiet:
        _say_what_starts(mixture, run)
    prompts = mixture_prompts(encoder, mixture)
    with training_settings(encoder, options.max_length, on_cpu, run.dropout, options.gradient_checkpointing):
        if run.fit_heads and has_new_heads and checkpoint is None:
            with saying_what_lowers_memory(run.memory_advice):
                fit_heads(encoder, texts_of(mixture, prompts, seed=options.seed))
        if run.lora:
            add_adapters(encoder, run.lora, seed=options.seed)
        feed = _in_memory(datasets, shares) if stream is None else _streamed(stream, teachers)
        trainer = _trainer(encoder, losses, feed, run, dev, prompts, elapsed, quiet)
        run_guarded(trainer, options.run_folder, checkpoint, run.memory_advice)
        release(encoder, trainer)
        if run.lora:
            merge_adapters(encoder)
        if _rotates(encoder, run, objectives.values()):
            with saying_what_lowers_memory(run.memory_advice):
                turned = rotate_by(encoder, mixture, encoder.sizes, options.seed)
            if not turned and not quiet:
                print("note: too few texts to turn the space by: it stays as it was trained", file=sys.stderr)
    cast_weights(encoder, dtype)
    return _finish(encoder, trainer, options, dev)


def _begin_anew(options: TrainingOptions, quiet: bool) -> None:
    """Remove what an earlier run left, now that everything that can be wrong was looked at."""
    if not options.resume:
        with ranks.first_alone() as writes:
            if writes:
                begin_anew(options.run_folder, quiet=quiet)


def _say_what_starts(mixture: Mixture[Any], run: TrainingRun) -> None:
    counts = mixture.rows.values()
    rows = "streamed" if None in counts else sum(count or 0 for count in counts)
    print(f"Training {run.options.strategy} on {rows} rows in {run.precision.reason}", file=sys.stderr)


def _rotates(encoder: ElasticEncoder, run: TrainingRun, objectives: Iterable[Objective]) -> bool:
    """Return whether the model is rotated at the end.

    Unless told to, a model that was to keep the space of the one that it learnt from is left in it, and so is
    one without a size that a rotation serves.
    """
    if run.rotation_is_asked or not run.rotate:
        return run.rotate
    keeps_space = run.teacher == ORIGINAL or any(map(learns_without_labels, objectives))
    return not keeps_space and bool(turned_dims(encoder.sizes, encoder.width))


def _checkpoint(options: TrainingOptions) -> str | None:
    """Return the checkpoint to go on from, None if the run has its teacher only, or say there is nothing."""
    found = last_complete_checkpoint(options.run_folder)
    teacher = options.teacher_folder
    if found is None and not teacher.exists() and last_complete_checkpoint(run_folder_of(teacher)) is None:
        raise UserError(
            f"nothing to resume: no complete checkpoint in {options.run_folder}; start again without --resume"
        )
    return found


def _dev(encoder: ElasticEncoder, options: TrainingOptions) -> DevGrid | None:
    if not options.dev:
        return None
    dev = dev_grid(options.dev, options.dev_sizes or encoder.sizes)
    for size in dev.sizes:
        encoder.check(size)
    return dev


def _prepare(encoder: ElasticEncoder, run: TrainingRun) -> bool:
    """Check the model against the run and give it what it lacks; return whether it got new heads."""
    options, strategy = run.options, run.strategy
    # Sizes that the model lacks are said now, not after a teacher has embedded all texts.
    shape = Shape(encoder.depth, encoder.width)
    strategy.plan(shape, random.Random(options.seed))
    sizes = trained_sizes(strategy, shape)
    check_reads_the_text(encoder, options.strategy, strategy, shape)
    if options.gradient_checkpointing:
        check_checkpointing(encoder)
    if run.lora:
        target_layers(encoder.base, run.lora.targets)
    if run.rotate and run.rotation_is_asked:
        check_can_be_turned(sizes, encoder.width)
    check_cross_exit(options.cross_exit, options.strategy, any(size.layers < encoder.depth for size in sizes))
    gets_heads = run.heads and encoder.depth > 1 and encoder.heads is None
    if gets_heads:
        encoder.add_heads()
    widen(encoder, frozen=run.lora is not None, precision=run.precision)
    encoder.prompts.update(run.prompts)
    encoder.record = {
        **encoder.record,
        "sizes": [str(size) for size in sizes],
        "training": stated(options),
    }
    return gets_heads


def _mixture(options: TrainingOptions) -> Mixture[Any]:
    """Read the data, or open it if it is to be streamed."""
    source, columns, scores = options.data, options.columns or None, options.scores_between()
    if options.streaming:
        rows = options.stated_rows()
        return open_mixture(source, columns, options.limit, score_range=scores, rows=rows)
    return read_mixture(source, columns, options.limit, score_range=scores)


def _objectives(mixture: Mixture[Any], run: TrainingRun) -> dict[str, Objective]:
    """Return data set → what is learnt from it: the user's choice, or what suits its form."""
    return {
        name: run.objective
        or make_objective(default_objective(_FORM_OF[form]), **run.options.objective_options)
        for name, form in mixture.formats.items()
    }


def _tuned(options: TrainingOptions, quiet: bool) -> Path:
    """Fine-tune the full size alone on the same data, beside the checkpoints, unless that was done before."""
    plain = plain_options(options)
    if not options.teacher_folder.exists():
        try:
            train(plain, quiet=quiet)
        except BaseException:
            # A run that was refused leaves nothing, the folder above its own included.
            with contextlib.suppress(OSError):
                options.run_folder.rmdir()
            raise
    return options.teacher_folder


def _losses(
    encoder: ElasticEncoder,
    mixture: Mixture[Any],
    objectives: Mapping[str, Objective],
    run: TrainingRun,
    quiet: bool,
) -> tuple[dict[str, ElasticLoss], dict[str, Dataset | Stream], dict[str, LiveTeacher]]:
    options, strategy = run.options, run.strategy
    takes = takes_teacher(strategy, encoder, options.seed)
    distils = {name: learns_without_labels(objective) for name, objective in objectives.items()}
    check_teacher_is_heard(options, distils=any(distils.values()), takes=takes)
    load = cache(partial(_teacher, encoder, options, quiet))
    losses, datasets, live = {}, {}, {}
    for name, rows in mixture.datasets.items():
        lookup: TeacherLookup | None = None
        if distils[name]:
            rows = rows.select_columns(text_columns(rows.column_names))
        teacher = teacher_name(options.teacher, run.teacher, distils=distils[name], takes=takes)
        if teacher is not None and teacher != SELF:
            form = mixture.formats[name]
            columns = columns_read(text_columns(rows.column_names), translations=options.translations)
            taught_by = load(teacher)
            if isinstance(rows, Stream):
                lookup = live[name] = LiveTeacher(taught_by, columns, prompts_read(taught_by, form, columns))
            else:
                # The first process writes the teacher's vectors, the others read them.
                with ranks.first_then_others():
                    rows, lookup = with_teacher(
                        rows,
                        columns,
                        taught_by,
                        form=form,
                        otherwise=options.run_folder / "teacher-vectors",
                        quiet=quiet,
                    )
        losses[name] = ElasticLoss(
            encoder,
            objectives[name],
            strategy,
            seed=options.seed,
            teacher=lookup,
            cross_exit=options.cross_exit,
            mini_batch_tokens=options.mini_batch_tokens,
        )
        datasets[name] = rows
    return losses, datasets, live


def _teacher(
    encoder: ElasticEncoder, options: TrainingOptions, quiet: bool, name: str
) -> SentenceTransformer:
    """Return a frozen teacher; a plain fine-tune is trained first."""
    place = str(_tuned(options, quiet)) if name == TUNED else name
    return load_teacher(place, encoder, options.device, stays=options.streaming)


def _in_memory(datasets: dict[str, Dataset], shares: list[float] | None) -> dict[str, Any]:
    """Return what the trainer is fed with where all rows are in memory."""
    only = next(iter(datasets.values())) if len(datasets) == 1 else None
    return {"train_dataset": datasets if only is None else only, "shares": shares}


def _streamed(stream: StreamBatchSampler, teachers: Mapping[str, LiveTeacher]) -> dict[str, Any]:
    """Return what the trainer is fed with where rows are streamed."""
    single = len(stream.streams) == 1
    return {
        "stream": stream,
        "teachers": {None if single else name: teacher for name, teacher in teachers.items()},
    }


def _trainer(
    encoder: ElasticEncoder,
    losses: dict[str, ElasticLoss],
    feed: Mapping[str, Any],
    run: TrainingRun,
    dev: DevGrid | None,
    prompts: dict[str, dict[str, str]],
    elapsed: Elapsed,
    quiet: bool,
) -> ElasticTrainer:
    single = next(iter(losses)) if len(losses) == 1 else None
    arguments = _arguments(encoder, run, dev, quiet)
    if any(prompts.values()):
        arguments.prompts = prompts[single] if single else prompts
    # The library's model card would be made anew at every checkpoint; ours is written once, at the end.
    encoder.model_card_data.generate_widget_examples = False
    encoder.model_card_data.widget = [{"text": "A sentence to embed."}]
    trainer = ElasticTrainer(
        model=encoder,
        args=arguments,
        **feed,
        loss=losses[single] if single else losses,
        evaluator=dev,
        callbacks=[
            StepOfLoss(list(losses.values()), run.options.gradient_accumulation),
            EpochOfBatches(),
            elapsed,
        ],
    )
    show_progress(trainer, quiet)
    ranks.own_seed(run.options.seed)
    return trainer


def _arguments(
    encoder: ElasticEncoder, run: TrainingRun, dev: DevGrid | None, quiet: bool
) -> SentenceTransformerTrainingArguments:
    options = run.options
    every = _share(1 / options.evaluations)
    return SentenceTransformerTrainingArguments(
        output_dir=str(options.run_folder),
        # A stream knows its passes itself: to the trainer, the run is one epoch of them all.
        num_train_epochs=1 if options.streaming else options.epochs,
        max_steps=-1 if options.streaming else options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=run.lowest_rate,
        learning_rate_mapping=mapping(encoder, run.lowest_rate, run.highest_rate, options.head_learning_rate),
        warmup_steps=_share(options.warmup),
        weight_decay=options.weight_decay,
        optim="adamw_torch_fused",
        bf16=run.precision.name == "bf16",
        fp16=run.precision.name == "fp16",
        use_cpu=encoder.device.type == "cpu",
        seed=options.seed,
        data_seed=options.seed,
        batch_sampler=FullBatchSampler,
        dataloader_drop_last=True,
        dataloader_num_workers=options.workers,
        # A batch is dealt out to the processes: it is the same batch, whatever their number.
        accelerator_config={"split_batches": True},
        eval_strategy="steps" if dev else "no",
        eval_steps=every,
        save_strategy="steps" if options.checkpoints or dev else "no",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=dev is not None,
        metric_for_best_model=f"eval_{dev.primary_metric}" if dev else None,
        greater_is_better=True if dev else None,
        logging_steps=0.02,
        report_to=list(run.trackers),
        disable_tqdm=quiet,
        run_name=Path(options.output).name,
    )


def _share(share: float) -> float:
    """Return a share of all steps as the trainer reads it: to it, 1.0 is one step."""
    return min(share, 1 - 1e-9)


def _finish(
    encoder: ElasticEncoder, trainer: ElasticTrainer, options: TrainingOptions, dev: DevGrid | None
) -> ElasticEncoder:
    encoder.eval()
    trainer.check_weights()
    with ranks.first_alone() as writes:
        if writes:
            _write(encoder, trainer, options, dev.grid(encoder) if dev else None)
    return encoder


def _write(
    encoder: ElasticEncoder, trainer: ElasticTrainer, options: TrainingOptions, measured: Grid | None
) -> None:
    with staged_folder(options.output, overwrite=options.overwrite) as folder:
        encoder.save(str(folder), create_model_card=False)
        keep_logs(options.run_folder, folder)
        write_model_card(folder, encoder, options, measured, trainer.state.global_step)
    remove_folder(options.run_folder)
    if options.push_to_hub:
        encoder.push_to_hub(options.push_to_hub, local_model_path=options.output)
