"""What the options of a run come down to: preset, names, rates and weights resolved once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matryoshka2d.encoder.precision import Precision, resolve_precision
from matryoshka2d.errors import UserError
from matryoshka2d.losses.objectives import Objective, make_objective
from matryoshka2d.losses.strategies import Strategy, make_strategy
from matryoshka2d.training.lora import Lora, make_lora
from matryoshka2d.training.model_settings import rates
from matryoshka2d.training.run_logs import trackers, what_lowers_memory
from matryoshka2d.training.teacher import check_translations
from matryoshka2d.training.training_options import TrainingOptions, preset_of


@dataclass(frozen=True)
class TrainingRun:
    """A run whose options were looked at once; what depends on model or data is decided when they are there.

    Parameters
    ----------
    options
        What the user asked for: data, output, sizes of batches, seed.
    objective
        The objective that is named; None where each data set gets what suits its form.
    strategy
        Which sizes a step trains.
    precision
        What the forward pass computes in, and why.
    heads, fit_heads
        Whether inner exits get a linear head, and whether it starts at the map to the full size.
    rotate
        Whether the space is rotated at the end where a rotation helps; see `rotation_is_asked`.
    rotation_is_asked
        Whether the user said so, and not the preset.
    dropout
        Dropout while training; None leaves what the model has.
    lowest_rate, highest_rate
        Learning rates of the first and of the last layer.
    lora
        The adapters, or None to train all weights.
    trackers
        Where losses are logged to.
    teacher
        Who teaches beside labels, where the strategy learns from a teacher; None for nobody.
    prompts
        Side → prompt that the model gets; sides that are not named keep the model's own.
    memory_advice
        What is said when memory runs out.
    """

    options: TrainingOptions
    objective: Objective | None
    strategy: Strategy
    precision: Precision
    heads: bool
    fit_heads: bool
    rotate: bool
    rotation_is_asked: bool
    dropout: float | None
    lowest_rate: float
    highest_rate: float
    lora: Lora | None
    trackers: tuple[str, ...]
    teacher: str | None
    prompts: Mapping[str, str]
    memory_advice: str


def resolve(options: TrainingOptions) -> TrainingRun:
    """Return the run of these options, before any model is loaded.

    Raises
    ------
    UserError
        If a name or an option of objective, strategy, LoRA, tracker or precision is wrong, or two options
        cannot go together.

    Examples
    --------
    >>> run = resolve(TrainingOptions(data=["pairs.jsonl"], output="out", precision="fp32"))
    >>> run.heads, run.lowest_rate, run.teacher
    (True, 0.0003, 'tuned')
    """
    check_translations(options)
    preset = preset_of(options)
    name = options.objective or ("distillation" if options.translations else None)
    objective = make_objective(name, **options.objective_options) if name else None
    reports = trackers(options.report_to)
    lora = make_lora(options.lora_options) if options.lora else None
    heads = preset.heads if options.heads is None else options.heads
    if options.fit_heads and not heads:
        raise UserError("fit_heads without heads: add --heads, or leave it out")
    strategy = make_strategy(options.strategy, **options.strategy_options)
    lowest, highest = rates(options)
    sides = {"query": options.query_prompt, "document": options.document_prompt}
    return TrainingRun(
        options,
        objective=objective,
        strategy=strategy,
        precision=resolve_precision(options.precision, options.device or "auto"),
        heads=heads,
        fit_heads=preset.fit_heads if options.fit_heads is None else options.fit_heads,
        rotate=preset.rotate if options.rotate is None else options.rotate,
        rotation_is_asked=options.rotate is not None,
        dropout=preset.dropout if options.dropout is None else options.dropout,
        lowest_rate=lowest,
        highest_rate=highest,
        lora=lora,
        trackers=tuple(reports),
        teacher=options.teacher or preset.teacher,
        prompts={side: prompt for side, prompt in sides.items() if prompt is not None},
        memory_advice=what_lowers_memory(options),
    )
