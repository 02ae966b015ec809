"""Acronym: the third letter is the initial of the third word.

"The Royal Trade Board (R.T." -> "B". In the corrupted prompt the third word has another initial. From García-Carrasco et
al. 2024, "How does GPT-2 Predict Acronyms?" (arXiv:2405.04156); the dots keep tokenizers from merging the letters.
"""

from dataclasses import dataclass

from tasks import words
from tasks.base import At, Draw, Example, Task, UnusableError, Words


@dataclass(frozen=True)
class Acronym(Task):
    """Pairs with the roles W1, W2, W3, L1, L2 (letters) and end."""

    name = "acronym"
    title = "Acronym"
    description = "Complete with the third initial: The Royal Trade Board (R.T.B"
    source = "García-Carrasco et al. 2024, arXiv:2405.04156"
    word_lists = {"words": words.CAPITALISED}

    def example(self, draw: Draw) -> Example:
        first, second, third, other = draw.words("words", 4)
        if third[0] == other[0]:
            raise UnusableError("two words with the same initial")

        def write(last: str) -> str:
            return f"The {first} {second} {last} ({first[0]}.{second[0]}."

        return Example(
            clean=write(third),
            corrupted=write(other),
            answers=(third[0],),
            distractors=(other[0],),
            roles={"W1": first, "W2": second, "W3": third, "L1": At(first[0]), "L2": At(second[0], occurrence=-1)},
            # A bracket or a dot may be one token with the letter behind it.
            spans={
                "W1": first,
                "W2": second,
                "W3": third,
                "L1": Words(f"({first[0]}"),
                "L2": Words(f".{second[0]}"),
            },
        )
