"""train(): data, encoder, losses and trainer put together; the result written in one step."""

from __future__ import annotations

import random
import shutil
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
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.loading import resolve_model
from matryoshka2d.encoder.precision import Precision, resolve_precision
from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import Grid
from matryoshka2d.files import staged_folder
from matryoshka2d.losses.elastic_loss import ElasticLoss, TeacherLookup
from matryoshka2d.losses.objectives import DataFormat, Objective, default_objective, make_objective
from matryoshka2d.losses.strategies import Shape, Strategy, make_strategy
from matryoshka2d.losses.strategies.cross_exit import check_cross_exit
from matryoshka2d.options import given_options, stated
from matryoshka2d.training import distributed as ranks
from matryoshka2d.training import model_settings as learning_rates
from matryoshka2d.training.checkpoints import Elapsed, last_complete_checkpoint, seconds_before
from matryoshka2d.training.fitting import fit_heads
from matryoshka2d.training.lora import add_adapters, make_lora, merge_adapters, target_layers
from matryoshka2d.training.model_card import write_model_card
from matryoshka2d.training.model_settings import (
    cast_weights,
    check_checkpointing,
    check_reads_the_text,
    trained_sizes,
    training_settings,
    widen,
)
from matryoshka2d.training.rotation import check_can_be_turned, rotate_by, turned_dims
from matryoshka2d.training.run_logs import keep_logs, run_guarded, show_progress, trackers
from matryoshka2d.training.stream_shares import mixture_shares, stream_batches
from matryoshka2d.training.teacher import (
    ORIGINAL,
    SELF,
    TUNED,
    LiveTeacher,
    check_has_translations,
    check_teacher_is_heard,
    check_translations,
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
from matryoshka2d.training.training_options import (
    TrainingOptions,
    preset_of,
    run_folder_of,
    saying_what_lowers_memory,
    what_lowers_memory,
)

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
    named, strategy = _check_names(options)
    if not options.resume:
        with ranks.first_alone() as writes:
            if writes:
                shutil.rmtree(options.run_folder, ignore_errors=True)
    precision = resolve_precision(options.precision, options.device or "auto")
    mixture = _mixture(options)
    if options.translations:
        check_has_translations(text_columns(rows.column_names) for rows in mixture.datasets.values())
    shares = mixture_shares(mixture.rows, options) if options.mix and not options.streaming else None
    stream = stream_batches(mixture, options) if options.streaming else None
    set_seed(options.seed)
    encoder = ElasticEncoder(resolve_model(options.model), pooling=options.pooling, device=options.device)
    dtype = encoder.dtype
    has_new_heads = _prepare(encoder, options, strategy, precision)
    dev = _dev(encoder, options)
    objectives = _objectives(mixture, named, options)
    losses, datasets, teachers = _losses(encoder, mixture, objectives, strategy, options, quiet)
    on_cpu = encoder.device.type == "cpu"
    if not quiet:
        _say_what_starts(mixture, options, precision)
    dropout = preset_of(options).dropout if options.dropout is None else options.dropout
    prompts = mixture_prompts(encoder, mixture)
    fits = preset_of(options).fit_heads if options.fit_heads is None else options.fit_heads
    with training_settings(encoder, options.max_length, on_cpu, dropout, options.gradient_checkpointing):
        if fits and has_new_heads and checkpoint is None:
            with saying_what_lowers_memory(what_lowers_memory(options)):
                fit_heads(encoder, texts_of(mixture, prompts, seed=options.seed))
        if options.lora:
            add_adapters(encoder, make_lora(options.lora_options), seed=options.seed)
        feed = _in_memory(datasets, shares) if stream is None else _streamed(stream, teachers)
        trainer = _trainer(encoder, losses, feed, options, precision, dev, prompts, elapsed, quiet)
        run_guarded(trainer, options.run_folder, checkpoint, what_lowers_memory(options))
        release(encoder, trainer)
        if options.lora:
            merge_adapters(encoder)
        if _rotates(encoder, options, objectives.values()):
            with saying_what_lowers_memory(what_lowers_memory(options)):
                turned = rotate_by(encoder, mixture, encoder.sizes, options.seed)
            if not turned and not quiet:
                print("note: too few texts to turn the space by: it stays as it was trained", file=sys.stderr)
    cast_weights(encoder, dtype)
    return _finish(encoder, trainer, options, dev)


def _check_names(options: TrainingOptions) -> tuple[Objective | None, Strategy]:
    """Make objective and strategy, so that a wrong name or option is said before any model is loaded."""
    check_translations(options)
    name = options.objective or ("distillation" if options.translations else None)
    objective = make_objective(name, **options.objective_options) if name else None
    trackers(options.report_to)
    if options.lora:
        make_lora(options.lora_options)
    if options.fit_heads and not _has_heads(options):
        raise UserError("fit_heads without heads: add --heads, or leave it out")
    return objective, make_strategy(options.strategy, **options.strategy_options)


def _has_heads(options: TrainingOptions) -> bool:
    return preset_of(options).heads if options.heads is None else options.heads


def _say_what_starts(mixture: Mixture[Any], options: TrainingOptions, precision: Precision) -> None:
    counts = mixture.rows.values()
    rows = "streamed" if None in counts else sum(count or 0 for count in counts)
    print(f"Training {options.strategy} on {rows} rows in {precision.reason}", file=sys.stderr)


def _rotates(encoder: ElasticEncoder, options: TrainingOptions, objectives: Iterable[Objective]) -> bool:
    """Return whether the space is turned at the end.

    Unless told to, a model that was to keep the space of the one that it learnt from is left in it, and so is
    one without a size that a rotation serves.
    """
    if options.rotate is not None:
        return options.rotate
    keeps_space = options.teacher == ORIGINAL or any(map(learns_without_labels, objectives))
    return preset_of(options).rotate and not keeps_space and bool(turned_dims(encoder.sizes, encoder.width))


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


def _prepare(
    encoder: ElasticEncoder, options: TrainingOptions, strategy: Strategy, precision: Precision
) -> bool:
    """Check the model against the run and give it what it lacks; return whether it got new heads."""
    # Sizes that the model lacks are said now, not after a teacher has embedded all texts.
    shape = Shape(encoder.depth, encoder.width)
    strategy.plan(shape, random.Random(options.seed))
    sizes = trained_sizes(strategy, shape)
    check_reads_the_text(encoder, options.strategy, strategy, shape)
    if options.gradient_checkpointing:
        check_checkpointing(encoder)
    if options.lora:
        target_layers(encoder.base, make_lora(options.lora_options).targets)
    if options.rotate:
        check_can_be_turned(sizes, encoder.width)
    check_cross_exit(options.cross_exit, options.strategy, any(size.layers < encoder.depth for size in sizes))
    gets_heads = _has_heads(options) and encoder.depth > 1 and encoder.heads is None
    if gets_heads:
        encoder.add_heads()
    widen(encoder, frozen=options.lora, precision=precision)
    for side, prompt in (("query", options.query_prompt), ("document", options.document_prompt)):
        if prompt is not None:
            encoder.prompts[side] = prompt
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


def _objectives(
    mixture: Mixture[Any], named: Objective | None, options: TrainingOptions
) -> dict[str, Objective]:
    """Return data set → what is learnt from it: the user's choice, or what suits its form."""
    return {
        name: named or make_objective(default_objective(_FORM_OF[form]), **options.objective_options)
        for name, form in mixture.formats.items()
    }


def _tuned(options: TrainingOptions, quiet: bool) -> Path:
    """Fine-tune the full size alone on the same data, beside the checkpoints, unless that was done before."""
    plain = plain_options(options)
    if not options.teacher_folder.exists():
        train(plain, quiet=quiet)
    return options.teacher_folder


def _losses(
    encoder: ElasticEncoder,
    mixture: Mixture[Any],
    objectives: Mapping[str, Objective],
    strategy: Strategy,
    options: TrainingOptions,
    quiet: bool,
) -> tuple[dict[str, ElasticLoss], dict[str, Dataset | Stream], dict[str, LiveTeacher]]:
    takes = takes_teacher(strategy, encoder, options.seed)
    distils = {name: learns_without_labels(objective) for name, objective in objectives.items()}
    check_teacher_is_heard(options, distils=any(distils.values()), takes=takes)
    load = cache(partial(_teacher, encoder, options, quiet))
    losses, datasets, live = {}, {}, {}
    for name, rows in mixture.datasets.items():
        lookup: TeacherLookup | None = None
        if distils[name]:
            rows = rows.select_columns(text_columns(rows.column_names))
        teacher = teacher_name(options, distils=distils[name], takes=takes)
        if teacher is not None and teacher != SELF:
            form = mixture.formats[name]
            columns = columns_read(text_columns(rows.column_names), translations=options.translations)
            taught_by = load(teacher)
            if isinstance(rows, Stream):
                lookup = live[name] = LiveTeacher(taught_by, columns, prompts_read(taught_by, form, columns))
            else:
                # The first process writes the teacher's vectors, the others read them.
                with ranks.first_then_others():
                    rows, lookup = with_teacher(rows, columns, taught_by, form=form, quiet=quiet)
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
    options: TrainingOptions,
    precision: Precision,
    dev: DevGrid | None,
    prompts: dict[str, dict[str, str]],
    elapsed: Elapsed,
    quiet: bool,
) -> ElasticTrainer:
    single = next(iter(losses)) if len(losses) == 1 else None
    arguments = _arguments(encoder, options, precision, dev, quiet)
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
            StepOfLoss(list(losses.values()), options.gradient_accumulation),
            EpochOfBatches(),
            elapsed,
        ],
    )
    show_progress(trainer, quiet)
    ranks.own_seed(options.seed)
    return trainer


def _arguments(
    encoder: ElasticEncoder, options: TrainingOptions, precision: Precision, dev: DevGrid | None, quiet: bool
) -> SentenceTransformerTrainingArguments:
    lowest, _ = learning_rates.rates(options)
    every = _share(1 / options.evaluations)
    return SentenceTransformerTrainingArguments(
        output_dir=str(options.run_folder),
        # A stream knows its passes itself: to the trainer, the run is one epoch of them all.
        num_train_epochs=1 if options.streaming else options.epochs,
        max_steps=-1 if options.streaming else options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=lowest,
        learning_rate_mapping=learning_rates.mapping(encoder, options),
        warmup_steps=_share(options.warmup),
        weight_decay=options.weight_decay,
        optim="adamw_torch_fused",
        bf16=precision.name == "bf16",
        fp16=precision.name == "fp16",
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
        report_to=trackers(options.report_to),
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
    shutil.rmtree(options.run_folder, ignore_errors=True)
    if options.push_to_hub:
        encoder.push_to_hub(options.push_to_hub, local_model_path=options.output)
