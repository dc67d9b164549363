"""Choosing a size: a budget, measured quality and measured cost → a plan."""

from __future__ import annotations

from matryoshka2d.planning.budget import Budget
from matryoshka2d.planning.planner import plan
from matryoshka2d.planning.result import Plan

__all__ = ["Budget", "Plan", "plan"]
