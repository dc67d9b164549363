"""Texts → vectors as a scikit-learn transformer, so that a size is one more parameter to search over."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from matryoshka2d.encoder.finite import check_finite
from matryoshka2d.errors import UserError
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from matryoshka2d.encoder.elastic import ElasticEncoder


class ElasticVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Embed texts at a size. Nothing is learned by `fit`; the weights are those of the model.

    A model is loaded once in a process, whole, and serves every size, so that a search over sizes does not
    load it again. Pickled and cloned vectorizers carry its name and no weights.

    Parameters
    ----------
    model
        A folder, a hub name, or ``"default"``.
    size
        The size, as ``"3x128"``. Default: the full size. Search over it: fewer dims are fewer features for
        the estimator behind, fewer layers are faster.
    prompt_name
        A prompt of the model to put before every text. Default: none. Set it for models trained with one.
    batch_size
        Texts a batch. Lower it if memory runs out.
    device
        ``"cpu"``, ``"cuda"`` … Default: the best there is. Set it to ``"cpu"`` where several workers run.

    Examples
    --------
    >>> vectorizer = ElasticVectorizer(size="1x32", device="cpu")
    >>> vectorizer.fit_transform(["a cat", "a dog"]).shape
    (2, 32)
    >>> vectorizer.get_feature_names_out()[:2].tolist()
    ['elasticvectorizer0', 'elasticvectorizer1']
    """

    def __init__(
        self,
        model: str = "default",
        *,
        size: str | Size | None = None,
        prompt_name: str | None = None,
        batch_size: int = 64,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.size = size
        self.prompt_name = prompt_name
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: Iterable[str], y: Any = None) -> ElasticVectorizer:  # noqa: N803, ARG002
        """Check the texts and the size; there is nothing to learn.

        Raises
        ------
        UserError
            If the model cannot be loaded, lacks the size or the prompt, or ``X`` is not texts.
        """
        _texts(X)
        self._encoder_and_size()
        return self

    def transform(self, X: Iterable[str]) -> NDArray[np.float32]:  # noqa: N803
        """Return float32 [texts, dims], rows of unit length.

        Parameters
        ----------
        X
            Texts: a list, an array, a column of a data frame.
        """
        texts = _texts(X)
        encoder, size = self._encoder_and_size()
        vectors = encoder.encode(
            texts,
            size=size,
            prompt_name=self.prompt_name,
            batch_size=self.batch_size,
            show_progress_bar=False,
        )
        check_finite(vectors, texts)
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), size.dims)

    def _encoder_and_size(self) -> tuple[ElasticEncoder, Size]:
        from matryoshka2d.encoder.loading import check_prompt

        encoder = _loaded(str(self.model), self.device)
        check_prompt(encoder.prompts, self.prompt_name)
        return encoder, encoder.size if self.size is None else encoder.check(self.size)

    @property
    def _n_features_out(self) -> int:
        return self._encoder_and_size()[1].dims

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _texts(values: Iterable[Any]) -> list[str]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise UserError(f"expected a list of texts, got {values!r:.60}: write [text] for one")
    rows = np.asarray(values, dtype=object).tolist() if hasattr(values, "shape") else list(values)
    # A frame or an array of one column.
    texts = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"row {number} is {text!r:.60}, expected a text: select one column of texts")
    return texts


def _loaded(model: str, device: str | None) -> ElasticEncoder:
    from matryoshka2d.encoder.default_model import resolve_model

    name = resolve_model(model)
    listing = Path(name) / "modules.json"
    # A folder that was written anew is another model.
    return _load(name, device, listing.stat().st_mtime_ns if listing.is_file() else 0)


@lru_cache(maxsize=2)
def _load(name: str, device: str | None, _written: int) -> ElasticEncoder:
    from matryoshka2d.encoder.elastic import ElasticEncoder

    encoder = ElasticEncoder(name, device=device)
    encoder.eval()
    return encoder
