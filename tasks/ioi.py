"""Indirect object identification: who was the drink given to?

"When Mary and John went to the store, John gave a drink to" -> " Mary". The name that is not repeated (the indirect
object, IO) is right, the repeated one (the subject, S) wrong. From Wang et al. 2022, "Interpretability in the Wild"
(arXiv:2211.00593). The templates are those in which SmolLM2-135M does the task in both orders of the names, IO first
(ABBA) and S first (BABA).
"""

from dataclasses import dataclass

from circuits.errors import InputError
from tasks import words
from tasks.base import At, Draw, Example, Task

TEMPLATES = (
    "Then, {A} and {B} had a long argument. Afterwards {S} said to",
    "When {A} and {B} got a {O} at the {P}, {S} decided to give it to",
    "Then, {A} and {B} were working at the {P}. {S} decided to give a {O} to",
    "The {P} {A} and {B} went to had a {O}. {S} gave it to",
    "Afterwards, {A} and {B} met at the {P}. {S} handed the {O} to",
    "Then, {A} and {B} went to the {P}. {S} gave a {O} to",
    "When {A} and {B} went to the {P}, {S} gave a {O} to",
    "While {A} and {B} were working at the {P}, {S} handed a {O} to",
)
COUNTERFACTUALS = ("s2_to_io", "s2_to_third", "abc")


@dataclass(frozen=True)
class IOI(Task):
    """Pairs with the roles IO, S1, S1+1, S2 and end; ABBA and BABA alternate, the templates take turns.

    Attributes:
        counterfactual: what is corrupted:
            `s2_to_io` (S2 becomes IO: the right answer turns into the wrong one),
            `s2_to_third` (S2 becomes a third name: IO and S are as right as each other),
            `abc` (all three names become new ones, as p_ABC in the paper: neither is).
    """

    name = "ioi"
    title = "Indirect object identification"
    description = "Complete with the name that was not repeated: When Mary and John …, John gave a drink to"
    source = "Wang et al. 2022, arXiv:2211.00593"
    word_lists = {
        "names": words.MALE_NAMES + words.FEMALE_NAMES,
        "places": words.PLACES,
        "objects": words.OBJECTS,
    }

    counterfactual: str = "s2_to_io"

    def __post_init__(self) -> None:
        if self.counterfactual not in COUNTERFACTUALS:
            raise InputError(
                f"task ioi has no counterfactual {self.counterfactual!r}; expected one of {', '.join(COUNTERFACTUALS)}"
            )

    def example(self, draw: Draw) -> Example:
        # Orders alternate, so every even number of pairs is balanced; a template takes two pairs, one of each.
        order, template = draw.index % 2, TEMPLATES[draw.index // 2 % len(TEMPLATES)]
        io, s, *new = draw.words("names", 5)
        things = {"O": draw.word("objects"), "P": draw.word("places")}

        def write(io: str, s1: str, s2: str) -> str:
            first, second = (io, s1) if order == 0 else (s1, io)
            return template.format(A=first, B=second, S=s2, **things)

        corrupted = {
            "s2_to_io": write(io, s, io),
            "s2_to_third": write(io, s, new[0]),
            "abc": write(*new),
        }
        return Example(
            clean=write(io, s, s),
            corrupted=corrupted[self.counterfactual],
            answers=(f" {io}",),
            distractors=(f" {s}",),
            roles={"IO": io, "S1": At(s), "S1+1": At(s, shift=1), "S2": At(s, occurrence=1)},
        )
