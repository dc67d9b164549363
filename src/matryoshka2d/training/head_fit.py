"""Where the heads of inner exits start: at the linear map that brings an exit nearest to the full size.

The vectors of an inner layer lie in another space than those of the last one. A head that starts as the
identity spends a short run on finding the way between them; least squares on a few thousand texts finds it at
once.
"""

from __future__ import annotations

import numpy as np
import torch

from matryoshka2d.encoder import ElasticEncoder
from matryoshka2d.evaluation.cosine import Floats
from matryoshka2d.training.texts import Texts, exits_of

RIDGE = 0.01
"""Pull of the map towards the identity, relative to the mean square of a dim."""


def fit_heads(encoder: ElasticEncoder, texts: Texts) -> None:
    """Set every head to the linear map from its exit to the model's own full size.

    Parameters
    ----------
    encoder
        A model whose heads are the identity, as `ElasticEncoder.add_heads` makes them.
    texts
        What the map is fitted on: more than the model has dims. `RIDGE` holds the map near the identity where
        they say little, but a handful leads other texts astray.

    Examples
    --------
    >>> from matryoshka2d.default_model import default_model_path
    >>> encoder = ElasticEncoder(default_model_path(), device="cpu")
    >>> before = encoder.exits(["a cat sat"])
    >>> _ = encoder.add_heads()
    >>> fit_heads(encoder, {"": ["a cat sat", "two dogs ran", "it rains"]})
    >>> after = encoder.exits(["a cat sat"])
    >>> bool(after[2][0] @ before[6][0] > before[2][0] @ before[6][0])
    True
    """
    assert encoder.heads is not None
    depth = encoder.depth
    exits = exits_of(encoder, texts)
    for n in encoder.heads.layers():
        head = encoder.heads.at(n)
        assert head is not None
        weight = nearest_map(exits[n], exits[depth]).T
        with torch.no_grad():
            head.linear.weight.copy_(torch.from_numpy(weight))


def nearest_map(source: np.ndarray, target: np.ndarray, ridge: float = RIDGE) -> Floats:
    """Return the matrix that takes rows of `source` nearest to those of `target`: ridge regression.

    Parameters
    ----------
    source, target
        Float [texts, width].
    ridge
        How strongly the matrix is held near the identity, relative to the mean square of a dim of `source`.

    Returns
    -------
    numpy.ndarray
        Float64 [width, width]; ``source @ matrix`` is near `target`.

    Examples
    --------
    >>> source = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    >>> np.round(nearest_map(source, source[:, [1, 0, 2]], ridge=1e-6), 3).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    >>> nearest_map(np.zeros((2, 2)), np.ones((2, 2))).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    x, y = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    square, identity = x.T @ x, np.eye(x.shape[1])
    weight = ridge * (np.trace(square) / len(square) or 1.0)
    return np.asarray(np.linalg.solve(square + weight * identity, x.T @ y + weight * identity))
