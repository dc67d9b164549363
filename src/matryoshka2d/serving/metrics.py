"""What Prometheus reads of a server; every label has few values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics import MetricWrapperBase

M = TypeVar("M", bound=MetricWrapperBase)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class Metrics:
    """The figures of one server, in a registry of its own.

    Parameters
    ----------
    queue_tokens
        Returns the tokens that wait or run.
    model_bytes
        Name of a model → bytes of memory that its deepest size takes.
    """

    def __init__(self, queue_tokens: Callable[[], int], model_bytes: dict[str, int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._make(Counter, "requests", "Requests answered.", ["route", "status"])
        self.request_seconds = self._timed(
            "request_seconds", "From the head of a request to its answer.", ["route"]
        )
        self.queue_seconds = self._timed(
            "queue_seconds", "Until the first text of a request ran.", ["layers"]
        )
        self.tokenize_seconds = self._timed("tokenize_seconds", "Tokenizing the texts of a request.", [])
        self.embed_seconds = self._timed(
            "embed_seconds", "From the first text that ran to the last.", ["layers"]
        )
        self.search_seconds = self._timed("search_seconds", "A stage of a search of the index.", ["stage"])
        self.tokens = self._make(Counter, "tokens", "Tokens embedded.", ["layers"])
        self.batch_tokens = self._make(
            Histogram, "batch_tokens", "Tokens of a batch that ran.", [], buckets=_TOKENS
        )
        self.batch_texts = self._make(
            Histogram, "batch_texts", "Texts of a batch that ran.", [], buckets=_TEXTS
        )
        self.truncated = self._make(Counter, "truncated", "Texts that were cut at the model's limit.", [])
        self.rejected = self._make(
            Counter, "rejected", "Requests that were not served, by reason.", ["reason"]
        )
        self.abandoned = self._make(Counter, "abandoned", "Requests whose client went away.", [])
        queue = Gauge("matryoshka2d_queue_tokens", "Tokens that wait or run.", registry=self.registry)
        queue.set_function(queue_tokens)
        memory = Gauge("matryoshka2d_model_bytes", "Memory of a model.", ["model"], registry=self.registry)
        for name, size in model_bytes.items():
            memory.labels(name).set(size)
        ProcessCollector(registry=self.registry)

    def _make(self, kind: type[M], name: str, text: str, labels: list[str], **more: Any) -> M:
        return kind(f"matryoshka2d_{name}", text, labels, registry=self.registry, **more)

    def _timed(self, name: str, text: str, labels: list[str]) -> Histogram:
        return self._make(Histogram, name, text, labels, buckets=_SECONDS)

    def page(self) -> bytes:
        """Return the figures as Prometheus reads them."""
        return generate_latest(self.registry)
