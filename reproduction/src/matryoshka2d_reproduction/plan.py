"""A plan: methods x seeds x backbones x data as a table, read from YAML with one line for every mistake."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matryoshka2d import Size, TrainingOptions, UserError
from matryoshka2d.errors import did_you_mean
from matryoshka2d.files import read_yaml
from matryoshka2d.size import parse_numbers, parse_sizes

KINDS = ("train", "untouched", "fit", "separate", "sentence-transformers", "rotate", "cut", "average")
"""How a method makes its models; see `Method.kind`."""

TRAINED_KINDS = ("train", "separate", "sentence-transformers")
"""Kinds of methods that train, with the plan's defaults."""

TEACHERS = ("self", "original", "tuned")
"""Teachers that `TrainingOptions` knows by itself: no method may take their names."""

PRECISIONS = ("fp32", "bf16")
"""What models may be measured in."""


@dataclass(frozen=True)
class Data:
    """Training data.

    Parameters
    ----------
    files
        Paths inside the data folder; several are mixed.
    limit
        Use only the first so many rows of every file.
    columns
        Names of columns that are not recognized, as in `TrainingOptions`.
    format
        ``triplets``, ``pairs``, ``scored`` or ``texts``: what a dry run makes up in place of the files.
    """

    files: tuple[str, ...]
    limit: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str = "triplets"


@dataclass(frozen=True)
class Backbone:
    """A model that methods start from.

    Parameters
    ----------
    model
        A folder, a hub name, or ``default`` (all-MiniLM-L6-v2).
    pooling
        ``mean``, ``cls`` or ``last``, for a plain transformers checkpoint.
    layers
        Keep only these layers of the model, counted from 1: a pruned backbone, worse than the model until
        it is taught again.
    distill
        Training options with which a pruned backbone first learns from the whole model, text only; the key
        ``data`` names data of the plan.
    """

    model: str = "default"
    pooling: str | None = None
    layers: tuple[int, ...] = ()
    distill: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """Options that are chosen on dev before the test runs.

    Parameters
    ----------
    options
        Option → the values that are tried, all combinations.
    limit
        Rows of every file that a trial trains on; those of the data by default.
    seed
        Seed of the trials. One: a choice, not a result.
    sizes
        Sizes whose mean on dev decides; all sizes of the plan by default. Name the full size for a method
        that is made for it alone. A separate model is always judged at its own size.
    by_depth
        Of a separate method: option → layers → the values tried at this depth, for options whose values are
        not the same at every depth. `options` then has all of them.
    """

    options: Mapping[str, tuple[Any, ...]]
    limit: int | None = None
    seed: int = 0
    sizes: str = ""
    by_depth: Mapping[str, Mapping[int, tuple[Any, ...]]] = field(default_factory=dict)

    def trials(self, size: Size | None = None) -> list[dict[str, Any]]:
        """Return every combination of values that is tried; for a separate model, at its depth.

        >>> Choice({"learning_rate": (1e-4, 3e-4)}).trials()
        [{'learning_rate': 0.0001}, {'learning_rate': 0.0003}]
        """
        values = {
            name: self.by_depth[name][size.layers] if size and name in self.by_depth else all_values
            for name, all_values in self.options.items()
        }
        return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Parameters
    ----------
    name
        How it is shown and named elsewhere in the plan.
    kind
        ``train`` (any `TrainingOptions`), ``untouched`` (the backbone as it is), ``fit`` (the backbone with
        fitted heads and no training), ``separate`` (the backbone cut to n layers and trained at d dims, for
        each of `sizes`), ``sentence-transformers`` (its Matryoshka2dLoss in its own trainer), ``rotate``
        (another method's model with its space rotated, by texts of the data), ``cut`` (a PCA or random cut of
        another method's model) or ``average`` (the weights of other methods' models averaged).
    options
        Fields of `TrainingOptions`. ``model`` and ``teacher`` may name a method: its model with the same
        seed, trained first.
    sizes
        Of a separate method: the sizes, each a model of its own.
    of
        Of a rotation, a cut or an average: the methods whose models are used.
    cut
        Of a cut: ``pca``, fitted on training texts, or ``random``.
    weights
        Of an average: one weight for each method in `of`; equal by default.
    loss_options
        Of sentence-transformers: arguments of its Matryoshka2dLoss.
    seeds, backbones, data
        Restrict the method to some of the plan's; all by default. An untouched model has no seed.
    choose
        What is chosen on dev first.
    note
        A sentence for the report.
    """

    name: str
    kind: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[Size, ...] = ()
    of: tuple[str, ...] = ()
    cut: str = ""
    weights: tuple[float, ...] = ()
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    backbones: tuple[str, ...] | None = None
    data: tuple[str, ...] | None = None
    choose: Choice | None = None
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A sentence that the results confirm or do not.

    Parameters
    ----------
    text
        The claim, in one sentence.
    method, other
        Who is said to lead, over whom.
    sizes
        Where; every size that both have by default.
    verdict
        ``better``, ``at least as good`` or ``worse``: what must hold at each of these sizes; with ``mean``
        before it, of the mean over them: ``mean better``. Or ``keeps 97``: each of these sizes scores at
        least 97% of what the other scores at its full size.
    task
        Which task it is about; ``sts`` by default.
    """

    text: str
    method: str
    other: str
    sizes: str = ""
    verdict: str = "at least as good"
    task: str = "sts"


