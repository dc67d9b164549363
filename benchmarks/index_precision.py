"""Quality of the default model when an index keeps its vectors as float32, int8 or bits, at some sizes.

Run: python benchmarks/index_precision.py --sts STS/stsb.tsv --retrieval BEIR/scifact --documents 1000

Of the retrieval set the relevant documents are taken, and others evenly up to the number asked for. Texts are
encoded once, in bf16.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matryoshka2d.encoder.default_model import default_model_path
from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.evaluation import RetrievalSet, read_retrieval, read_sts
from matryoshka2d.evaluation.quality import retrieval_quality, sts_quality
from matryoshka2d.inference.engine_exits import open_exits

_PRECISIONS = ("float32", "int8", "binary")


class Encoded:
    """A model's exits of some texts, encoded once.

    Parameters
    ----------
    texts
        All texts that will be asked for.
    layers
        The exits.
    """

    def __init__(self, texts: Iterable[str], layers: Sequence[int]) -> None:
        exits = open_exits(ElasticEncoder(default_model_path(), device="cpu"), "bf16")
        self.depth, self.width, self.sizes = exits.depth, exits.width, exits.sizes
        self._rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self._exits = exits.exits(list(self._rows), layers=layers)

    def exits(
        self, texts: Sequence[str], *, layers: Sequence[int] | None = None, **_: Any
    ) -> dict[int, NDArray[np.float32]]:
        """Return layer → vectors of the texts."""
        rows = [self._rows[text] for text in texts]
        return {layer: self._exits[layer][rows] for layer in layers or self._exits}


def some_documents(data: RetrievalSet, count: int) -> RetrievalSet:
    """Return the set with its relevant documents and evenly chosen others, so many in all."""
    relevant = {document for grades in data.relevance.values() for document in grades}
    others = [document for document in data.corpus if document not in relevant]
    step = max(1, len(others) // max(1, count - len(relevant)))
    kept = set([*relevant, *others[::step]][:count])
    corpus = {document: text for document, text in data.corpus.items() if document in kept}
    return RetrievalSet(data.name, corpus, data.queries, data.relevance)


def main() -> None:
    """Print one JSON object a set and precision: size → score x100."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sts", required=True)
    parser.add_argument("--retrieval", required=True)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--sizes", default="1,3,6x32,128,384")
    chosen = parser.parse_args()
    pairs = read_sts(chosen.sts)
    data = some_documents(read_retrieval(chosen.retrieval), chosen.documents)
    texts = [text for one in pairs for text in (*one.sentence1, *one.sentence2)]
    asking = [data.queries[query] for query in data.judged]
    model = Encoded([*texts, *asking, *data.corpus.values()], layers=(1, 3, 6))
    for precision in _PRECISIONS:
        asked: dict[str, Any] = {"sizes": chosen.sizes, "precision": precision, "resamples": 2}
        for found in (sts_quality(model, pairs, **asked), retrieval_quality(model, [data], **asked)):
            scores = {str(size): round(score, 3) for size, score in found.grid.values().items()}
            print(json.dumps({"set": found.grid.sets[0], "precision": precision, "scores": scores}))


if __name__ == "__main__":
    main()
