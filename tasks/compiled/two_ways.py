"""A program in which two mechanisms produce one behaviour, each on its own prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import eye

from circuits.errors import InputError
from tasks.base import Draw
from tasks.compiled.compiler import DTYPE, Head, Network
from tasks.compiled.parts import LOGIT, pairing, steps
from tasks.compiled.program import BOS, Ids, Program

ENDINGS = {"?": 1, "!": 2}


@dataclass(frozen=True)
class TwoWays(Program):
    """Letters, then a question mark or an exclamation mark: the first letter is next.

    After `?` one head (`a0.h1`) copies the first letter to the logits. After `!` another head (`a0.h3`) holds it, and an MLP (`m1`)
    writes it to the logits. Each head attends to BOS, which it does not copy, after the other mark. So the answer is the same, but
    no edge is shared between the two mechanisms. The corrupted prompt has other letters and the same mark.

    Not one of the registered tasks: `circuits.load_model(TwoWays.bridge())` is its model.

    Attributes:
        ending: `?` or `!`: only these prompts; `both`: each in half of the cases.
    """

    ending: str = "both"
    name = "compiled/two-ways"
    title = "Two mechanisms, one behaviour"
    description = "A b c d ? and A b c d !: A is next, by one head, or by another head and an MLP"
    words = ("BOS", "?", "!", *"abcdefghijkl")
    n_ctx = 6

    def __post_init__(self) -> None:
        if self.ending not in (*ENDINGS, "both"):
            raise InputError(f"ending must be {', '.join(ENDINGS)} or both, got {self.ending!r}")

    @classmethod
    def network(cls) -> Network:
        v, p = len(cls.words), cls.n_ctx
        letters = pairing(v, v, {(token, token): 1 for token in range(3, v)})

        def first_letter(mark: int, output: str) -> Head:
            """Attends to position 1 from the mark, and to BOS from every other token."""
            seen = pairing(v, p, {(token, int(token == mark)): 1 for token in range(v)})
            return Head("token", output, letters, key="position", query="token", match=seen)

        same = eye(v, dtype=DTYPE)
        return Network(
            v, p, {"held": v, "next": v},
            heads={"a0.h1": first_letter(ENDINGS["?"], "next"), "a0.h3": first_letter(ENDINGS["!"], "held")},
            mlps={"m1": steps({"held": same}, {"next": same})},
            unembed={"next": LOGIT * same},
        )  # fmt: skip

    def solve(self, prompt: Sequence[int]) -> Ids:
        return (prompt[1],)

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        mark = ENDINGS[draw.random.choice(list(ENDINGS)) if self.ending == "both" else self.ending]
        letters = draw.random.sample(range(3, len(self.words)), 8)
        return [BOS, *letters[:4], mark], [BOS, *letters[4:], mark]
