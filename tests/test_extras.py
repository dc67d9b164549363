"""What is not installed is named, with the line that installs it."""

from __future__ import annotations

import re

import pytest

from matryoshka2d.errors import UserError, needs


def test_what_is_there_is_not_spoken_of() -> None:
    needs("onnx", "json", "re")


def test_everything_missing_is_named_at_once() -> None:
    said = "this needs no_such_a and no_such_b: pip install 'matryoshka2d[onnx]'"
    with pytest.raises(UserError, match=re.escape(said)):
        needs("onnx", "json", "no_such_a", "no_such_b")
