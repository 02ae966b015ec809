"""Docstring: the next argument to describe is the next one of the signature.

A method with five arguments, the second of which is described already -> the third. The corrupted prompt has this
argument and the last one swapped in the signature. From Heimersheim and Janiak 2023, "A circuit for Python docstrings in a
4-layer attention-only transformer" (Alignment Forum), with words that are common in code; also in Conmy et al. 2023
(arXiv:2304.14997).
"""

from dataclasses import dataclass

from tasks import words
from tasks.base import At, Draw, Example, Task

TEMPLATE = '''def {method}(self, {signature}):
    """{about} {thing}

    :param {described}: {property} {noun}
    :param'''


@dataclass(frozen=True)
class Docstring(Task):
    """Pairs with the roles described, answer, distractor (in the signature), again (`described` in the text) and end."""

    name = "docstring"
    title = "Docstring"
    description = "Complete with the next argument: def run(self, a, b, c, d, e): … :param b: … :param c"
    source = "Heimersheim and Janiak 2023; Conmy et al. 2023, arXiv:2304.14997"
    word_lists = {
        "methods": words.METHODS,
        "arguments": words.ARGUMENTS,
        "adjectives": words.DESCRIPTIONS,
    }

    def example(self, draw: Draw) -> Example:
        first, described, answer, middle, last, thing, noun = draw.words("arguments", 7)
        about, description = draw.words("adjectives", 2)
        rest = {"method": draw.word("methods"), "about": about, "thing": thing, "described": described, "noun": noun}

        def write(*arguments: str) -> str:
            return TEMPLATE.format(signature=", ".join(arguments), property=description, **rest)

        return Example(
            clean=write(first, described, answer, middle, last),
            corrupted=write(first, described, last, middle, answer),
            answers=(f" {answer}",),
            distractors=(f" {last}",),
            roles={
                "described": described,
                "answer": answer,
                "distractor": last,
                "again": At(described, occurrence=1),
            },
            spans={
                "first": first,
                "described": described,
                "answer": answer,
                "fourth": middle,
                "distractor": last,
                "again": At(described, occurrence=1),
            },
        )
