"""Every exit of a model from one pass through the torch engine: a grid in a fraction of the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.encoder.precision import check_precision, resolve_precision
from matryoshka2d.errors import UserError
from matryoshka2d.inference.engine import Vectors, load
from matryoshka2d.inference.request_batching import BatchingEngine, unit_rows
from matryoshka2d.inference.shape import Shape
from matryoshka2d.inference.tokens import Tokens
from matryoshka2d.inference.torch_engine import LayersRunner, PackedRunner, open_torch
from matryoshka2d.size import Size

# Texts between two steps of the progress bar: enough of every length to fill batches well.
_CHUNK = 2048

PRECISIONS = ("auto", "fp32", "int16", "bf16", "fp16")
"""What exits can be computed in."""


def exits_in(model: Any, precision: str, on_note: Callable[[str], None] | None = None) -> Any:
    """Return what an evaluation takes for a model: the model itself in fp32, else the torch engine with it.

    Parameters
    ----------
    model
        A loaded `ElasticEncoder` or SentenceTransformer. The engine runs the first kind alone, so that
        ``"auto"`` leaves the other in fp32.
    precision
        One of `PRECISIONS`.
    on_note
        Gets a sentence if the processor has no units for what was chosen.

    Raises
    ------
    UserError
        If the precision is unknown, or the model or the device does not have it.
    """
    check_precision(precision, PRECISIONS)
    elastic = isinstance(model, ElasticEncoder)
    if precision == "fp32" or (precision == "auto" and not elastic):
        return model
    if not elastic:
        raise UserError(
            "this model is measured in fp32 alone: its architecture is not in the table of layers; "
            "leave out --precision"
        )
    if precision not in ("auto", "int16"):
        chosen = resolve_precision(precision, str(model.device))
        if chosen.warning and on_note is not None:
            on_note(chosen.reason)
    return open_exits(model, precision)


def open_exits(encoder: ElasticEncoder, precision: str = "auto") -> EngineExits:
    """Put a loaded model into the torch engine, to measure it rather than to serve it.

    Parameters
    ----------
    encoder
        The model, on the device where it runs; it is not changed.
    precision
        One of `PRECISIONS`. ``"auto"``: bf16 where the processor has units for it, else int16 where it runs,
        else fp32.

    Raises
    ------
    UserError
        If the device does not have the precision.

    Examples
    --------
    >>> from matryoshka2d.encoder.default_model import default_model_path
    >>> exits = open_exits(ElasticEncoder(default_model_path(), device="cpu"), "fp32").exits(["a cat"])
    >>> sorted(exits), exits[3].shape
    ([1, 2, 3, 4, 5, 6], (1, 384))
    """
    return EngineExits(
        open_torch(load(encoder), precision), encoder.sizes, similarity=encoder.similarity_fn_name
    )


class EngineExits:
    """What an evaluation asks of a model, from an engine; see `matryoshka2d.evaluation.exits.Exits`.

    Parameters
    ----------
    engine
        A torch engine with the model.
    sizes
        The sizes to evaluate where none are named.
    similarity
        What the model's vectors are compared by, as sentence-transformers names it.
    """

    def __init__(self, engine: BatchingEngine, sizes: Sequence[Size], *, similarity: str = "cosine") -> None:
        self.prompts = dict(engine.tokenizer.prompts)
        self.default_prompt_name = engine.tokenizer.default_prompt_name
        self.similarity_fn_name = similarity
        self.depth, self.width, self.sizes = engine.depth, engine.width, tuple(sizes)
        self.precision = engine.precision
        # All exits of a text are one long vector to the batching.
        whole = Size(self.depth, self.depth * self.width)
        self._engine = BatchingEngine(
            _AllExits(engine.runner),  # type: ignore[arg-type]
            engine.tokenizer,
            Shape(self.depth, whole.dims, whole, (whole,)),
            threads=engine.threads,
        )

    def exits(
        self,
        texts: Sequence[str],
        *,
        layers: Sequence[int] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 64,  # noqa: ARG002 - evaluations give it to every model
        show_progress_bar: bool = False,
    ) -> dict[int, NDArray[np.float32]]:
        """Return layer → float32 [len(texts), width], rows of unit length, in the order of the texts.

        Parameters
        ----------
        texts, layers, prompt_name, prompt, show_progress_bar
            As in `ElasticEncoder.exits`.
        batch_size
            Not used: the engine fills its batches by tokens.
        """
        wanted = sorted(
            {Size(n, 1).check(self.depth, self.width).layers for n in layers or range(1, self.depth + 1)}
        )
        found = {n: np.empty((len(texts), self.width), dtype=np.float32) for n in wanted}
        size = Size(wanted[-1], wanted[-1] * self.width)
        with tqdm(total=len(texts), unit="text", disable=not show_progress_bar) as bar:
            for start in range(0, len(texts), _CHUNK):
                chunk = texts[start : start + _CHUNK]
                together = self._engine.embed(chunk, size, prompt_name=prompt_name, prompt=prompt)
                for n, rows in found.items():
                    own = together[:, (n - 1) * self.width : n * self.width]
                    rows[start : start + len(chunk)] = unit_rows(own)
                bar.update(len(chunk))
        return found


class _AllExits:
    """A torch runner that gives the first exits side by side, where the runner gives the last of them."""

    def __init__(self, runner: LayersRunner | PackedRunner) -> None:
        self._runner = runner
        self.name, self.precision, self.device = runner.name, runner.precision, runner.device
        self.budget, self.waste = runner.budget, runner.waste

    def run(self, tokens: Tokens, layers: int) -> Vectors:
        return self._runner.run_exits(tokens, layers)

    def memory(self) -> Mapping[int, int]:
        return self._runner.memory()
