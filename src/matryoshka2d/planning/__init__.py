"""Choosing a size: a budget, measured quality and measured cost → a plan."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matryoshka2d.planning.budget import Budget
    from matryoshka2d.planning.planner import plan
    from matryoshka2d.planning.result import Plan

_HOMES = {
    "budget": ("Budget",),
    "planner": ("plan",),
    "result": ("Plan",),
}

__all__ = ["Budget", "Plan", "plan"]


def __getattr__(name: str) -> Any:
    # A command that needs one file of this room should not wait for the libraries of all.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
