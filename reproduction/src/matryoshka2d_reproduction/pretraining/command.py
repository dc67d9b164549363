"""matryoshka2d pretrain: every field of PretrainingOptions is a flag; a YAML file may hold them."""

from __future__ import annotations

from matryoshka2d.cli.common import print_json, quiet_libraries
from matryoshka2d.cli.option_flags import command_of_choices
from matryoshka2d_reproduction.pretraining.options import PretrainingOptions


def _pretrain(options: PretrainingOptions, json: bool, quiet: bool) -> None:
    """Pretrain a model on plain texts, so that every listed size holds its sentence; then train it.

    Example: matryoshka2d pretrain --model M --data texts.txt --sizes "1x64 3x128 6x384" --output my-body
    """
    options.check_ready()
    quiet_libraries()
    from matryoshka2d_reproduction.pretraining import pretrain

    encoder = pretrain(options, quiet=quiet or json)
    summary = {"output": options.output, "full_size": str(encoder.size), "sizes": encoder.record["sizes"]}
    if json:
        print_json(summary)
    elif not quiet:
        print(
            f"Wrote {options.output}, pretrained at {' '.join(summary['sizes'])}. "
            f"Next: matryoshka2d train --model {options.output} --data pairs.jsonl --output my-model"
        )


pretrain_command = command_of_choices(PretrainingOptions, _pretrain)
