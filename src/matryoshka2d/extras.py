"""Libraries that only some jobs need: asked for where the job starts, with the line that installs them."""

from __future__ import annotations

from importlib.util import find_spec

from matryoshka2d.errors import UserError


def needs(extra: str, *libraries: str) -> None:
    """Raise a `UserError` that names the extra to install, unless every library is there.

    Parameters
    ----------
    extra
        The extra of this package that brings the libraries.
    *libraries
        Their import names.

    Examples
    --------
    >>> needs("onnx", "json")
    >>> needs("openvino", "no_such_library")
    Traceback (most recent call last):
        ...
    matryoshka2d.errors.UserError: this needs no_such_library: pip install 'matryoshka2d[openvino]'
    """
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise UserError(f"this needs {' and '.join(missing)}: pip install 'matryoshka2d[{extra}]'")
