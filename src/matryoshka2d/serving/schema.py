"""What a request may say, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from matryoshka2d.errors import did_you_mean
from matryoshka2d.serving.options import ServeOptions
from matryoshka2d.serving.problems import RequestError, invalid

_SHOWN = 10
"""How many places of wrong texts a message names."""

_CHARACTERS = 40
"""How much of a wrong value a message shows."""

_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def _whole(value: Any) -> Any:
    """Return 3 for 3.0, which JSON does not tell apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=1)]


class Body(BaseModel):
    """The body of a request; what is null counts as left out."""

    model_config = ConfigDict(extra="forbid", strict=True)


B = TypeVar("B", bound=Body)


class EmbeddingsRequest(Body):
    """The body of ``POST /v1/embeddings``."""

    input: Any
    model: str
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Whole | None = None
    layers: Whole | None = None
    input_type: str | None = None
    truncate: bool | None = None
    user: str | None = None

    @property
    def texts(self) -> list[Any]:
        """The inputs: texts, or lists of token ids."""
        given = self.input
        return [given] if isinstance(given, str) or (given and _is_id(given[0])) else given


def read_request(body: bytes, options: ServeOptions) -> EmbeddingsRequest:
    """Return a request that is right in itself, whatever models there are.

    Parameters
    ----------
    body
        The bytes that came.
    options
        The choices of the server: how many inputs it takes, and whether token ids.

    Raises
    ------
    RequestError
        Which names the field that is wrong.
    """
    request = read_fields(body, EmbeddingsRequest, "model and input")
    _check_input(request.input, options)
    return request


def read_fields(body: bytes, kind: type[B], needed: str) -> B:
    """Return a body whose fields have the types that they should.

    Parameters
    ----------
    body
        The bytes that came.
    kind
        The fields that there may be.
    needed
        Those that must be there, for messages.

    Raises
    ------
    RequestError
        Which names the field that is wrong.
    """
    if not body:
        raise invalid(f"the request has no body: expected a JSON object with {needed}")
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from error
    if not isinstance(values, dict):
        raise invalid(f"the body is {kind_of(values)}: expected an object with {needed}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _problem(error, kind) from error


def _problem(error: ValidationError, kind: type[Body]) -> RequestError:
    """Return the first mistake that was found; unknown fields go first, for they explain missing ones."""
    mistakes = error.errors(include_url=False, include_context=False)
    first = next((one for one in mistakes if one["type"] == "extra_forbidden"), mistakes[0])
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        hint = did_you_mean(field, known)
        message = f"'{field[:64]}' is not a field of this request: expected {', '.join(known)}.{hint}"
        return invalid(message, field[:64], "unknown_field")
    if first["type"] == "missing":
        return invalid(f"{field} is missing", field, "missing_field")
    expected = first["msg"].lower().removeprefix("input should be ")
    return invalid(f"{field} is {_shown(first['input'])}: expected {expected}", field, "invalid_value")


def _check_input(given: Any, options: ServeOptions) -> None:
    if isinstance(given, str):
        items: Sequence[Any] = [given]
    elif not isinstance(given, list):
        raise invalid(
            f"input is {kind_of(given)}: expected a text or a list of texts", "input", "invalid_value"
        )
    elif not given:
        raise invalid("input is an empty list: expected a text or a list of texts", "input", "empty_input")
    elif _is_id(given[0]):
        items = [given]
    else:
        items = given
    if len(items) > options.max_inputs:
        raise invalid(
            f"input has {len(items)} texts: expected at most {options.max_inputs} a request",
            "input",
            "too_many_inputs",
        )
    _check_items(items, options)


def _check_items(items: Sequence[Any], options: ServeOptions) -> None:
    of_ids = isinstance(items[0], list)
    if of_ids and options.token_ids == "refuse":
        raise invalid(
            "input holds token ids, and they are most likely of another model's vocabulary: send texts "
            "(LangChain: check_embedding_ctx_length=False). A server started with --token-ids accept takes "
            "ids of its own model",
            "input",
            "token_ids_refused",
        )
    for i, item in enumerate(items):
        if not isinstance(item, list if of_ids else str):
            wanted = "a list of token ids, as the first" if of_ids else "a text"
            raise invalid(f"input[{i}] is {kind_of(item)}: expected {wanted}", "input", "invalid_value")
        if of_ids and not all(map(_is_id, item)):
            raise invalid(f"input[{i}] holds what is no token id", "input", "invalid_value")
    empty = [i for i, item in enumerate(items) if not item]
    if empty:
        raise invalid(
            f"{places(empty, 'input')} is empty: expected at least one character", "input", "empty_input"
        )


def places(rows: Sequence[int], field: str) -> str:
    """Return which texts of a field are meant.

    >>> places([0, 4], "input")
    'input[0], input[4]'
    """
    shown = ", ".join(f"{field}[{row}]" for row in rows[:_SHOWN])
    return shown if len(rows) <= _SHOWN else f"{shown} and {len(rows) - _SHOWN} more"


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"


def kind_of(value: Any) -> str:
    """Return what a value of JSON is, in words."""
    return _KINDS.get(type(value), "something else")
