"""Search with any size: an index whose first stage compares a prefix, over several stores.

`open_index` is the way in; `index_documents` makes an index, `recut` gives it another width, `tune` finds how
to search it.
"""

from __future__ import annotations

from matryoshka2d.search.building import delete_documents, index_documents
from matryoshka2d.search.documents import Document
from matryoshka2d.search.index import Answer, Hit, Index, open_index
from matryoshka2d.search.recutting import recut
from matryoshka2d.search.tuning import tune

__all__ = [
    "Answer",
    "Document",
    "Hit",
    "Index",
    "delete_documents",
    "index_documents",
    "open_index",
    "recut",
    "tune",
]
