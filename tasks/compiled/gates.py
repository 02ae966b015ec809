"""Programs in which an MLP decides: an OR gate (backup heads), an AND gate, greater-than over digits."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import eye

from circuits.prompts.pair import Place
from tasks.base import Draw
from tasks.compiled.compiler import DTYPE, Head, Mlp, Network
from tasks.compiled.parts import LOGIT, one_hot, pairing, steps
from tasks.compiled.program import BOS, Ids, Program


@dataclass(frozen=True)
class _Gate(Program):
    """Two flags, some irrelevant letters, and a question mark: yes or no.

    Two heads (`a0.h0`, `a0.h2`) add one flag each to a sum, from which the MLP `m0` decides. In clean prompts both flags are on, in
    corrupted ones both are off.
    """

    words = ("BOS", "?", "off", "on", "no", "yes", *"abcdefgh")
    n_ctx = 7

    @classmethod
    @abstractmethod
    def gate(cls) -> Mlp:
        """Reads the space `sum`; writes 0 or 1 into `yes`."""

    @classmethod
    def network(cls) -> Network:
        v, p = len(cls.words), cls.n_ctx
        flag = one_hot(v, 3)[:, None]
        return Network(
            v, p, {"sum": 1, "yes": 1},
            heads={
                "a0.h0": Head("token", "sum", flag, key="position", bias=one_hot(p, 1)),
                "a0.h2": Head("token", "sum", flag, key="position", bias=one_hot(p, 2)),
            },
            mlps={"m0": cls.gate()},
            unembed={"yes": LOGIT * one_hot(v, 5)[None], "one": LOGIT / 2 * one_hot(v, 4)[None]},
        )  # fmt: skip

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        filler = [draw.random.randrange(6, len(self.words)) for _ in range(self.n_ctx - 4)]
        return [BOS, 3, 3, *filler, 1], [BOS, 2, 2, *filler, 1]

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        return {"flag1": 1, "flag2": 2}


@dataclass(frozen=True)
class OrGate(_Gate):
    """One of the two heads is enough, so that each is the other's backup: ablating only one has no effect."""

    name = "compiled/or-gate"
    title = "OR gate: backup heads"
    description = "Is one of two flags on? Two heads, of which either is enough"

    @classmethod
    def gate(cls) -> Mlp:
        one = torch.ones(1, 1, dtype=DTYPE)
        return steps({"sum": one}, {"yes": one})

    def solve(self, prompt: Sequence[int]) -> Ids:
        return (5,) if 3 in prompt[1:3] else (4,)


@dataclass(frozen=True)
class AndGate(_Gate):
    """Both heads are needed: ablating either has the full effect."""

    name = "compiled/and-gate"
    title = "AND gate"
    description = "Are two flags on? Two heads, both needed"

    @classmethod
    def gate(cls) -> Mlp:
        one = torch.ones(1, 1, dtype=DTYPE)
        return Mlp({"sum": 2 * one}, -3 * one[0], {"yes": one})

    def solve(self, prompt: Sequence[int]) -> Ids:
        return (5,) if list(prompt[1:3]) == [3, 3] else (4,)


@dataclass(frozen=True)
class GreaterDigit(Program):
    """A digit among other words: larger digits come next.

    One head (`a0.h1`) finds the digit; two MLPs, each with half of the effect, raise the logits of larger digits and lower those
    of smaller ones, as in Hanna et al. 2023 (2305.00586).
    """

    name = "compiled/greater-than"
    title = "Greater-than over digits"
    description = "x y from 4 to: 5, 6, 7, 8 or 9"
    metric = "probability_difference"
    words = ("BOS", "from", "to", *"uvwxyz", *"0123456789")
    n_ctx = 6
    first_digit = 9

    @classmethod
    def network(cls) -> Network:
        v, first = len(cls.words), cls.first_digit
        tokens = range(first, first + 10)
        digit = pairing(v, 10, {(token, token - first): 1 for token in tokens})
        larger = pairing(10, 10, {(a, b): 1 if b > a else -1 for a in range(10) for b in range(10) if a != b})
        half = steps({"digit": eye(10, dtype=DTYPE)}, {"larger": larger})
        others = one_hot(v, *range(first))[None]
        return Network(
            v, cls.n_ctx, {"digit": 10, "larger": 10},
            heads={"a0.h1": Head("token", "digit", digit, key="token", bias=one_hot(v, *tokens))},
            mlps={"m0": half, "m1": half},
            unembed={"larger": 1.5 * digit.T, "one": -LOGIT * others},
        )  # fmt: skip

    def solve(self, prompt: Sequence[int]) -> Ids:
        return tuple(range(self._digit(prompt) + 1, self.first_digit + 10))

    def wrong(self, clean: Sequence[int], corrupted: Sequence[int]) -> Ids:
        """The smaller digits."""
        return tuple(range(self.first_digit, self._digit(clean)))

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        digit = draw.random.randint(2, 8)
        other = draw.random.randrange(digit)
        filler = [draw.random.randrange(3, self.first_digit) for _ in range(2)]
        return [BOS, *filler, 1, self.first_digit + digit, 2], [BOS, *filler, 1, self.first_digit + other, 2]

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        return {"digit": len(prompt) - 2}

    def _digit(self, prompt: Sequence[int]) -> int:
        """The token of the prompt's digit."""
        return next(token for token in prompt if token >= self.first_digit)
