"""Objectives: the vectors of a batch, and its labels, → a scalar loss.

>>> objective = make_objective("infonce", scale=50)
>>> objective
InfoNCE(scale=50.0)
>>> default_objective("scored-pairs")
'cosent'
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from matryoshka2d.errors import UserError, did_you_mean
from matryoshka2d.losses.objectives.angle import AnglE
from matryoshka2d.losses.objectives.base import Columns, DataFormat, Objective
from matryoshka2d.losses.objectives.cosent import CoSENT
from matryoshka2d.losses.objectives.distillation import Distillation
from matryoshka2d.losses.objectives.infonce import InfoNCE
from matryoshka2d.options import Description, Option, describe_registry, make

__all__ = [
    "OBJECTIVES",
    "AnglE",
    "CoSENT",
    "Columns",
    "DataFormat",
    "Description",
    "Distillation",
    "InfoNCE",
    "Objective",
    "Option",
    "default_objective",
    "describe",
    "make_objective",
]

OBJECTIVES: MappingProxyType[str, type[Objective]] = MappingProxyType(
    {"angle": AnglE, "cosent": CoSENT, "infonce": InfoNCE, "distillation": Distillation}
)
"""Name → class of every objective."""

_DEFAULTS = {
    DataFormat.SCORED_PAIRS: "cosent",
    DataFormat.POSITIVE_PAIRS: "infonce",
    DataFormat.TRIPLETS: "infonce",
    DataFormat.TEXT: "distillation",
}


def make_objective(name: str, /, **options: Any) -> Objective:
    """Make an objective by name.

    Parameters
    ----------
    name
        A key of `OBJECTIVES`: angle, cosent, infonce or distillation.
    **options
        Fields of its class; texts are parsed to the type of the field.

    Raises
    ------
    UserError
        If the name, an option or the value of an option is not known.

    Examples
    --------
    >>> make_objective("angle", ibn_weight="1", cosine_weight=1).ibn_weight
    1.0
    """
    return make("objective", OBJECTIVES, name, options)


def default_objective(data_format: DataFormat | str) -> str:
    """Return the name of the objective that suits a form of data, unless the user names another.

    Raises
    ------
    UserError
        If the form is not one of `DataFormat`.

    Examples
    --------
    >>> default_objective(DataFormat.TEXT)
    'distillation'
    """
    known = [form.value for form in DataFormat]
    if data_format not in known:
        hint = did_you_mean(str(data_format), known)
        raise UserError(
            f"no data format is called '{data_format}': expected one of {', '.join(known)}.{hint}"
        )
    return _DEFAULTS[DataFormat(data_format)]


def describe() -> tuple[Description, ...]:
    """Return the one-line summary and the options of every objective, for docs and command lines.

    >>> [description.name for description in describe()]
    ['angle', 'cosent', 'infonce', 'distillation']
    """
    return describe_registry(OBJECTIVES)
