"""The README of a pretrained model: what it is for, and the command that made it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from matryoshka2d import Size
from matryoshka2d.training import command_of
from matryoshka2d_reproduction.pretraining.options import PretrainingOptions

_CARD = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, matryoshka, matryoshka2d, feature-extraction]
---

# {name}

A body for sentence embeddings, to be fine-tuned before use. It was pretrained from `{model}` with
matryoshka2d {version} ({steps} steps of Starbucks' masked autoencoder), so that its sizes
(layers x dims) hold their sentence: {sizes}.

## Fine-tune

```bash
matryoshka2d train --model {name} --data triplets.jsonl --strategy starbucks --output my-model
```

## How it was made

```bash
{command}
```
"""


def write_model_card(folder: Path, sizes: Sequence[Size], options: PretrainingOptions, steps: int) -> None:
    """Write README.md into a model folder.

    Parameters
    ----------
    folder
        Where the model was saved.
    sizes
        The sizes that were pretrained.
    options
        The options of the run.
    steps
        How many steps were trained.
    """
    text = _CARD.format(
        name=Path(options.output).name,
        model=options.model,
        version=version("matryoshka2d"),
        steps=steps,
        sizes=" ".join(map(str, sizes)),
        command=command_of(options, "pretrain").replace("matryoshka2d", "matryoshka2d-reproduce", 1),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
