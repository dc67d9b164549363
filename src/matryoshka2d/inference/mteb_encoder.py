"""A model at a size as an encoder of mteb, with results of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryoshka2d.encoder.elastic import ElasticEncoder
from matryoshka2d.errors import needs
from matryoshka2d.size import Size

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def mteb(
    model: str | Path | ElasticEncoder,
    size: str | Size | None = None,
    *,
    name: str | None = None,
    device: str | None = None,
) -> Any:
    """Return an encoder that ``mteb.evaluate`` accepts, for a model at one size.

    It is mteb's own wrapper of sentence-transformers models, so prompts are chosen as mteb chooses them.

    Parameters
    ----------
    model
        A folder, a hub name, ``"default"``, or an encoder.
    size
        The size, as ``"3x128"``. Default: the model's size, usually the full one.
    name
        Name of the model in mteb, as ``owner/name``. Default: the name on the hub, or
        ``local/FOLDER``. Set it before you hand results in.
    device
        Where the model runs. Default: the best there is; an encoder stays where it is.

    Returns
    -------
    mteb.models.SentenceTransformerEncoderWrapper
        Its results go into a folder of the size's own. The revision is a hash of the weights, so that
        results of a model that was trained further are not taken for its own.

    Raises
    ------
    UserError
        If mteb is not installed, or the model lacks the size.

    Examples
    --------
    >>> encoder = mteb("default", "2x64", device="cpu")
    >>> encoder.mteb_model_meta.experiment_name
    'size_2x64'
    """
    needs("mteb", "mteb")
    from mteb.models import SentenceTransformerEncoderWrapper

    from matryoshka2d.encoder.fingerprints import weights_fingerprint

    plain, wanted = _at_size(model, size, device)
    wrapper = SentenceTransformerEncoderWrapper(plain)
    wrapper.mteb_model_meta = wrapper.mteb_model_meta.model_copy(
        update={
            "name": name or _name(model),
            "revision": weights_fingerprint(plain),
            "embed_dim": wanted.dims,
            "n_parameters": sum(parameter.numel() for parameter in plain.parameters()),
            "experiment_kwargs": {"size": str(wanted)},
        }
    )
    return wrapper


def _at_size(
    model: str | Path | ElasticEncoder, size: str | Size | None, device: str | None
) -> tuple[SentenceTransformer, Size]:
    """Return a model that embeds at the size when it is asked for nothing else."""
    from matryoshka2d.encoder.default_model import resolve_model

    if not isinstance(model, ElasticEncoder):
        encoder = ElasticEncoder(resolve_model(str(model)), size=size, device=device)
        return encoder, encoder.size
    wanted = model.size if size is None else model.check(size)
    return model.truncate(wanted), wanted


def _name(model: str | Path | ElasticEncoder) -> str:
    from matryoshka2d.encoder.default_model import base_model

    named = (
        str(getattr(model.base.config, "name_or_path", ""))
        if isinstance(model, ElasticEncoder)
        else str(model)
    )
    on_hub = base_model(named).get("base_model")
    return on_hub or f"local/{Path(named).resolve().name if named else 'encoder'}"
