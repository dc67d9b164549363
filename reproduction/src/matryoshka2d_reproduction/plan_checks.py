"""What a plan must be to be run: names that exist, kinds with what they need, no circles."""

from __future__ import annotations

from collections.abc import Iterable

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d_reproduction.plan import KEEPS, KINDS, TEACHERS, TRAINED_KINDS, VERDICTS, Method, Plan

_CUTS = ("pca", "random")


def check_plan(plan: Plan, source: str) -> None:
    """Raise a `UserError` that names what is wrong in a plan; `source` is named in messages."""
    for method in plan.methods.values():
        where = f"{source}: method {method.name}"
        _check_method(plan, method, where)
    for name in [name for pair in plan.compare for name in pair]:
        _member(name, plan.methods, f"{source}: compare", "method")
    for name in plan.pictures:
        _member(name, plan.methods, f"{source}: pictures", "method")
    for claim in plan.claims:
        for name in (claim.method, claim.other):
            _member(name, plan.methods, f"{source}: claim '{claim.text}'", "method")
        if not KEEPS.fullmatch(claim.verdict):
            _member(claim.verdict, VERDICTS, f"{source}: claim '{claim.text}'", "verdict")
    for name, backbone in plan.backbones.items():
        if backbone.distil:
            _member(str(backbone.distil.get("data")), plan.data, f"{source}: backbone {name}", "data")
            if not backbone.layers:
                raise UserError(f"{source}: backbone {name} is distilled but not pruned: name its layers")
    if not plan.sts and not plan.retrieval:
        raise UserError(f"{source}: nothing to evaluate on, expected sts or retrieval")
    _check_order(plan, source)


def _check_method(plan: Plan, method: Method, where: str) -> None:
    if method.name in TEACHERS:
        raise UserError(f"{where}: '{method.name}' is the name of a teacher, choose another")
    _member(method.kind, KINDS, where, "kind")
    for name in method.of:
        _member(name, plan.methods, where, "method")
    for name in method.backbones or ():
        _member(name, plan.backbones, where, "backbone")
    for name in method.data or ():
        _member(name, plan.data, where, "data")
    _check_kind(plan, method, where)
    _check_choice(method, where)
    if method.choose and not plan.dev_sts and not plan.dev_captions:
        raise UserError(f"{where} is chosen on dev, but the plan has no dev")
    for name in plan.references(method):
        if plan.methods[name].kind in ("separate", "cut"):
            raise UserError(f"{where} uses {name}, which has no model of its own that is whole")
    _check_options(plan, method, where)


def _check_choice(method: Method, where: str) -> None:
    for name, values in (method.choose.by_depth if method.choose else {}).items():
        if method.kind != "separate":
            raise UserError(f"{where}: {name} has values for each depth, which only separate models have")
        missing = sorted({size.layers for size in method.sizes} - set(values))
        if missing:
            raise UserError(f"{where}: choose has no {name} for {missing[0]} layers")


_NEEDS = {"cut": ("of", "cut"), "average": ("of",), "rotate": ("of",), "separate": ("sizes",)}
"""Kind → what it cannot be without."""


def _check_kind(plan: Plan, method: Method, where: str) -> None:
    needs = _NEEDS.get(method.kind, ())
    for need in needs:
        if not getattr(method, need):
            raise UserError(f"{where} is of kind {method.kind} and needs '{need}'")
    if method.kind == "cut":
        _member(method.cut, _CUTS, where, "cut")
    if method.kind in ("cut", "rotate") and len(method.of) != 1:
        raise UserError(f"{where} is of kind {method.kind} and is of one method, not {len(method.of)}")
    if method.weights and len(method.weights) != len(method.of):
        raise UserError(f"{where}: {len(method.weights)} weights for {len(method.of)} methods")
    if method.kind in (*TRAINED_KINDS, "fit", "rotate") and not plan.data:
        raise UserError(f"{where} learns from data, but the plan has none")
    if method.kind in ("untouched", "fit", "rotate") and method.options:
        raise UserError(f"{where} is of kind {method.kind} and takes no options")


def _check_options(plan: Plan, method: Method, where: str) -> None:
    from matryoshka2d.training.training_options import TrainingOptions

    for trial in method.choose.trials() if method.choose else [{}]:
        options = {**plan.defaults, **method.options, **trial}
        for reserved in ("output", "data", "seed", "limit", "overwrite", "resume", "push_to_hub"):
            if reserved in options:
                raise UserError(f"{where}: '{reserved}' is set by the plan, not by a method's options")
        TrainingOptions.from_mapping(options, where)


def _check_order(plan: Plan, source: str) -> None:
    """Say if methods wait for each other in a circle."""
    done: set[str] = set()
    while free := {
        name for name, m in plan.methods.items() if name not in done and done.issuperset(plan.references(m))
    }:
        done |= free
    waiting = sorted(set(plan.methods) - done)
    if waiting:
        raise UserError(f"{source}: methods {', '.join(waiting)} wait for each other in a circle")


def _member(name: str, known: Iterable[str], where: str, what: str) -> None:
    if name not in known:
        raise UserError(
            f"{where}: no {what} is called '{name}', expected one of {', '.join(known)}."
            f"{did_you_mean(name, known)}"
        )
