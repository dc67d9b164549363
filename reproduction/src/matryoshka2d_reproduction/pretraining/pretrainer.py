"""pretrain(): texts, encoder, head, decoder and trainer put together; the result written in one step."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainingArguments, set_seed

from matryoshka2d import ElasticEncoder, Size, UserError
from matryoshka2d.encoder import Precision, resolve_model, resolve_precision
from matryoshka2d.files import remove_folder, staged_folder
from matryoshka2d.losses.strategies import default_pairs
from matryoshka2d.options import given_options, stated
from matryoshka2d.size import parse_sizes
from matryoshka2d.training import (
    begin_anew,
    cast_weights,
    keep_logs,
    last_complete_checkpoint,
    run_guarded,
    show_progress,
    trackers,
    training_settings,
    widen,
)
from matryoshka2d_reproduction.pretraining.corpus import read_corpus
from matryoshka2d_reproduction.pretraining.decoder import Decoder
from matryoshka2d_reproduction.pretraining.masking import TwoMaskedCopies
from matryoshka2d_reproduction.pretraining.model_card import write_model_card
from matryoshka2d_reproduction.pretraining.objective import MaskedAutoencoding
from matryoshka2d_reproduction.pretraining.options import PretrainingOptions
from matryoshka2d_reproduction.pretraining.order import SimilarLengths
from matryoshka2d_reproduction.pretraining.trainer import PretrainingTrainer, TrainingPosition
from matryoshka2d_reproduction.pretraining.vocabulary import check_predicts_masked, load_head


def pretrain(
    options: PretrainingOptions | None = None, *, quiet: bool = False, **choices: Any
) -> ElasticEncoder:
    """Pretrain an encoder on plain texts and write it to a folder, which `train` takes as a model.

    Parameters
    ----------
    options
        A `PretrainingOptions`; or leave it out and name its fields here. Not both.
    quiet
        Whether to keep progress bars and notes to oneself.
    **choices
        Fields of `PretrainingOptions`: ``model``, ``data``, ``sizes``, ``output``, ``seed`` …

    Returns
    -------
    ElasticEncoder
        The pretrained encoder, as it was written to ``output``; head and decoder are gone.

    Raises
    ------
    UserError
        If an option, a file, the model or the output is wrong; nothing is written then.

    Examples
    --------
    >>> pretrain(data=["missing.txt"], output="my-body")
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: ...
    """
    options = given_options(PretrainingOptions, options, choices)
    options.check_ready()
    checkpoint = _checkpoint(options) if options.resume else None
    trackers(options.report_to)
    precision = resolve_precision(options.precision, options.device or "auto")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("pretrain runs on one device: start it by itself, without torchrun or accelerate")
    texts = read_corpus(options.data, options.columns or None, options.limit)
    set_seed(options.seed)
    name = resolve_model(options.model)
    encoder = ElasticEncoder(name, pooling=options.pooling, device=options.device)
    check_predicts_masked(encoder, name)
    sizes = sizes_of(encoder, options)
    if checkpoint is None:
        begin_anew(options.run_folder, quiet=quiet)
    dtype = encoder.dtype
    widen(encoder, frozen=False, precision=precision)
    head, found = load_head(name, encoder)
    if not quiet:
        kind = "the model's own head" if found else "a new head, as the model has none"
        listed = " ".join(map(str, sizes))
        note = f"Pretraining {listed} on {len(texts)} texts with {kind}, in {precision.reason}"
        print(note, file=sys.stderr)
    on_cpu = encoder.device.type == "cpu"
    with training_settings(encoder, options.max_length, on_cpu, options.dropout):
        objective = MaskedAutoencoding(encoder, head, Decoder(encoder), sizes).to(encoder.device)
        trainer = _trainer(objective, texts, options, precision, quiet)
        advice = (
            f"out of memory with batch size {options.batch_size}: lower --predictions, --batch-size or "
            f"--max-length"
        )
        run_guarded(trainer, options.run_folder, checkpoint, advice)
    cast_weights(encoder, dtype)
    trainer.check_weights()
    encoder.eval()
    _write(encoder, sizes, options, trainer.state.global_step)
    return encoder


def sizes_of(encoder: ElasticEncoder, options: PretrainingOptions) -> tuple[Size, ...]:
    """Return the sizes that learn: the listed ones, or Starbucks' pattern for a model of that shape.

    Raises
    ------
    UserError
        If the model lacks one.
    """
    if options.sizes is None:
        return default_pairs(encoder.depth, encoder.width)
    return tuple(encoder.check(size) for size in parse_sizes(options.sizes))


def _checkpoint(options: PretrainingOptions) -> str:
    found = last_complete_checkpoint(options.run_folder)
    if found is None:
        raise UserError(
            f"nothing to resume: no complete checkpoint in {options.run_folder}; start again without --resume"
        )
    return found


def _trainer(
    objective: MaskedAutoencoding,
    texts: Dataset,
    options: PretrainingOptions,
    precision: Precision,
    quiet: bool,
) -> PretrainingTrainer:
    encoder = objective.encoder
    collator = TwoMaskedCopies(
        encoder.preprocess,
        encoder.tokenizer,
        options.mask,
        options.decoder_mask,
        options.predictions,
        options.seed,
    )
    order = SimilarLengths(texts["text"][:], options.batch_size, options.seed)
    trainer = PretrainingTrainer(
        order,
        model=objective,
        args=_arguments(options, precision, encoder.device.type == "cpu", quiet),
        train_dataset=texts,
        data_collator=collator,
        callbacks=[TrainingPosition(order, collator, options.gradient_accumulation)],
    )
    show_progress(trainer, quiet)
    return trainer


def _arguments(
    options: PretrainingOptions, precision: Precision, on_cpu: bool, quiet: bool
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(options.run_folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=options.learning_rate,
        # To the trainer, 1.0 is one step.
        warmup_steps=min(options.warmup, 1 - 1e-9),
        weight_decay=options.weight_decay,
        optim="adamw_torch_fused",
        bf16=precision.name == "bf16",
        fp16=precision.name == "fp16",
        use_cpu=on_cpu,
        seed=options.seed,
        data_seed=options.seed,
        remove_unused_columns=False,
        save_strategy="steps" if options.checkpoints else "no",
        save_steps=min(1 / options.saves, 1 - 1e-9),
        save_total_limit=2,
        logging_steps=0.02,
        report_to=trackers(options.report_to),
        disable_tqdm=quiet,
        run_name=Path(options.output).name,
    )
    # Of several GPUs one is used: the trainer would split batches among threads, and their losses with them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _write(encoder: ElasticEncoder, sizes: tuple[Size, ...], options: PretrainingOptions, steps: int) -> None:
    choices = stated(options)
    encoder.record = {
        **encoder.record,
        "sizes": [str(size) for size in sizes],
        "pretraining": {"method": "SMAE", "steps": steps, **choices},
    }
    with staged_folder(options.output, overwrite=options.overwrite) as folder:
        encoder.save(str(folder), create_model_card=False)
        keep_logs(options.run_folder, folder)
        write_model_card(folder, sizes, options, steps)
    remove_folder(options.run_folder)
