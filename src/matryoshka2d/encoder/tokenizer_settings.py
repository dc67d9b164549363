"""What a tokenizer must say before texts go through a model in batches: its padding, its side, its limit.

Some tokenizers leave it out, or say what their model cannot do. A text's vector must not depend on the texts
beside it, so all three are settled once, when a model is loaded, and saved with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matryoshka2d.encoder.architectures import learned_positions
from matryoshka2d.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Transformer


def settle_tokenizer(transformer: Transformer) -> None:
    """Give the tokenizer of a model a padding token, the side and the limit that its model needs.

    Parameters
    ----------
    transformer
        The first module of a model; its tokenizer is changed where it has to be.

    Raises
    ------
    UserError
        If there is no padding token and no other token that may stand in for it.
    """
    tokenizer: Any = transformer.tokenizer
    if tokenizer is None:
        return
    if getattr(tokenizer, "pad_token", None) is None:
        tokenizer.pad_token = _stand_in(tokenizer, getattr(transformer.model.config, "pad_token_id", None))
    room = learned_positions(transformer.model)
    if room is not None:
        # Positions are counted from the left: padding there would shift a text by its neighbor's length.
        tokenizer.padding_side = "right"
        tokenizer.model_max_length = min(tokenizer.model_max_length, room)


def _stand_in(tokenizer: Any, padding_id: int | None) -> str:
    """Return a token for padding, which the attention mask hides; never a word, which texts may hold."""
    known: dict[int, Any] = tokenizer.added_tokens_decoder
    if padding_id in known:
        return str(known[padding_id])
    named = (getattr(tokenizer, f"{name}_token", None) for name in ("eos", "sep", "unk", "cls", "mask"))
    special = [token for token in (*named, *map(str, known.values())) if token is not None]
    if not special:
        raise UserError(
            "the model's tokenizer has no padding token and no other special token to pad with: add one, as "
            "tokenizer.add_special_tokens({'pad_token': '[PAD]'}), and save it with the model"
        )
    return str(special[0])