KEEPS = re.compile(r"keeps (\d+(?:\.\d+)?)")
VERDICTS = tuple(
    f"{scope}{verdict}" for scope in ("", "mean ") for verdict in ("at least as good", "better", "worse")
)


@dataclass(frozen=True)
class Plan:
    """Everything that `matryoshka2d-reproduce run` runs.

    Parameters
    ----------
    name
        The name of the file without its suffix, and of the folder of its results.
    title, note
        Shown on top of the report.
    sizes
        The sizes that every method is judged at.
    seeds
        Seeds of training.
    backbones, data, methods
        By name.
    sts, retrieval
        Test sets: STS folders or files, and retrieval sets, as paths inside the data folder.
    dev_sts, dev_captions
        Where dev sets are made from: the folder of STS files, and a file of grouped captions.
    precision
        What models are measured in: fp32, or bf16, which is several times as fast on a CPU with runs for
        it and moves scores by hundredths of a point. Training has a precision of its own.
    defaults
        Training options of all methods.
    compare
        Pairs of methods: the lead of the first over the second.
    claims
        What the results confirm or do not.
    reported
        Figures of a paper, shown as reported and never as measured: title → name → figure.
    pictures
        Methods that heatmaps and curves show; by default all. Methods that lack sizes of the plan are in no
        picture.
    """

    name: str
    title: str
    sizes: tuple[Size, ...]
    seeds: tuple[int, ...]
    backbones: Mapping[str, Backbone]
    data: Mapping[str, Data]
    methods: Mapping[str, Method]
    sts: tuple[str, ...] = ()
    retrieval: tuple[str, ...] = ()
    dev_sts: str = ""
    dev_captions: str = ""
    precision: str = "fp32"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    compare: tuple[tuple[str, str], ...] = ()
    claims: tuple[Claim, ...] = ()
    reported: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    note: str = ""

    def references(self, method: Method) -> tuple[str, ...]:
        """Return the methods whose models this one needs, in the order in which they are named."""
        options = {**self.defaults, **method.options} if method.kind in TRAINED_KINDS else {}
        named = [options.get(key) for key in ("model", "teacher")]
        return tuple(dict.fromkeys([*(str(n) for n in named if n in self.methods), *method.of]))


# --- reading --------------------------------------------------------------------------------------------


_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def read_plan(path: str | Path) -> Plan:
    """Read a plan from a YAML file.

    Raises
    ------
    UserError
        One line that names what is unknown, missing or of the wrong form.
    """
    file = Path(path)
    content = read_yaml(file, "plan", "a YAML file such as plans/tier1.yaml")
    return plan_of(content, file.stem, str(file))


