"""What a request to search may say, and how it is read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from matryoshka2d.serving.problems import invalid
from matryoshka2d.serving.schema import Body, Whole, kind_of, places, read_fields

MOST_QUERIES = 32
"""Queries of a request."""

MOST_RESULTS = 100
"""Results a query."""

MOST_OVERSAMPLE = 100
"""Candidates a result."""

MOST_FIELDS = 16
"""Fields that a filter names."""

MOST_VALUES = 100
"""Values of which a field may have one."""

DEFAULT_RESULTS = 10


def _number(value: Any) -> Any:
    """Return 3 for 3.0, as fields are compared as texts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Value = Annotated[str | bool | int | float, BeforeValidator(_number)]
_Values = Annotated[list[_Value], Field(min_length=1, max_length=MOST_VALUES)]


class SearchRequest(Body):
    """The body of ``POST /v1/search``."""

    query: Any
    k: Annotated[Whole, Field(le=MOST_RESULTS)] | None = None
    query_size: str | None = None
    prefix: Whole | None = None
    oversample: Annotated[Whole, Field(le=MOST_OVERSAMPLE)] | None = None
    exact: bool | None = None
    where: Annotated[dict[str, _Value | _Values], Field(max_length=MOST_FIELDS)] | None = None
    truncate: bool | None = None

    @property
    def queries(self) -> list[str]:
        """The texts to search for."""
        return [self.query] if isinstance(self.query, str) else self.query

    @property
    def results(self) -> int:
        """How many documents to find for each."""
        return self.k or DEFAULT_RESULTS


def read_search(body: bytes) -> SearchRequest:
    """Return a request that is right in itself, whatever the index, or raise a `RequestError`."""
    request = read_fields(body, SearchRequest, "query")
    _check_query(request.query)
    return request


def _check_query(given: Any) -> None:
    if not isinstance(given, str | list):
        raise invalid(
            f"query is {kind_of(given)}: expected a text or a list of texts", "query", "invalid_value"
        )
    items = [given] if isinstance(given, str) else given
    if not items:
        raise invalid("query is an empty list: expected a text or a list of texts", "query", "empty_input")
    if len(items) > MOST_QUERIES:
        raise invalid(
            f"query has {len(items)} texts: expected at most {MOST_QUERIES} a request",
            "query",
            "too_many_inputs",
        )
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise invalid(f"query[{i}] is {kind_of(item)}: expected a text", "query", "invalid_value")
    empty = [i for i, item in enumerate(items) if not item]
    if empty:
        raise invalid(
            f"{places(empty, 'query')} is empty: expected at least one character", "query", "empty_input"
        )
