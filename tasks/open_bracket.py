"""Open bracket: what was opened by a square bracket is closed by one.

"model = [state, output, image" -> "]". The corrupted prompt has the other bracket, "(", which ")" would close. A unit
that follows brackets was among the first that were found in language models: Karpathy et al. 2015, "Visualizing and
Understanding Recurrent Networks" (arXiv:1506.02078). The template is ours.
"""

from dataclasses import dataclass

from tasks import words
from tasks.base import At, Draw, Example, Task, Words

BRACKETS = ("()", "[]")


@dataclass(frozen=True)
class OpenBracket(Task):
    """Pairs with the roles variable, bracket and end; round and square brackets alternate."""

    name = "open-bracket"
    title = "Open bracket"
    description = "Complete with the bracket that closes: model = [state, output, image]"
    source = "Karpathy et al. 2015, arXiv:1506.02078"
    word_lists = {"names": words.ARGUMENTS}

    def example(self, draw: Draw) -> Example:
        (opens, closes), (other, wrong) = BRACKETS[draw.index % 2], BRACKETS[1 - draw.index % 2]
        variable, *entries = draw.words("names", 4)
        return Example(
            clean=f"{variable} = {opens}{', '.join(entries)}",
            corrupted=f"{variable} = {other}{', '.join(entries)}",
            answers=(closes,),
            distractors=(wrong,),
            roles={"variable": variable, "bracket": At("=", shift=1)},
            spans={"variable": Words(variable), "bracket": Words(opens)},
        )
