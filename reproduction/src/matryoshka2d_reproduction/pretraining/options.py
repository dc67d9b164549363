"""The choices of a pretraining run: one documented field each, for Python, YAML and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from matryoshka2d import UserError
from matryoshka2d.files import check_free, remove_abandoned
from matryoshka2d.options import NotNegative, Pairs, Text, Texts, choice, options
from matryoshka2d.size import parse_sizes
from matryoshka2d.training import check_nothing_unfinished

_LEAST_SHARE = 0.01


@options
class PretrainingOptions:
    """Every choice of a pretraining run; each field's help says the default and when to change it.

    Raises
    ------
    UserError
        If a number is out of range, or a size cannot be read.

    Examples
    --------
    >>> options = PretrainingOptions(data=["texts.txt"], output="body", sizes="2x64 1x32")
    >>> options.sizes, options.batch_size
    ('1x32 2x64', 32)
    """

    model: Text = choice(
        "default", "Model to start from: a folder, a hub name, or 'default' (all-MiniLM-L6-v2)."
    )
    data: Texts = choice(
        [],
        "Texts: text lines, JSONL, CSV, TSV, Parquet or a hub data set; every text column is read. Repeat "
        "for several.",
    )
    output: Text = choice("", "Folder that the pretrained model is written to.")
    sizes: str | None = choice(
        None,
        "Sizes that learn to hold the sentence, as '1x32 2x64'. Default: up to six evenly spaced depths, the "
        "deepest at full width and each shallower one at the next smaller power of two.",
    )
    columns: Pairs = choice({}, "Names of the columns, if they are not recognized, as text=body.")
    limit: PositiveInt | None = choice(None, "Use only the first so many rows of every file.")
    pooling: str | None = choice(None, "mean, cls or last: only for a plain transformers checkpoint.")
    mask: Annotated[float, Field(ge=_LEAST_SHARE, le=0.99)] = choice(
        0.3, "Share of the tokens that the encoder does not see. Lower it, to 0.15, for very short texts."
    )
    decoder_mask: Annotated[float, Field(ge=_LEAST_SHARE, le=1)] = choice(
        0.5,
        "Share of the tokens that the decoder does not see. With more it depends on the vector more.",
    )
    predictions: PositiveInt = choice(
        512,
        "Most masked tokens that a step predicts at every size, of each kind; drawn at random where there "
        "are more. Lower it where time or memory is short.",
    )
    epochs: NotNegative = choice(1.0, "Passes over the texts.")
    batch_size: PositiveInt = choice(32, "Texts a step.")
    learning_rate: NotNegative = choice(1e-4, "Highest rate. Lower it to keep more of what the model knows.")
    warmup: Annotated[float, Field(ge=0, le=1)] = choice(
        0.05, "Share of the steps over which the rate rises."
    )
    weight_decay: NotNegative = choice(0.01, "Weight decay of AdamW.")
    max_length: Annotated[int, Field(ge=3)] = choice(128, "Tokens a text; longer texts are cut.")
    dropout: Annotated[float, Field(ge=0, le=0.99)] | None = choice(
        None, "Dropout while training. Default: what the model's config says."
    )
    gradient_accumulation: PositiveInt = choice(
        1, "Steps whose gradients are added up before the weights move."
    )
    precision: str = choice(
        "auto", "auto, bf16, fp16 or fp32; auto is bf16 where the processor has units for it."
    )
    seed: int = choice(0, "Seed of everything: order, masks, dropout, new weights.")
    saves: PositiveInt = choice(4, "How often a run saves a checkpoint.")
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

    def __post_init__(self) -> None:
        if self.sizes is not None:
            object.__setattr__(self, "sizes", " ".join(map(str, parse_sizes(self.sizes))))

    def check_ready(self) -> None:
        """Raise a `UserError` unless data and output are named, and the output may be written."""
        if not self.data:
            raise UserError("no texts to learn from: expected a file or hub data set, as --data texts.txt")
        if not self.output:
            raise UserError("no output: expected the folder to write the model to, as --output my-body")
        # A kill may have come when the run was done, and its checkpoints were being removed.
        remove_abandoned(self.run_folder)
        check_free(Path(self.output), overwrite=self.overwrite, inputs=(self.model, *self.data))
        check_nothing_unfinished(self.run_folder, resume=self.resume, overwrite=self.overwrite)

    @property
    def run_folder(self) -> Path:
        """Where the checkpoints of this output are kept while it is being trained."""
        output = Path(self.output)
        return output.with_name(f"{output.name}.checkpoints")
