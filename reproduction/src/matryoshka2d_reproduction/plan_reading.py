"""Reading a plan from YAML, with one line for whatever it says wrongly."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.files import read_yaml
from matryoshka2d.size import parse_numbers, parse_sizes
from matryoshka2d_reproduction.plan import PRECISIONS, Backbone, Choice, Claim, Data, Method, Plan
from matryoshka2d_reproduction.plan_checks import check_plan

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
