"""The peer: sentence-transformers' own Matryoshka2dLoss in its own trainer, under the same rules.

Same start, data, order of the data, batches, epochs, warm-up, optimiser and precision as `train`; the loss,
the sampling of sizes, dropout and attention are the library's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses
from transformers import PrinterCallback, set_seed

from matryoshka2d.data import read_mixture
from matryoshka2d.data.batch_sampler import GroupDroppingCollator
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.loading import resolve_model
from matryoshka2d.encoder.precision import resolve_precision
from matryoshka2d.files import staged_folder
from matryoshka2d.training.model_settings import set_dropout
from matryoshka2d.training.trainer import FullBatchSampler
from matryoshka2d.training.training_options import TrainingOptions, preset_of

_STRATEGY = "matryoshka2d"


class PeerTrainer(SentenceTransformerTrainer):
    """The library's trainer, blind to the column that only the batch sampler reads."""

    data_collator_class = GroupDroppingCollator


def train_peer(options: TrainingOptions, dims: Sequence[int], loss_options: Mapping[str, Any]) -> None:
    """Train with the library and write the model.

    Parameters
    ----------
    options
        Model, data, output, seed, rates and so on; strategy, objective and heads have no part in it.
    dims
        The widths that the loss samples from.
    loss_options
        Other arguments of ``Matryoshka2dLoss``.
    """
    set_seed(options.seed)
    precision = resolve_precision(options.precision, options.device or "auto")
    mixture = read_mixture(options.data, options.columns or None, options.limit)
    model = _load(options)
    model.model_card_data.generate_widget_examples = False
    with tempfile.TemporaryDirectory() as folder:
        trainer = PeerTrainer(
            model=model,
            args=_arguments(options, folder, precision.name, model.device.type == "cpu"),
            train_dataset=_only_or_all(mixture.datasets),
            loss=_only_or_all({name: _loss(model, dims, loss_options) for name in mixture.datasets}),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()
    with staged_folder(options.output, overwrite=True) as staged:
        model.save(str(staged), create_model_card=False)


def _load(options: TrainingOptions) -> SentenceTransformer:
    name = resolve_model(options.model)
    if options.pooling:
        # A plain checkpoint becomes a stock model with the pooling that was asked for.
        whole = ElasticEncoder(name, pooling=options.pooling, device=options.device)
        model = SentenceTransformer(modules=list(whole), device=options.device)
    else:
        model = SentenceTransformer(name, device=options.device)
    model.max_seq_length = min(options.max_length, model.max_seq_length or options.max_length)
    if options.dropout is not None:
        set_dropout(model[0].model, options.dropout)
    return model


def _loss(model: SentenceTransformer, dims: Sequence[int], loss_options: Mapping[str, Any]) -> Any:
    base = losses.MultipleNegativesRankingLoss(model)
    return losses.Matryoshka2dLoss(model, base, list(dims), **loss_options)


def _only_or_all(table: Mapping[str, Any]) -> Any:
    return next(iter(table.values())) if len(table) == 1 else dict(table)


def _arguments(
    options: TrainingOptions, folder: str, precision: str, on_cpu: bool
) -> SentenceTransformerTrainingArguments:
    rate = options.learning_rate
    preset = preset_of(TrainingOptions(strategy=_STRATEGY))
    return SentenceTransformerTrainingArguments(
        output_dir=folder,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=preset.learning_rate if rate is None else rate,
        warmup_steps=min(options.warmup, 1 - 1e-9),
        weight_decay=options.weight_decay,
        optim="adamw_torch_fused",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=on_cpu,
        seed=options.seed,
        data_seed=options.seed,
        batch_sampler=FullBatchSampler,
        dataloader_drop_last=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
