"""``python -m matryoshka2d`` is the command ``matryoshka2d``."""

from __future__ import annotations

from matryoshka2d.cli import main

if __name__ == "__main__":
    main()
