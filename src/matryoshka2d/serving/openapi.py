"""The OpenAPI document: true for the models and sizes that this server has."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version as installed
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from matryoshka2d.serving.catalog import Catalog, Served
from matryoshka2d.serving.gate import OPEN
from matryoshka2d.serving.options import ServeOptions
from matryoshka2d.serving.search_schema import (
    DEFAULT_RESULTS,
    MOST_FIELDS,
    MOST_OVERSAMPLE,
    MOST_QUERIES,
    MOST_RESULTS,
    MOST_VALUES,
)
from matryoshka2d.serving.searching import ServedIndex


class Embedding(BaseModel):
    """The vector of one text, of unit length."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Numbers, or base64 of little-endian float32.")


class Usage(BaseModel):
    """What a request cost, in tokens of the model."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The vectors of a request, in the order of its texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Hit(BaseModel):
    """A document that was found."""

    id: str
    score: float = Field(description="The cosine of the whole vectors of query and document.")
    first_score: float | None = Field(description="What the prefix found it with; null after exact.")
    text: str
    fields: dict[str, Any]


class Results(BaseModel):
    """What one query found, best first."""

    object: Literal["results"]
    index: int
    results: list[Hit]


class SearchResults(BaseModel):
    """What a request found, in the order of its queries."""

    object: Literal["list"]
    data: list[Results]
    query_size: str
    approximate: bool = Field(description="Whether queries had fewer layers than documents.")
    milliseconds: dict[str, float] = Field(description="Stage to how long it took, for all queries together.")
    usage: Usage


class Index(BaseModel):
    """The index that is searched."""

    documents: int
    size: str
    query_layers: list[int]
    prefix: int
    any_prefix: bool
    oversample: int


class Model(BaseModel):
    """A model, or one size of it, with what was measured of it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    layers: int
    dimensions: int
    bytes_per_vector: int
    cost_ms: float = Field(description="Milliseconds of one short text, measured when the server started.")
    max_tokens: int | None
    index: Index | None = Field(None, description="What POST /v1/search searches, if it is of this model.")


class ModelList(BaseModel):
    """Every model, and every size offered."""

    object: Literal["list"]
    data: list[Model]


class Status(BaseModel):
    """How the server is."""

    status: Literal["alive", "ready"]


