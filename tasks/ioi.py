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
ORDERS = ("both", "ABBA", "BABA")


@dataclass(frozen=True)
class IOI(Task):
    """Pairs with the roles IO, S1, S1+1, S2 and end; ABBA and BABA alternate, the templates take turns.

    Spans are in the same order in every prompt. Where both orders of the names are mixed, the first two names are the spans `name1`
    and `name2`; with one order they are `IO` and `S1`.

    Attributes:
        counterfactual: what is corrupted:
            `s2_to_io` (S2 becomes IO: the right answer turns into the wrong one),
            `s2_to_third` (S2 becomes a third name: IO and S are as right as each other),
            `abc` (all three names become new ones, as p_ABC in the paper: neither is).
        order: of the first two names: `ABBA` (IO first), `BABA` (S first), or `both` in turn.
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
    order: str = "both"

    def __post_init__(self) -> None:
        for option, known in (("counterfactual", COUNTERFACTUALS), ("order", ORDERS)):
            if (given := getattr(self, option)) not in known:
                raise InputError(f"task ioi has no {option} {given!r}; expected one of {', '.join(known)}")

    def example(self, draw: Draw) -> Example:
        # Orders alternate, so every even number of pairs is balanced; a template takes two pairs, one of each.
        orders = ORDERS[1:] if self.order == "both" else (self.order,)
        turn, order = divmod(draw.index, len(orders))
        is_abba, template = orders[order] == "ABBA", TEMPLATES[turn % len(TEMPLATES)]
        io, s, *new = draw.words("names", 5)
        things = {"O": draw.word("objects"), "P": draw.word("places")}

        def write(io: str, s1: str, s2: str) -> str:
            first, second = (io, s1) if is_abba else (s1, io)
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
            spans={**self._names(io, s, is_abba), "S2": At(s, occurrence=1)},
        )

    def _names(self, io: str, s: str, is_abba: bool) -> dict[str, str]:
        """The spans of the first two names."""
        if self.order != "both":
            return {"IO": io, "S1": s}
        return {"name1": io if is_abba else s, "name2": s if is_abba else io}
