"""What tasks share that ask for the other word of a row: a country's capital, a word's opposite."""

from typing import ClassVar

from tasks.base import Draw, Example, Task, UnusableError


class Relation(Task):
    """A template with one word, `x`, that calls for the second word of its row in the list `rows`.

    The corrupted prompt has the first word of another row, whose second word is the distractor. Pairs with the roles x
    and end.

    Attributes:
        template: the prompt, with `{x}`.
    """

    template: ClassVar[str]

    def example(self, draw: Draw) -> Example:
        (x, y), (other, wrong) = draw.rows("rows", 2)
        if y == wrong:
            raise UnusableError("two words with the same answer")
        return Example(
            clean=self.template.format(x=x),
            corrupted=self.template.format(x=other),
            answers=(f" {y}",),
            distractors=(f" {wrong}",),
            roles={"x": x},
        )