def plan_of(content: Any, name: str, source: str) -> Plan:
    """Make a plan of what a YAML file holds; `source` is named in messages."""
    table = _table(content, source, "plan")
    known = {f.name for f in dataclasses.fields(Plan)} - {"name", "dev_sts", "dev_captions"}
    _known(table, known | {"dev"}, f"{source}: plan")
    for key in ("sizes", "methods"):
        if not table.get(key):
            raise UserError(f"{source}: the plan has no {key}")
    dev = _table(table.get("dev") or {}, source, "dev")
    _known(dev, {"sts", "captions"}, f"{source}: dev")
    plan = Plan(
        name=name,
        title=str(table.get("title") or name),
        note=str(table.get("note") or "").strip(),
        sizes=parse_sizes(_words(table["sizes"])),
        seeds=_seeds(table.get("seeds", [0]), f"{source}: seeds"),
        backbones=_each(table.get("backbones") or {"default": {}}, source, "backbones", _backbone),
        data=_each(table.get("data") or {}, source, "data", _data),
        methods=_each(table["methods"], source, "methods", _method),
        sts=_strings(table.get("sts")),
        retrieval=_strings(table.get("retrieval")),
        dev_sts=str(dev.get("sts") or ""),
        dev_captions=str(dev.get("captions") or ""),
        precision=_precision(table.get("precision", "fp32"), source),
        defaults={
            key: _number(value)
            for key, value in _table(table.get("defaults") or {}, source, "defaults").items()
        },
        compare=tuple(_pair(pair, source) for pair in table.get("compare") or []),
        claims=tuple(_claim(claim, source) for claim in table.get("claims") or []),
        reported=_table(table.get("reported") or {}, source, "reported"),
        pictures=_strings(table.get("pictures")),
    )
    check_plan(plan, source)
    return plan


def _precision(value: Any, source: str) -> str:
    if value not in PRECISIONS:
        raise UserError(f"{source}: precision {value}: expected one of {', '.join(PRECISIONS)}")
    return str(value)


def _backbone(_: str, values: dict[str, Any], where: str) -> Backbone:
    _fields(Backbone, values, where)
    layers = tuple(int(n) for n in values.pop("layers", None) or ())
    return Backbone(**values, layers=layers)


def _data(_: str, values: dict[str, Any], where: str) -> Data:
    _fields(Data, values, where)
    files = _strings(values.pop("files", None))
    if not files:
        raise UserError(f"{where} has no files: expected paths inside the data folder")
    return Data(files, **values)


def _method(name: str, values: dict[str, Any], where: str) -> Method:
    """Split a row into what the harness reads and the training options, which may stand beside it."""
    own = {f.name for f in dataclasses.fields(Method)} - {"name", "options"}
    given = {key: values.pop(key) for key in list(values) if key in own}
    named = {**_table(values.pop("options", None) or {}, where, "options"), **values}
    options = {key: _number(value) for key, value in named.items()}
    if "sizes" in given:
        given["sizes"] = parse_sizes(_words(given["sizes"]))
    if "seeds" in given:
        given["seeds"] = _seeds(given["seeds"], where)
    for key in ("of", "backbones", "data"):
        if key in given:
            given[key] = _strings(given[key])
    if "weights" in given:
        given["weights"] = tuple(float(weight) for weight in given["weights"])
    if "choose" in given:
        given["choose"] = _choice(_table(given["choose"], where, "choose"), where)
    return Method(name, options=options, **given)


def _number(value: Any) -> Any:
    """Return a number that YAML reads as text, such as 3e-4, as the number that it is.

    >>> _number("3e-4"), _number("2dmse")
    (0.0003, '2dmse')
    """
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value


