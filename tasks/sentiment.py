"""Sentiment: is a review positive or negative?

"Review: The movie was lovely. Sentiment:" -> " positive", after one review of each kind as an example. The
corrupted prompt has an adjective of the other kind. From Tigges et al. 2023, "Linear Representations of Sentiment in
Large Language Models" (arXiv:2310.15154), with a template of ours.
"""

from dataclasses import dataclass

from tasks import words
from tasks.base import Draw, Example, Task, Words

KINDS = ("positive", "negative")
REVIEW = "Review: The movie was {}. Sentiment:"


@dataclass(frozen=True)
class Sentiment(Task):
    """Pairs with the roles adjective and end; answers alternate, and so does which kind is shown first."""

    name = "sentiment"
    title = "Sentiment"
    description = "Classify, after two examples: Review: The movie was lovely. Sentiment: positive"
    source = "Tigges et al. 2023, arXiv:2310.15154"
    word_lists = {"positive": words.POSITIVE, "negative": words.NEGATIVE}

    def example(self, draw: Draw) -> Example:
        kind, first_shown = draw.index % 2, draw.index // 2 % 2
        adjectives = {name: draw.words(name, 2) for name in KINDS}
        shown = (KINDS[first_shown], KINDS[1 - first_shown])
        shots = "".join(f"{REVIEW.format(adjectives[name][0])} {name}\n" for name in shown)
        adjective, other = adjectives[KINDS[kind]][1], adjectives[KINDS[1 - kind]][1]
        return Example(
            clean=shots + REVIEW.format(adjective),
            corrupted=shots + REVIEW.format(other),
            answers=(f" {KINDS[kind]}",),
            distractors=(f" {KINDS[1 - kind]}",),
            roles={"adjective": adjective},
            spans={"shots": Words(shots), "adjective": adjective},
        )
