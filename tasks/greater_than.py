"""Greater-than: a war that began in 1732 ends in a later year.

"The war lasted from the year 1732 to the year 17" -> a continuation that is greater than 32. From Hanna et al. 2023,
"How does GPT-2 compute greater-than?" (arXiv:2305.00586); as there, corrupted prompts begin in a year 01, after which
every continuation is right.

The question depends on how a tokenizer splits years. Where every digit is a token (SmolLM2, Llama 1 and 2), answers are
the digits above the tens digit d and distractors those below it; d itself may be right or wrong and is left out. Where
the last two digits are one token (GPT-2), answers are the two-digit numbers above the year's and distractors all
others, as in the paper.
"""

from dataclasses import dataclass

from circuits.prompts.answer_tokens import continuation
from tasks import words
from tasks.base import At, Draw, Example, Task, UnusableError, Words


@dataclass(frozen=True)
class GreaterThan(Task):
    """Pairs with the roles noun, year (its last token), end and, where digits are tokens, tens.

    The span `century` has the first two digits of the year, the span `year` its last two. The metric is sum P(answers) -
    sum P(distractors).
    """

    name = "greater-than"
    title = "Greater-than"
    description = "Complete with a later year: The war lasted from the year 1732 to the year 17"
    source = "Hanna et al. 2023, arXiv:2305.00586"
    metric = "probability_difference"
    word_lists = {"nouns": words.EVENTS}

    def example(self, draw: Draw) -> Example:
        noun, century = draw.word("nouns"), draw.random.randint(11, 18)
        tens, ones = draw.random.randint(2, 8), draw.random.randint(1, 8)
        year = f"{century}{tens}{ones}"
        start = f"The {noun} lasted from the year {century}"
        split = continuation(draw.model, start, f"{tens}{ones}")
        roles = {"noun": At(noun), "year": At(year)}
        if split is not None and len(split) == 2:
            digits = [str(digit) for digit in range(10)]
            answers, distractors = digits[tens + 1 :], digits[:tens]
            roles["tens"] = At(year, shift=-1)
        elif split is not None and len(split) == 1:
            numbers = [f"{number:02}" for number in range(100)]
            here = 10 * tens + ones
            answers, distractors = numbers[here + 1 :], numbers[: here + 1]
        else:
            raise UnusableError("a year that is split neither into digits nor into two and two")
        end = f" to the year {century}"
        return Example(
            f"{start}{tens}{ones}{end}",
            f"{start}01{end}",
            tuple(answers),
            tuple(distractors),
            roles,
            {"noun": noun, "century": Words(str(century)), "year": Words(f"{tens}{ones}", after=start)},
        )
