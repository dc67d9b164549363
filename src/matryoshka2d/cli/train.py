"""matryoshka2d train: every field of TrainingOptions is a flag; a YAML file may hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matryoshka2d.cli.common import print_json, quiet_libraries
from matryoshka2d.cli.option_flags import command_of_choices
from matryoshka2d.training.training_options import (
    DistillOptions,
    FitOptions,
    RotateOptions,
    TextOptions,
    TrainingOptions,
)

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder


def _train(options: TrainingOptions, json: bool, quiet: bool) -> None:
    """Train an elastic model: one set of weights, good at every depth and every width.

    Example: matryoshka2d train --model M --data pairs.jsonl --strategy all-sizes --output my-model --seed 0
    """
    options.check_ready()
    quiet_libraries()
    from matryoshka2d.training import train
    from matryoshka2d.training.distributed import is_first

    encoder = train(options, quiet=quiet or json)
    if not is_first():
        return
    summary = {"output": options.output, "full_size": str(encoder.size), "sizes": encoder.record["sizes"]}
    if json:
        print_json(summary)
    elif not quiet:
        print(
            f"Wrote {options.output}: full size {encoder.size}. Next: matryoshka2d evaluate {options.output}"
        )


train_command = command_of_choices(TrainingOptions, _train)


def _report(encoder: ElasticEncoder, options: TextOptions, made_by: str, *, json: bool, quiet: bool) -> None:
    """Print how close the exits of a model came to its full size."""
    cosines = encoder.record[made_by]["cosines"]
    if json:
        print_json({"output": options.output, "full_size": str(encoder.size), "cosines": cosines})
    elif not quiet:
        if cosines:
            print("Mean cosine to the full size, on texts left out:")
        for layers, (before, after) in cosines.items():
            print(f"  {layers} layer{'s' if layers != '1' else ' '}  {before:6.3f} -> {after:.3f}")
        print(f"Wrote {options.output}. Next: matryoshka2d evaluate {options.output} --sts STS")


def _fit(options: FitOptions, json: bool, quiet: bool) -> None:
    """Make a finished model elastic in a minute: no labels, no training, the full size as it was.

    Every inner layer gets the linear map that brings it nearest to the full size. Training gives more.

    Example: matryoshka2d fit --model default --data texts.txt --output my-model
    """
    options.check_ready()
    quiet_libraries()
    from matryoshka2d.training import fit

    _report(fit(options, quiet=quiet or json), options, "fit", json=json, quiet=quiet)


fit_command = command_of_choices(FitOptions, _fit)


def _distill(options: DistillOptions, json: bool, quiet: bool) -> None:
    """Give a finished model a shallow tower for its small sizes: no labels, the full size as it was.

    A copy of the first layers is trained to land on the full size's vectors. It takes minutes to hours. It
    is for search at few layers, where the linear maps of fit do not reach.

    Example: matryoshka2d distill --model default --data texts.txt --output my-model
    """
    options.check_ready()
    quiet_libraries()
    from matryoshka2d.training import distill

    _report(distill(options, quiet=quiet or json), options, "distill", json=json, quiet=quiet)


distill_command = command_of_choices(DistillOptions, _distill)


def _rotate(options: RotateOptions, json: bool, quiet: bool) -> None:
    """Make the narrow sizes of a finished model better in a minute or two: no labels, no training.

    The space is rotated so that the first dims carry most. At full width no cosine changes, at any depth; but
    vectors made before do not go with those made after.

    Example: matryoshka2d rotate --model my-model --data texts.txt --output rotated-model
    """
    options.check_ready()
    quiet_libraries()
    from matryoshka2d.training import rotate

    encoder = rotate(options, quiet=quiet or json)
    recall = encoder.record["rotation"]["recall"]
    if json:
        print_json({"output": options.output, "full_size": str(encoder.size), "recall": recall})
    elif not quiet:
        if recall:
            print("How many of a text's nearest at full size are nearest here too, among texts left out:")
        for dims, (before, after) in recall.items():
            print(f"  {dims:>4} dims  {before:6.1%} -> {after:.1%}")
        print(f"Wrote {options.output}. Next: matryoshka2d evaluate {options.output} --sts STS")


rotate_command = command_of_choices(RotateOptions, _rotate)
