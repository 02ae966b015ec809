"""Induction: what followed a word before follows it again.

Fifteen different words and the first fourteen of them again -> the fifteenth. The corrupted prompt has another word in
the fifteenth place, which is the distractor. Repeated random tokens are the test for induction heads of Olsson et al. 2022,
"In-context Learning and Induction Heads" (arXiv:2209.11895).
"""

from dataclasses import dataclass

from tasks import words
from tasks.base import Draw, Example, Task

LENGTH = 15


@dataclass(frozen=True)
class Induction(Task):
    """Pairs with the roles before (the word before the answer, which the prompt ends with too), answer and end."""

    name = "induction"
    title = "Induction"
    description = "Continue random words that are repeated: key doctor went cold … key doctor went cold"
    source = "Olsson et al. 2022, arXiv:2209.11895"
    word_lists = {"words": words.MIXED}

    def example(self, draw: Draw) -> Example:
        *start, answer, other = draw.words("words", LENGTH + 1)

        def write(last: str) -> str:
            return "".join(f" {word}" for word in [*start, last, *start])

        return Example(
            clean=write(answer),
            corrupted=write(other),
            answers=(f" {answer}",),
            distractors=(f" {other}",),
            roles={"before": start[-1], "answer": answer},
        )
