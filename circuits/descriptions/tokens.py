"""Tokens as text, for people."""

from collections.abc import Iterable

from circuits.model import Model


def token_texts(model: Model, ids: Iterable[int]) -> tuple[str, ...]:
    """Each token's text; its id without a tokenizer."""
    tokenizer = model.tokenizer
    return tuple(str(int(i)) if tokenizer is None else str(tokenizer.decode([int(i)])) for i in ids)
