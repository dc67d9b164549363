"""Embeds texts with other libraries, unchanged: run in their own environment by test_clients.py.

    python other_clients.py URL MODEL TEXT [TEXT …]

What is printed last is one line of JSON: library → vectors.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

Vectors = list[list[float]]


def langchain(url: str, model: str, texts: list[str]) -> Vectors:
    """LangChain, told to send texts: it would send token ids of another vocabulary."""
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(model=model, base_url=url, api_key="none", check_embedding_ctx_length=False)
    return embeddings.embed_documents(texts)


def litellm(url: str, model: str, texts: list[str]) -> Vectors:
    """LiteLLM, with the size in the model's name."""
    import litellm

    made = litellm.embedding(model=f"openai/{model}", api_base=url, api_key="none", input=texts)
    return [one["embedding"] for one in made.data]


def llamaindex(url: str, model: str, texts: list[str]) -> Vectors:
    """LlamaIndex."""
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embedding = OpenAILikeEmbedding(model_name=model, api_base=url, api_key="none")
    return embedding.get_text_embedding_batch(texts)


LIBRARIES: dict[str, Callable[[str, str, list[str]], Vectors]] = {
    "langchain": langchain,
    "litellm": litellm,
    "llamaindex": llamaindex,
}

if __name__ == "__main__":
    url, model, *texts = sys.argv[1:]
    print(json.dumps({name: embed(url, model, texts) for name, embed in LIBRARIES.items()}))
