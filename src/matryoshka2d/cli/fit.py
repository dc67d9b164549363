"""matryoshka2d fit: every field of FitOptions is a flag; a YAML file may hold them."""

from __future__ import annotations

from matryoshka2d.cli.choices import command_of_choices
from matryoshka2d.cli.common import print_json, quiet_libraries
from matryoshka2d.training.text_options import FitOptions


def _fit(options: FitOptions, json: bool, quiet: bool) -> None:
    """Make a finished model elastic in a minute: no labels, no training, the full size as it was.

    Every inner layer gets the linear map that brings it nearest to the full size. Training gives more.

    Example: matryoshka2d fit --model default --data texts.txt --output my-model
    """
    options.check_ready()
    quiet_libraries()
    from matryoshka2d.training.fitting import fit

    encoder = fit(options, quiet=quiet or json)
    nearness = encoder.record["fit"]["nearness"]
    summary = {"output": options.output, "full_size": str(encoder.size), "nearness": nearness}
    if json:
        print_json(summary)
    elif not quiet:
        if nearness:
            print("Mean cosine to the full size, on texts left out of the fit:")
        for layers, (before, after) in nearness.items():
            print(f"  {layers} layer{'s' if layers != '1' else ' '}  {before:6.3f} -> {after:.3f}")
        print(f"Wrote {options.output}. Next: matryoshka2d evaluate {options.output} --sts STS")


fit_command = command_of_choices(FitOptions, _fit)