def _choice(values: dict[str, Any], where: str) -> Choice:
    fixed = {key: values.pop(key) for key in ("limit", "seed", "sizes") if key in values}
    by_depth = {
        key: _by_depth(value, f"{where}: choose: {key}")
        for key, value in values.items()
        if isinstance(value, Mapping)
    }
    options = {
        key: tuple(dict.fromkeys(itertools.chain(*by_depth[key].values())))
        if key in by_depth
        else _values(value)
        for key, value in values.items()
    }
    if not options:
        raise UserError(f"{where}: choose names no option, expected such as learning_rate: [1e-4, 3e-4]")
    if "sizes" in fixed:
        fixed["sizes"] = _words(fixed["sizes"])
    return Choice(options, **fixed, by_depth=by_depth)


def _values(value: Any) -> tuple[Any, ...]:
    return tuple(map(_number, value if isinstance(value, list) else [value]))


def _by_depth(table: Mapping[Any, Any], where: str) -> dict[int, tuple[Any, ...]]:
    """Read values for some depths each, as ``{1-3: [3e-4, 1e-3], 4: 3e-4}``."""
    found: dict[int, tuple[Any, ...]] = {}
    for depths, value in table.items():
        for layers in parse_numbers(str(depths), f"{where}: {depths}"):
            if layers in found:
                raise UserError(f"{where} names {layers} layers twice")
            found[layers] = _values(value)
    return found


def _claim(values: Any, source: str) -> Claim:
    table = _table(values, source, "claim")
    _fields(Claim, table, f"{source}: claim")
    missing = [key for key in ("text", "method", "other") if not table.get(key)]
    if missing:
        raise UserError(f"{source}: a claim has no {missing[0]}")
    return Claim(**table)


def _pair(values: Any, source: str) -> tuple[str, str]:
    if not isinstance(values, list) or len(values) != 2:
        raise UserError(
            f"{source}: compare holds {values!r}, expected pairs of methods such as [ours, plain]"
        )
    return str(values[0]), str(values[1])


def _each(values: Any, source: str, what: str, make: Any) -> dict[str, Any]:
    table = _table(values, source, what)
    return {
        str(name): make(str(name), _table(row or {}, source, str(name)), f"{source}: {what}: {name}")
        for name, row in table.items()
    }


def _table(values: Any, source: str, what: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise UserError(f"{source}: {what} is {values!r}, expected names and values")
    return {str(key): value for key, value in values.items()}


def _fields(made: type[Any], values: Mapping[str, Any], where: str) -> None:
    _known(values, {f.name for f in dataclasses.fields(made)}, where)


def _known(values: Iterable[str], known: set[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise UserError(
                f"{where} has no '{key}': expected one of {', '.join(sorted(known))}."
                f"{did_you_mean(key, known)}"
            )


def _strings(values: Any) -> tuple[str, ...]:
    if values is None:
        return ()
    return tuple(str(value) for value in (values if isinstance(values, list) else [values]))


def _words(values: Any) -> str:
    return " ".join(str(value) for value in values) if isinstance(values, list) else str(values)


def _seeds(values: Any, where: str) -> tuple[int, ...]:
    given = values if isinstance(values, list) else [values]
    if not given or not all(isinstance(seed, int) for seed in given):
        raise UserError(f"{where} is {values!r}, expected whole numbers")
    return tuple(given)


# --- checks: names that exist, kinds with what they need, no circles ------------------------------------


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
        if backbone.distill:
            _member(str(backbone.distill.get("data")), plan.data, f"{source}: backbone {name}", "data")
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
    for trial in method.choose.trials() if method.choose else [{}]:
        options = {**plan.defaults, **method.options, **trial}
        for reserved in ("output", "data", "seed", "limit", "overwrite", "resume", "push_to_hub"):
            if reserved in options:
                raise UserError(f"{where}: '{reserved}' is set by the plan, not by a method's options")
        TrainingOptions.from_mapping(options, where)


def _check_order(plan: Plan, source: str) -> None:
    """Log if methods wait for each other in a circle."""
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