class Error(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The answer to a request that cannot be served."""

    error: Error


_WRONG = {
    400: "The request is wrong; `param` names the field.",
    401: "The key is missing or wrong.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "The server has all the work that it can take; `Retry-After` says when to come back.",
    500: "The model gives no finite vector for some of the texts, which are named.",
    503: "The server is stopping, the request waited too long, or the index failed.",
}


def _answers(model: type[BaseModel] | None, *statuses: int) -> dict[str, Any]:
    wrong: dict[int, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": _WRONG[status]} for status in statuses
    }
    return {"responses": {**({200: {"model": model}} if model else {}), **wrong}}


EMBEDDINGS = _answers(Embeddings, *_WRONG)
SEARCH = _answers(SearchResults, *_WRONG)
MODELS = _answers(ModelList, 401)
MODEL = _answers(Model, 400, 401, 404)
HEALTH = _answers(Status)
READY = _answers(Status, 503)
METRICS: dict[str, Any] = {
    "responses": {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The figures."},
        401: {"model": ErrorBody, "description": _WRONG[401]},
    },
}


def version() -> str:
    """Return the version of this package."""
    return installed("matryoshka2d")


def document(
    app: FastAPI, catalog: Catalog, options: ServeOptions, index: ServedIndex | None
) -> dict[str, Any]:
    """Return the document: what the routes declare, and what only the loaded models can say."""
    made = app.openapi()
    served = list(catalog.served.values())
    ids = [one.entry(size)["id"] for one in served for size in (None, *one.sizes)]
    _take(
        made,
        "/v1/embeddings",
        "EmbeddingsRequest",
        {
            "description": "Texts to embed, at a size that is part of the model's name or stands in fields.",
            "anyOf": [form for one in served for form in _forms(one, options)],
        },
    )
    if index is not None:
        _take(made, "/v1/search", "SearchRequest", _search_form(index))
    made["paths"]["/v1/models/{model}"]["get"]["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": ids}}
    ]
    if options.keys:
        made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in made["paths"].items():
            if path not in OPEN:
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return made


def _take(made: dict[str, Any], path: str, name: str, schema: dict[str, Any]) -> None:
    """Say what the body of a route is."""
    reference = {"schema": {"$ref": f"#/components/schemas/{name}"}}
    made["paths"][path]["post"]["requestBody"] = {
        "required": True,
        "content": {"application/json": reference},
    }
    made["components"]["schemas"][name] = {"title": name, **schema}


def _search_form(index: ServedIndex) -> dict[str, Any]:
    """Return the shape of a request to search an index."""
    meta = index.index.meta
    most = {"k": MOST_RESULTS, "oversample": MOST_OVERSAMPLE, "prefix": meta.size.dims}
    numbers: dict[str, Any] = {
        name: {"type": ["integer", "null"], "minimum": 1, "maximum": limit} for name, limit in most.items()
    }
    numbers["k"]["description"] = f"How many documents to find; {DEFAULT_RESULTS} if left out."
    if not index.index.store.any_prefix:
        numbers["prefix"] = {"type": ["integer", "null"], "enum": [meta.prefix, None]}
    text: dict[str, Any] = {"type": "string", "minLength": 1}
    value = {"anyOf": [{"type": "string", "pattern": r"^[^\u0000]*$"}, {"type": ["number", "boolean"]}]}
    values = {"type": "array", "items": value, "minItems": 1, "maxItems": MOST_VALUES}
    return {
        "description": "What to look for, and how: first by a prefix, then by whole vectors.",
        "type": "object",
        "additionalProperties": False,
        "required": ["query"],
        "properties": {
            "query": {
                "anyOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": MOST_QUERIES}]
            },
            **numbers,
            "query_size": {
                "type": ["string", "null"],
                "enum": [*(f"{layers}x{meta.size.dims}" for layers in index.depths), None],
            },
            "exact": {"type": ["boolean", "null"]},
            "where": {
                "description": "Field to the value that it must have, or a list of which it must have one.",
                "type": ["object", "null"],
                "maxProperties": MOST_FIELDS,
                "propertyNames": {"pattern": r'^[^"\u0000]*$'},
                "additionalProperties": {"anyOf": [value, values]},
            },
            "truncate": {"type": ["boolean", "null"]},
        },
    }


def _forms(served: Served, options: ServeOptions) -> Iterator[dict[str, Any]]:
    """Yield the shapes that a request for a model may have: the size in fields, or in the name."""
    name = {"type": "string", "enum": [served.name]}
    if served.any_size:
        most = {"layers": served.engine.depth, "dimensions": served.engine.width}
        sides = {
            side: {"type": ["integer", "null"], "minimum": 1, "maximum": limit}
            for side, limit in most.items()
        }
        yield _form(served, options, name, sides)
    else:
        for layers, dims in _products(served):
            sides = {
                "layers": {"type": ["integer", "null"], "enum": layers},
                "dimensions": {"type": ["integer", "null"], "enum": dims},
            }
            required = [
                side for side, values in (("layers", layers), ("dimensions", dims)) if None not in values
            ]
            yield _form(served, options, name, sides, required)
    aliases = [f"{served.name}@{size}" for size in served.sizes]
    yield _form(served, options, {"type": "string", "enum": aliases}, {})


def _products(served: Served) -> Iterator[tuple[list[int | None], list[int | None]]]:
    """Yield (layers, dims) that may be combined freely; None stands for leaving one out."""
    widths: dict[int, tuple[int, ...]] = {}
    for size in served.sizes:
        widths[size.layers] = (*widths.get(size.layers, ()), size.dims)
    for dims in dict.fromkeys(widths.values()):
        layers: list[int | None] = [n for n, own in widths.items() if own == dims]
        free_layers = [None] if served.size.layers in layers else []
        free_dims = [None] if served.size.dims in dims else []
        yield [*layers, *free_layers], [*dims, *free_dims]


def _form(
    served: Served,
    options: ServeOptions,
    model: dict[str, Any],
    sides: dict[str, Any],
    required: list[str] | None = None,
) -> dict[str, Any]:
    types = list(dict.fromkeys(["query", "document", *served.engine.tokenizer.prompts]))
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["input", "model", *(required or [])],
        "properties": {
            "input": _input(served, options),
            "model": model,
            **sides,
            "encoding_format": {"type": ["string", "null"], "enum": ["float", "base64", None]},
            "input_type": {"type": ["string", "null"], "enum": [*types, None]},
            "truncate": {"type": ["boolean", "null"]},
            "user": {"type": ["string", "null"]},
        },
    }


def _input(served: Served, options: ServeOptions) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string", "minLength": 1}
    several = {"minItems": 1, "maxItems": options.max_inputs}
    forms = [text, {"type": "array", "items": text, **several}]
    if options.token_ids == "accept":
        last = served.engine.tokenizer.vocabulary - 1
        ids = {
            "type": "array",
            "minItems": 1,
            "items": {"type": "integer", "minimum": 0, "maximum": last},
        }
        forms += [ids, {"type": "array", "items": ids, **several}]
    return {"anyOf": forms}
