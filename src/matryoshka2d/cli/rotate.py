"""matryoshka2d rotate: every field of RotateOptions is a flag; a YAML file may hold them."""

from __future__ import annotations

from matryoshka2d.cli.choices import command_of_choices
from matryoshka2d.cli.common import print_json, quiet_libraries
from matryoshka2d.training.text_options import RotateOptions


def _rotate(options: RotateOptions, json: bool, quiet: bool) -> None:
    """Make the narrow sizes of a finished model better in a minute or two: no labels, no training.

    The space is turned so that the first dims say most. At full width no cosine changes, at any depth; but
    vectors made before do not go with those made after.

    Example: matryoshka2d rotate --model my-model --data texts.txt --output turned-model
    """
    options.check_ready()
    quiet_libraries()
    from matryoshka2d.training.rotating import rotate

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
