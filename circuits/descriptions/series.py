"""Words of ordered series that are single tokens, for successor heads."""

from dataclasses import dataclass

from circuits.descriptions.probe_prompts import first_token
from circuits.model import Model

SERIES = (
    ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"),
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
)  # fmt: skip
FEWEST = 10
"""Words with a successor without which successor heads are not looked for."""


@dataclass(frozen=True)
class SeriesTokens:
    """Words as tokens, each read after `before`.

    Attributes:
        before: the first token of a prompt.
        tokens: ids.
        successor: the id of the next word; -1 for a word without one.
    """

    before: tuple[int, ...]
    tokens: tuple[int, ...]
    successor: tuple[int, ...]


def series_tokens(model: Model) -> SeriesTokens | None:
    """The words that are single tokens after a space; None if fewer than ten have a successor."""
    if model.tokenizer is None:
        return None
    tokens: list[int] = []
    successor: list[int] = []
    for series in SERIES:
        ids = [model.tokenizer.encode(f" {word}", add_special_tokens=False) for word in series]
        single = [entry[0] if len(entry) == 1 else None for entry in ids]
        for i, token in enumerate(single):
            if token is not None and token not in tokens:
                after = single[i + 1] if i + 1 < len(single) else None
                tokens.append(token)
                successor.append(-1 if after is None else after)
    if sum(after >= 0 for after in successor) < FEWEST:
        return None
    return SeriesTokens((first_token(model, None),), tuple(tokens), tuple(successor))
