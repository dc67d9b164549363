"""The choices of a training run: one documented field each, for Python, YAML and the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from matryoshka2d.data.rows import matching
from matryoshka2d.data.shares import FIXED, MIXES, TEMPERATURE
from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.files import check_free, remove_abandoned
from matryoshka2d.options import NotNegative, Pairs, Positive, Text, Texts, choice, options, read_mapping
from matryoshka2d.size import parse_sizes
from matryoshka2d.training.unfinished import TOWER_CHECKPOINT, check_nothing_unfinished

_BUFFER = 10_000


@options
class TrainingOptions:
    """Every choice of a training run; each field's help says the default and when to change it.

    Raises
    ------
    UserError
        If a number is out of range, or a needed field is missing.

    Examples
    --------
    >>> options = TrainingOptions(data=["pairs.jsonl"], output="my-model")
    >>> options.batch_size, options.strategy
    (64, 'all-sizes')
    """

    model: Text = choice(
        "default", "Model to start from: a folder, a hub name, or 'default' (all-MiniLM-L6-v2)."
    )
    data: Texts = choice(
        [],
        "Training data: JSONL, CSV, TSV, Parquet, text lines or a hub data set; repeat to mix several.",
    )
    output: Text = choice("", "Folder that the trained model is written to.")
    columns: Pairs = choice(
        {}, "Names of the columns, if they are not recognized, as anchor=question,positive=answer."
    )
    limit: PositiveInt | None = choice(None, "Use only the first so many rows of every file.")
    score_range: str | None = choice(
        None,
        "Lowest and highest score, as 0,5. Default: guessed, 0,1 or 0,5. Give it for other scales, or where "
        "the first rows of a stream do not show the scale.",
    )
    streaming: bool = choice(
        False,
        "Read rows when they are needed: for data that does not fit in memory. Then --data may also be a "
        "folder of shards, or a pattern such as 'nli/*.parquet'.",
    )
    shuffle_buffer: PositiveInt | None = choice(
        None,
        "Rows of a stream among which a batch is drawn. Default: 10000. Raise it where neighboring rows are "
        "alike and memory allows.",
    )
    rows: Pairs = choice(
        {},
        "How many rows streams have whose files do not say, as nli=550000: for --epochs, and for mixing by "
        "rows. Parquet says.",
    )
    mix: str | None = choice(
        None,
        "How often each of several data sets gives the batch: 'fixed' by --mix-weights, or 'temperature' by "
        "rows ** (1 / --mix-temperature), so that small ones come more often. Default: by their rows.",
    )
    mix_weights: Pairs = choice(
        {}, "Weights of the data sets for --mix fixed, named after their files, as nli=2,qa=1."
    )
    mix_temperature: Positive | None = choice(
        None, "Temperature of --mix temperature. Default: 2. 1 is by the rows, higher is more even."
    )
    objective: str | None = choice(
        None, "What is learnt on a size: infonce, cosent, angle, distillation. Default: what fits the data."
    )
    objective_options: Pairs = choice({}, "Options of the objective, as scale=20.")
    strategy: str = choice(
        "all-sizes", "Which sizes a step trains: all-sizes, 2dmse, mrl, ese, starbucks, matryoshka2d, full."
    )
    strategy_options: Pairs = choice({}, "Options of the strategy, as layers_per_step=2,temperature=1.")
    heads: bool | None = choice(
        None,
        "Give inner exits a light linear head. Default: yes for all-sizes, no for the published methods.",
    )
    fit_heads: bool | None = choice(
        None,
        "Start the heads at the linear map from each exit to the full size, fitted on some of the texts, and "
        "not at the identity. Default: yes for all-sizes, no for the published methods.",
    )
    rotate: bool | None = choice(
        None,
        "Turn the space at the end, so that the first dims say most; no cosine at full width changes. "
        "Default: yes for all-sizes with labels; no without them, where vectors must match those of the "
        "model as it was, and for the published methods.",
    )
    pooling: str | None = choice(None, "mean, cls or last: only for a plain transformers checkpoint.")
    query_prompt: str | None = choice(
        None,
        "Text before every anchor, kept as the model's prompt 'query'. Default: the model's own, if any.",
    )
    document_prompt: str | None = choice(
        None,
        "Text before every positive and negative, kept as the prompt 'document'. Default: the model's own.",
    )
    teacher: Text | None = choice(
        None,
        "Who teaches, for all-sizes and for distillation: 'tuned' (a plain fine-tune on the same data, made "
        "first and then frozen), 'self' (the full size as it is being trained: half the time), 'original' "
        "(the model as it was, so that existing indexes stay valid), or another model. Default: tuned for "
        "all-sizes with labels, original for distillation.",
    )
    translations: bool = choice(
        False,
        "The texts of a row are translations of the first: the teacher reads the first alone, and its vector "
        "is the target of all. For a model that is to learn a language from one that it knows. Plain texts "
        "beside them keep what it knows.",
    )
    cross_exit: NotNegative = choice(
        0.0,
        "Weight of shallow queries that meet documents at full depth, relative to each size by itself. Set 1 "
        "to search one full-depth index with queries of any depth.",
    )
    epochs: NotNegative = choice(1.0, "Passes over the data.")
    max_steps: PositiveInt | None = choice(
        None, "Steps of the run, instead of epochs: for streams whose length is not known."
    )
    batch_size: Annotated[int, Field(ge=2)] = choice(
        64,
        "Rows a step, over all devices. Larger gives more in-batch negatives and needs more memory, but "
        "hardly any with --mini-batch-tokens.",
    )
    mini_batch_tokens: PositiveInt | None = choice(
        None,
        "Cache gradients: embed a batch in parts of so many tokens, so that memory hardly grows with the "
        "batch size, for one more forward pass. Default: the batch at once. For large batches: 1024 on a "
        "CPU, more on a GPU.",
    )
    workers: NonNegativeInt = choice(
        0,
        "Processes that tokenize the next batches while the device computes. Default: 0, in turn. Set 2 on "
        "a GPU, which waits for its texts else; a CPU has no cores to spare.",
    )
    learning_rate: NotNegative | None = choice(
        None,
        "Rate of the lowest layer. Default: 3e-4 for all-sizes, 1e-4 for the other 2D strategies, 2e-5 else.",
    )
    top_learning_rate: NotNegative | None = choice(
        None,
        "Rate of the highest layer, falling geometrically. Default: a tenth for all-sizes, else equal.",
    )
    head_learning_rate: NotNegative = choice(3e-3, "Rate of the exit heads.")
    warmup: Annotated[float, Field(ge=0, le=1)] = choice(0.1, "Share of the steps over which the rates rise.")
    weight_decay: NotNegative = choice(0.01, "Weight decay of AdamW.")
    max_length: Annotated[int, Field(ge=2)] = choice(
        128, "Tokens a text; longer texts are cut. Raise it for documents."
    )
    lora: bool = choice(
        False,
        "Train low-rank adapters instead of all weights, and merge them at the end: for models whose "
        "gradients and optimizer do not fit into memory.",
    )
    lora_options: Pairs = choice({}, "Options of LoRA, as rank=16,alpha=32,dropout=0,targets=q_proj,v_proj.")
    gradient_checkpointing: bool = choice(
        False, "Compute a layer's activations again in the backward pass: less memory, a third more time."
    )
    dropout: Annotated[float, Field(ge=0, le=0.99)] | None = choice(
        None, "Dropout while training. Default: 0 for all-sizes, else what the model's config says."
    )
    precision: str = choice(
        "auto", "auto, bf16, fp16 or fp32; auto is bf16 where the processor has units for it."
    )
    gradient_accumulation: PositiveInt = choice(
        1, "Steps whose gradients are added up before the weights move."
    )
    seed: int = choice(0, "Seed of everything: data order, dropout, sampled sizes.")
    dev: Text | None = choice(
        None, "STS file or folder whose dev split picks the best checkpoint over the whole grid."
    )
    dev_sizes: str | None = choice(
        None, "Sizes judged on dev, as 1-6x32,128,384. Default: those that are trained."
    )
    evaluations: PositiveInt = choice(4, "How often a run looks at dev and saves a checkpoint.")
    checkpoints: bool = choice(True, "Save checkpoints beside the output, so that a killed run can resume.")
    resume: bool = choice(False, "Go on from the last complete checkpoint of the same output.")
    overwrite: bool = choice(
        False, "Replace the output if it exists, and the checkpoints of an unfinished run."
    )
    device: str | None = choice(None, "cpu, cuda, mps. Default: the best there is.")
    report_to: str = choice(
        "tensorboard",
        "Where losses go, of every size too: tensorboard (kept in the model's folder), wandb, mlflow …, "
        "several with commas, or none.",
    )
    push_to_hub: str | None = choice(None, "Hub name (owner/name) to upload the result to.")

    def __post_init__(self) -> None:
        self.scores_between()

    def check_ready(self) -> None:
        """Raise a `UserError` unless data and output are named, and the output may be written."""
        if not self.data:
            raise UserError("no training data: expected a file or hub data set, as --data pairs.jsonl")
        if not self.output:
            raise UserError("no output: expected the folder to write the model to, as --output my-model")
        if self.lora_options and not self.lora:
            raise UserError("lora_options without lora: add --lora, or leave them out")
        if self.dev_sizes and not self.dev:
            raise UserError("dev_sizes without a dev set: name one, as --dev sts.tsv, or leave them out")
        self._check_stream()
        self._check_workers()
        self._check_mix()
        shards = [shard for name in self.data for shard in matching(name)]
        named = (self.model, self.dev, self.teacher, *self.data, *shards)
        # A kill may have come when the run was done, and its checkpoints were being removed.
        remove_abandoned(self.run_folder)
        check_free(Path(self.output), overwrite=self.overwrite, inputs=[name for name in named if name])
        check_nothing_unfinished(self.run_folder, resume=self.resume, overwrite=self.overwrite)

    def _check_stream(self) -> None:
        for name in ("shuffle_buffer", "rows"):
            if getattr(self, name) and not self.streaming:
                raise UserError(f"{name} without streaming: add --streaming, or leave it out")
        if self.streaming and self.buffer < self.batch_size:
            raise UserError(
                f"shuffle_buffer {self.buffer} holds no batch of {self.batch_size}: expected as many rows or "
                f"more, as --shuffle-buffer {10 * self.batch_size}"
            )
        self.stated_rows()

    def _check_workers(self) -> None:
        if self.workers and self.streaming:
            raise UserError("workers with streaming: a stream is read in turn, leave out --workers")
        if self.workers and not sys.platform.startswith("linux"):
            raise UserError("workers are forked, which is safe on Linux alone: leave out --workers")

    def _check_mix(self) -> None:
        if self.mix not in (None, *MIXES):
            raise UserError(
                f"mix is '{self.mix}': expected {' or '.join(MIXES)}.{did_you_mean(self.mix, MIXES)}"
            )
        if self.mix is not None and len(self.data) < 2:
            raise UserError(f"mix is '{self.mix}', but there is one data set: repeat --data, or leave it out")
        for name, needed in (("mix_weights", FIXED), ("mix_temperature", TEMPERATURE)):
            if getattr(self, name) and self.mix != needed:
                raise UserError(f"{name} without mix {needed}: add --mix {needed}, or leave them out")
        if self.mix == FIXED and not self.mix_weights:
            raise UserError(
                "mix is 'fixed', but there are no weights: name them, as --mix-weights nli=2,qa=1"
            )
        self.weights()

    @property
    def buffer(self) -> int:
        """How many rows of a stream a batch is drawn from."""
        return self.shuffle_buffer or _BUFFER

    def stated_rows(self) -> dict[str, int]:
        """Return the rows of streams that do not say them.

        >>> TrainingOptions(rows={"nli": "550000"}).stated_rows()
        {'nli': 550000}
        """
        numbers = _numbers("rows", self.rows)
        for name, number in numbers.items():
            if number < 1 or not number.is_integer():
                raise UserError(f"rows of '{name}' is {number:g}: expected a whole number, 1 or more")
        return {name: int(number) for name, number in numbers.items()}

    def weights(self) -> dict[str, float]:
        """Return the weights of the data sets of a mixture.

        >>> TrainingOptions(mix_weights={"nli": "2", "qa": "0.5"}).weights()
        {'nli': 2.0, 'qa': 0.5}
        """
        return _numbers("mix_weights", self.mix_weights)

    def scores_between(self) -> tuple[float, float] | None:
        """Return the lowest and the highest score, if they are named.

        >>> TrainingOptions(score_range="0,5").scores_between()
        (0.0, 5.0)
        """
        if self.score_range is None:
            return None
        low, comma, high = self.score_range.partition(",")
        try:
            if comma:
                return float(low), float(high)
        except ValueError:
            pass
        raise UserError(f"score_range is '{self.score_range}': expected lowest,highest, as 0,5")

    @property
    def run_folder(self) -> Path:
        """Where the checkpoints of this output are kept while it is being trained."""
        return run_folder_of(Path(self.output))

    @property
    def teacher_folder(self) -> Path:
        """Where the teacher 'tuned' is kept while this output is being trained."""
        return self.run_folder / "teacher"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> TrainingOptions:
        """Build options from a mapping such as a YAML file.

        Raises
        ------
        UserError
            If a key is unknown or a value has the wrong type; `source` is named in the message.
        """
        return read_mapping(cls, values, source)


def run_folder_of(output: Path) -> Path:
    """Return the folder of the checkpoints of an output."""
    return output.with_name(f"{output.name}.checkpoints")


def _numbers(option: str, values: Mapping[str, str]) -> dict[str, float]:
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = float(value)
        except ValueError as error:
            raise UserError(f"{option} of '{name}' is '{value}': expected a number, as {name}=2") from error
    return numbers


@options
class TextOptions:
    """What `fit` and `rotate` ask for alike; each field's help says the default and when to change it."""

    model: Text = choice(
        "default", "Model to start from: a folder, a hub name, or 'default' (all-MiniLM-L6-v2)."
    )
    data: Texts = choice(
        [],
        "Texts like those to be embedded: text lines, JSONL, CSV, TSV, Parquet or a hub data set; every text "
        "column is read. Repeat for several.",
    )
    output: Text = choice("", "Folder that the elastic model is written to.")
    columns: Pairs = choice({}, "Names of the columns, if they are not recognized, as text=body.")
    limit: PositiveInt | None = choice(None, "Use only the first so many rows of every file.")
    texts: Annotated[int, Field(ge=2)] = choice(
        16384, "Texts that are drawn from the data. More than forty for each dim of the model gain little."
    )
    pooling: str | None = choice(None, "mean, cls or last: only for a plain transformers checkpoint.")
    max_length: Annotated[int, Field(ge=2)] = choice(128, "Tokens a text; longer texts are cut.")
    seed: int = choice(0, "Seed of the texts that are drawn.")
    overwrite: bool = choice(False, "Replace the output if it exists.")
    device: str | None = choice(None, "cpu, cuda, mps. Default: the best there is.")

    def check_ready(self) -> None:
        """Raise a `UserError` unless data and output are named, and the output may be written."""
        if not self.data:
            raise UserError("no texts to learn from: expected a file or hub data set, as --data texts.txt")
        if not self.output:
            raise UserError("no output: expected the folder to write the model to, as --output my-model")
        check_free(Path(self.output), overwrite=self.overwrite, inputs=(self.model, *self.data))


