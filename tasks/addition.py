"""Addition: the sum of two digits, after three sums that show how it is written.

"4 + 5 = 9", "5 + 3 = 8", "7 + 1 = 8", "2 + 1 =", each on a line of its own -> "3". Sums are at most 9, so that they are one
digit. In the corrupted prompt the first number of the last sum is another, and so is the result. A one-digit version of
the question of Stolfo et al. 2023, "A Mechanistic Interpretation of Arithmetic Reasoning in Language Models using Causal
Mediation Analysis" (arXiv:2305.15054).

Where a space and a digit are two tokens (SmolLM2), the prompt ends with that space, and the answer is the bare digit.
"""

from dataclasses import dataclass

from circuits.prompts.answer_tokens import continuation
from tasks.base import At, Draw, Example, Task, UnusableError, Words

SUMS = tuple((a, b) for a in range(1, 9) for b in range(1, 10 - a))
SHOTS = 3


@dataclass(frozen=True)
class Addition(Task):
    """Pairs with the roles a, plus, b, equals (of the last sum) and end."""

    name = "addition"
    title = "Addition"
    description = "Complete with the sum, after three examples: 2 + 1 = 3"
    source = "Stolfo et al. 2023, arXiv:2305.15054"

    def example(self, draw: Draw) -> Example:
        *shots, (a, b) = draw.random.sample(SUMS, SHOTS + 1)
        other = draw.random.randint(1, 9 - b)
        if other == a:
            raise UnusableError("the same sum twice")
        start = "".join(f"{x} + {y} = {x + y}\n" for x, y in shots)
        space = "" if len(continuation(draw.model, f"{start}{a} + {b} =", " 1") or ()) == 1 else " "
        answer, distractor = (f"{'' if space else ' '}{first + b}" for first in (a, other))
        return Example(
            clean=f"{start}{a} + {b} ={space}",
            corrupted=f"{start}{other} + {b} ={space}",
            answers=(answer,),
            distractors=(distractor,),
            roles={
                "a": At(str(a), occurrence=-2 if a == b else -1),
                "plus": At("+", occurrence=-1),
                "b": At(str(b), occurrence=-1),
                "equals": At("=", occurrence=-1),
            },
            spans={
                "shots": Words(start),
                "a": At(str(a), occurrence=-2 if a == b else -1),
                "plus": Words("+", after=start),
                "b": Words(str(b), after=f"{start}{a} +"),
            },
        )
