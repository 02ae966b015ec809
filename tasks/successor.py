"""Successor: what comes next in a series that everybody knows.

"Monday, Tuesday, Wednesday," -> " Thursday". The corrupted prompt is another part of the same series. From Gould et al.
2023, "Successor Heads: Recurring, Interpretable Attention Heads In The Wild" (arXiv:2312.09230). Days and months go round;
the other series end.
"""

from dataclasses import dataclass

from tasks import words
from tasks.base import At, Draw, Example, Row, Task, Words


def parts(series: Row, cyclic: bool = False) -> tuple[Row, ...]:
    """Every four words that follow each other.

    >>> parts(("I", "II", "III", "IV", "V"))
    (('I', 'II', 'III', 'IV'), ('II', 'III', 'IV', 'V'))
    """
    round_trip = series + series[:3] if cyclic else series
    return tuple(round_trip[i : i + 4] for i in range(len(round_trip) - 3))


@dataclass(frozen=True)
class Successor(Task):
    """Pairs with the roles first, second, third and end (the comma)."""

    name = "successor"
    title = "Successor"
    description = "Continue a series: Monday, Tuesday, Wednesday, Thursday"
    source = "Gould et al. 2023, arXiv:2312.09230"
    word_lists = {
        "days": parts(words.DAYS, cyclic=True),
        "months": parts(words.MONTHS, cyclic=True),
        "numbers": parts(words.NUMBERS),
        "ordinals": parts(words.ORDINALS),
        "numerals": parts(words.NUMERALS),
    }

    def example(self, draw: Draw) -> Example:
        (*clean, answer), (*corrupted, wrong) = draw.rows(draw.random.choice(list(draw.lists)), 2)
        return Example(
            clean=", ".join(clean) + ",",
            corrupted=", ".join(corrupted) + ",",
            answers=(f" {answer}",),
            distractors=(f" {wrong}",),
            roles=dict(zip(("first", "second", "third"), clean, strict=True)),
            spans={"first": Words(clean[0]), "second": At(clean[1]), "third": At(clean[2])},
        )