@options
class FitOptions(TextOptions):
    """Every choice of a fit; each field's help says the default and when to change it.

    Raises
    ------
    UserError
        If a number is out of range.

    Examples
    --------
    >>> FitOptions(data=["texts.txt"], output="my-model").texts
    16384
    """


@options
class DistillOptions(TextOptions):
    """Every choice of a distillation; each field's help says the default and when to change it.

    Raises
    ------
    UserError
        If a number is out of range.

    Examples
    --------
    >>> DistillOptions(data=["texts.txt"], output="my-model").layers
    3
    """

    texts: Annotated[int, Field(ge=2)] = choice(
        500_000,
        "Texts that are drawn from the data. A text that comes back teaches less than a new one: none does "
        "before all have come. Those that are not reached are not embedded. Lower it to save memory.",
    )
    layers: PositiveInt = choice(
        3, "Layers of the shallow tower: sizes of so many layers and fewer are its own. Fewer is faster."
    )
    steps: PositiveInt = choice(
        2000, "Steps of training, a few thousand tokens each. More is better, and less so each time."
    )
    minutes: Positive | None = choice(
        None,
        "Train for so many minutes, in place of a number of steps; the full size's work is part of them. "
        "What comes out depends on the machine.",
    )
    learning_rate: Positive = choice(5e-4, "Highest learning rate, after the warm-up.")
    batch_tokens: Annotated[int, Field(ge=2)] = choice(
        2048, "Tokens a step. Lower it where memory is short; longer batches need fewer steps."
    )
    resume: bool = choice(False, "Go on from the last checkpoint of the same output.")

    @property
    def run_folder(self) -> Path:
        """Where the checkpoint of this output is kept while it is being made."""
        return run_folder_of(Path(self.output))

    def check_ready(self) -> None:
        """Raise a `UserError` unless data and output are named, and the output may be written."""
        TextOptions.check_ready(self)
        check_nothing_unfinished(self.run_folder, resume=self.resume, overwrite=self.overwrite)
        if self.resume and not (self.run_folder / TOWER_CHECKPOINT).is_file():
            raise UserError(
                f"nothing to resume: no checkpoint in {self.run_folder}; start again without --resume"
            )


