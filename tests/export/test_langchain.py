"""LangChain's stock wrapper takes an exported folder."""

from __future__ import annotations

import numpy as np
from langchain_huggingface import HuggingFaceEmbeddings

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.export.exporter import Export
from tests import tiny


def test_documents_and_queries(exports: dict[str, Export], elastic: ElasticEncoder) -> None:
    folder = str(exports["sentence-transformers"].folder)
    query = elastic.prompts["query"]
    embeddings = HuggingFaceEmbeddings(
        model_name=folder, model_kwargs={"device": "cpu"}, query_encode_kwargs={"prompt": query}
    )
    found = np.array(embeddings.embed_documents(tiny.TEXTS))
    np.testing.assert_allclose(found, elastic.encode(tiny.TEXTS, size="2x8"), atol=1e-5)
    asked = elastic.encode([tiny.TEXTS[0]], size="2x8", prompt=query)[0]
    np.testing.assert_allclose(embeddings.embed_query(tiny.TEXTS[0]), asked, atol=1e-5)
