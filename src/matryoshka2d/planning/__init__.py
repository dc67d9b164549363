"""Choosing a size: a budget, measured quality and measured cost → a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matryoshka2d.lazy import lazy_names

if TYPE_CHECKING:
    from matryoshka2d.planning.budget import Budget as Budget
    from matryoshka2d.planning.planner import plan as plan
    from matryoshka2d.planning.result import Plan as Plan
else:
    # A command that needs one file of this room should not wait for the libraries of all.
    __getattr__, __all__ = lazy_names(__name__)
