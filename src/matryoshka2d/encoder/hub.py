"""Whether the hub can be asked: one request tells, where its library tries for more than a minute."""

from __future__ import annotations

import functools
import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def hub_arguments(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a load, kept to the cache if the model is no folder here and the hub is silent.

    Parameters
    ----------
    name
        A folder or hub name.
    kwargs
        Arguments of `SentenceTransformer`; one that names ``local_files_only`` is left as it is.

    Examples
    --------
    >>> hub_arguments(".", {"device": "cpu"})
    {'device': 'cpu'}
    """
    if Path(name).is_dir() or "local_files_only" in kwargs or why_silent() is None:
        return kwargs
    return {**kwargs, "local_files_only": True}


def why_silent() -> str | None:
    """Return why the hub cannot be asked, or None if it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if not _answers(constants.ENDPOINT, float(constants.HF_HUB_ETAG_TIMEOUT)):
        return f"{constants.ENDPOINT} does not answer"
    return None


@functools.cache
def _answers(endpoint: str, seconds: float) -> bool:
    """Return whether a server, or a proxy before it, says anything at all; it is asked once a process."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds):
            return True
    # An error is an answer; an address or an answer that makes no sense is for the hub's library to name.
    except (urllib.error.HTTPError, http.client.HTTPException, ValueError):
        return True
    except OSError as error:
        # A certificate that is not known here may be known to the hub's library: let that one say so.
        return isinstance(getattr(error, "reason", error), ssl.SSLError)
