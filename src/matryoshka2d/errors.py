"""The one kind of error that a user can cause, and how it is worded.

Every message is a single line that says what was wrong, what was expected and how to mend it.
The command line prints it without a traceback and exits with code 2.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec


class UserError(ValueError):
    """A mistake that the caller can mend: a wrong path, a wrong value, a wrong file."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest of the known words, or nothing.

    >>> did_you_mean("2dsme", ["mrl", "2dmse"])
    " Did you mean '2dmse'?"
    >>> did_you_mean("zzz", ["mrl", "2dmse"])
    ''
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


@contextlib.contextmanager
def whole_texts(texts: Iterable[object]) -> Iterator[None]:
    """Say in one line which text a tokenizer cannot take, once it has failed.

    >>> with whole_texts(["a", "b\\ud83d"]):
    ...     "b\\ud83d".encode()
    Traceback (most recent call last):
    ...
    matryoshka2d.errors.UserError: the text 'b\\ud83d' holds half a surrogate pair: remove it
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        for text in texts:
            if text is None or isinstance(text, int | float | bytes):
                raise UserError(f"{text!r} is no text: expected texts alone") from error
            half = _half_pair(text) if isinstance(text, str) else None
            if half is not None:
                raise UserError(f"the text {half!r} holds half a surrogate pair: remove it") from error
        raise


def _half_pair(text: str) -> str | None:
    """Return the part of a text around half a surrogate pair, if it holds one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[max(0, error.start - 20) : error.start + 20]
    return None


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
