"""What suits each strategy unless the user chooses otherwise: one row a strategy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from matryoshka2d.training.options import TrainingOptions


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
        Whether the heads start at the map to the full size; see `matryoshka2d.training.head_fit`.
    dropout
        Dropout while training; None leaves what the model has.
    rotate
        Whether the space is turned at the end, so that prefixes say more; see
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
    teacher: str | None = None


PRESETS: dict[str, Preset] = {
    # Chosen on dev pairs: results/dev-choice.md.
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
