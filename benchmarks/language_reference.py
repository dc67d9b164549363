"""Text that every Python has: the sentences of the language reference."""

from __future__ import annotations

import pydoc_data.topics
import re


def sentences() -> list[str]:
    """Return some thousand distinct sentences of 4 to 60 words."""
    blocks = (
        " ".join(block.split())
        for text in pydoc_data.topics.topics.values()
        for block in re.split(r"\n\s*\n", text)
        if "::=" not in block and ">>>" not in block
    )
    parts = (part for block in blocks for part in re.split(r"(?<=[.:?]) (?=[A-Z])", block))
    return list(dict.fromkeys(part for part in parts if 4 <= len(part.split()) <= 60))
