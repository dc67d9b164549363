"""The one kind of error that a user can cause, and how it is worded.

Every message is a single line that says what was wrong, what was expected and how to mend it.
The command line prints it without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
