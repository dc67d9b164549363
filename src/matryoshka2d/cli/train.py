"""matryoshka2d train: every field of TrainingOptions is a flag; a YAML file may hold them."""

from __future__ import annotations

from matryoshka2d.cli.choices import command_of_choices
from matryoshka2d.cli.common import print_json, quiet_libraries
from matryoshka2d.training.options import TrainingOptions


def _train(options: TrainingOptions, json: bool, quiet: bool) -> None:
    """Train an elastic model: one set of weights, good at every depth and every width.

    Example: matryoshka2d train --model M --data pairs.jsonl --strategy all-sizes --output my-model --seed 0
    """
    options.check_ready()
    quiet_libraries()
    from matryoshka2d.training import ranks, train

    encoder = train(options, quiet=quiet or json)
    if not ranks.is_first():
        return
    summary = {"output": options.output, "full_size": str(encoder.size), "sizes": encoder.record["sizes"]}
    if json:
        print_json(summary)
    elif not quiet:
        print(
            f"Wrote {options.output}: full size {encoder.size}. Next: matryoshka2d evaluate {options.output}"
        )


train_command = command_of_choices(TrainingOptions, _train)
