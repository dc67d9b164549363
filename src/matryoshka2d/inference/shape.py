"""What a loaded model offers."""

from __future__ import annotations

from dataclasses import dataclass

from matryoshka2d.size import Size


@dataclass(frozen=True)
class Shape:
    """What a model offers: its depth, its width, the sizes it shows and the one it gives by default."""

    depth: int
    width: int
    size: Size
    sizes: tuple[Size, ...]