@options
class RotateOptions(TextOptions):
    """Every choice of a rotation; each field's help says the default and when to change it.

    Raises
    ------
    UserError
        If a number is out of range, or the sizes are no sizes.

    Examples
    --------
    >>> RotateOptions(data=["texts.txt"], output="my-model", sizes="1-6x32,128").sizes
    '1-6x32,128'
    """

    sizes: str | None = choice(
        None,
        "Sizes to optimize for, as 1-6x32,128. Default: all of the model. Name those that you use where "
        "you know them.",
    )

    def __post_init__(self) -> None:
        if self.sizes is not None:
            parse_sizes(self.sizes)


@dataclass(frozen=True)
class Preset:
    """The choices of a run that depend on its strategy.

    Parameters
    ----------
    learning_rate
        Rate of the lowest layer.
    top_share
        Rate of the highest layer, as a share of that of the lowest.
    heads
        Whether inner exits get a linear head.
    fit_heads
        Whether the heads start at the map to the full size; see `matryoshka2d.training.fitting`.
    dropout
        Dropout while training; None leaves what the model has.
    rotate
        Whether the model is rotated at the end, which makes prefixes better; see
        `matryoshka2d.training.rotation`.
    teacher
        Who teaches beside the labels, where the strategy learns from a teacher; None for nobody.
    """

    learning_rate: float = 1e-4
    top_share: float = 1.0
    heads: bool = False
    fit_heads: bool = False
    dropout: float | None = None
    rotate: bool = False
    teacher: Text | None = None


PRESETS: dict[str, Preset] = {
    # Chosen on dev pairs: reproduction/results/dev-choice.md.
    "all-sizes": Preset(
        learning_rate=3e-4,
        top_share=0.1,
        heads=True,
        fit_heads=True,
        dropout=0.0,
        rotate=True,
        teacher="tuned",
    ),
    "full": Preset(learning_rate=2e-5),
    "mrl": Preset(learning_rate=2e-5),
}
"""Strategy → preset; the published 2D methods share the plain `Preset`."""


LORA_RATE = 2e-4
"""Rate of LoRA's adapters: they start at zero, and frozen weights cannot be forgotten."""


def preset_of(options: TrainingOptions) -> Preset:
    """Return the preset of a run's strategy; adapters take one high rate, at every depth.

    >>> preset_of(TrainingOptions(strategy="2dmse")) == Preset()
    True
    """
    preset = PRESETS.get(options.strategy, Preset())
    return replace(preset, learning_rate=LORA_RATE, top_share=1.0) if options.lora else preset
