"""The two sides of a search: which size of the documents the queries of each size meet."""

from __future__ import annotations

from collections.abc import Iterable

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation.exits import Exits, sizes_of
from matryoshka2d.size import Size, parse_sizes

Sizes = str | Iterable[str | Size] | None


def check_sides(
    sizes: str | None = None, query_sizes: str | None = None, document_size: str | None = None
) -> None:
    """Raise a `UserError` for what cannot be meant, whatever the model: see `size_pairs`."""
    queries = parse_sizes(query_sizes) if query_sizes is not None else ()
    document = Size.parse(document_size) if document_size is not None else None
    _check(sizes is not None, queries, document)


def _check(alike: bool, queries: tuple[Size, ...], document: Size | None) -> None:
    if alike and (queries or document):
        raise UserError(
            "sizes are those of queries and documents alike: leave them out where the two sides differ, or "
            "leave out the query and document sizes"
        )
    for query in queries:
        if document is not None and query.dims != document.dims:
            raise UserError(
                f"queries of size {query} cannot meet documents of size {document}: both need the same dims, "
                f"take queries of {document.dims} dims, as in {query.layers}x{document.dims}"
            )


def size_pairs(
    model: Exits, sizes: Sizes = None, query_sizes: Sizes = None, document_size: str | Size | None = None
) -> dict[Size, Size]:
    """Return size of the queries → size of the documents that they meet, ascending.

    Parameters
    ----------
    model
        The model.
    sizes
        Sizes of both sides at once, as in `sizes_of`: what counts where neither of the others is given.
    query_sizes
        Sizes of the queries alone; by default every depth that the model shows, at the documents' dims.
    document_size
        The one size of the documents; by default full depth, at the dims of each query.

    Raises
    ------
    UserError
        If the model lacks a size, two sides differ in dims, or `sizes` is given beside either of the others.

    Examples
    --------
    >>> from matryoshka2d.default_model import default_model_path
    >>> from matryoshka2d.encoder import ElasticEncoder
    >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
    >>> pairs = size_pairs(encoder, query_sizes="1-2x128", document_size="6x128")
    >>> {str(query): str(document) for query, document in pairs.items()}
    {'1x128': '6x128', '2x128': '6x128'}
    """
    queries = sizes_of(model, query_sizes) if query_sizes is not None else ()
    document = None
    if document_size is not None:
        document = Size.parse(document_size).check(model.depth, model.width)
    _check(sizes is not None, queries, document)
    if not queries and document is None:
        return {size: size for size in sizes_of(model, sizes)}
    if document is not None and not queries:
        queries = tuple(sorted({Size(size.layers, document.dims) for size in sizes_of(model)}))
    return {query: document or Size(model.depth, query.dims) for query in queries}
