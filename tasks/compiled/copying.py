"""Programs in which heads find a token and copy it: induction, a negative head, reversing, sorting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import eye

from circuits.errors import InputError
from circuits.prompts.pair import Place
from tasks.base import Draw
from tasks.compiled.compiler import DTYPE, Head, Mlp, Network
from tasks.compiled.parts import LOGIT, one_hot, pairing
from tasks.compiled.program import BOS, Ids, Program


@dataclass(frozen=True)
class Induction(Program):
    """Six letters, then five of them again: the sixth comes next.

    A previous-token head (`a0.h1`) writes the previous token at each position; an induction head (`a1.h2`) finds the position
    whose previous token is the current one and copies its token. The embedding suppresses an immediate repetition of the
    current token. All other heads and both MLPs are decoys.

    Attributes:
        counterfactual: `random`: other letters throughout; `answer`: one other letter, at the position that is copied.
    """

    counterfactual: str = "random"
    name = "compiled/induction"
    title = "Induction, with decoys"
    description = "A b c d … A b c: d is next (two heads; the rest are decoys)"
    words = ("BOS", *"abcdefghijklmnop")
    n_ctx = 12
    length = 6

    def __post_init__(self) -> None:
        if self.counterfactual not in ("random", "answer"):
            raise InputError(f"counterfactual must be 'random' or 'answer', got {self.counterfactual!r}")

    @classmethod
    def network(cls) -> Network:
        v, p = len(cls.words), cls.n_ctx
        before = pairing(p, p, {(i, max(i - 1, 0)): 1 for i in range(p)})
        same = eye(v, dtype=DTYPE)
        return Network(
            v, p, {"previous": v, "next": v},
            heads={
                "a0.h1": Head("token", "previous", same, key="position", query="position", match=before),
                "a1.h2": Head("token", "next", same, key="previous", query="token", match=same),
            },
            unembed={"next": LOGIT * same, "token": -2 * same},
        )  # fmt: skip

    def solve(self, prompt: Sequence[int]) -> Ids:
        return (prompt[list(prompt).index(prompt[-1]) + 1],)

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        letters = draw.random.sample(range(1, len(self.words)), 2 * self.length)
        first, others = letters[: self.length], letters[self.length :]
        clean = [BOS, *first, *first[:-1]]
        if self.counterfactual == "random":
            return clean, [BOS, *others, *others[:-1]]
        return clean, [BOS, *first[:-1], others[0], *first[:-1]]

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        """The letter that the prompt ends with too, and the one behind it."""
        return {"before": self.length - 1, "answer": self.length}


@dataclass(frozen=True)
class NegativeHead(Program):
    """A letter to be repeated: one head copies it, another one suppresses the copied letter.

    The mover (`a0.h1`) attends to position 1. The negative head (`a1.h2`) attends to the token that would be predicted, and
    subtracts four tenths of its logit: copy suppression (McDougall et al. 2023, 2310.04625).
    """

    name = "compiled/negative-head"
    title = "A negative head"
    description = "A b c d ?: A is next, though a later head speaks against it"
    words = ("BOS", "?", *"abcdefghijkl")
    n_ctx = 6

    @classmethod
    def network(cls) -> Network:
        v, p = len(cls.words), cls.n_ctx
        same = eye(v, dtype=DTYPE)
        return Network(
            v, p, {"next": v},
            heads={
                "a0.h1": Head("token", "next", same, key="position", bias=one_hot(p, 1)),
                "a1.h2": Head("token", "next", -0.4 * same, key="token", query="next", match=same),
            },
            unembed={"next": LOGIT * same},
        )  # fmt: skip

    def solve(self, prompt: Sequence[int]) -> Ids:
        return (prompt[1],)

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        first, other, *rest = draw.random.sample(range(2, len(self.words)), 5)
        return [BOS, first, *rest, 1], [BOS, other, *rest, 1]

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        return {"answer": 1}


@dataclass(frozen=True)
class Reverse(Program):
    """Letters, a bar, and some of the letters from the end: the preceding letter is next.

    A head (`a0.h0`) finds the bar, an MLP (`m0`) computes the next position from the positions of the bar and of the current
    token (2 · bar - 1 - here), and a head (`a1.h1`) copies the token there. The corrupted prompt has other letters, and often
    another position of the bar.
    """

    name = "compiled/reverse"
    title = "Reverse"
    description = "A b c d | d c: b is next"
    words = ("BOS", "|", *"abcdefghijkl")
    n_ctx = 9

    @classmethod
    def network(cls) -> Network:
        v, p = len(cls.words), cls.n_ctx
        due = [(bar, here, 2 * bar - 1 - here) for bar in range(2, p) for here in range(bar, min(2 * bar - 1, p))]
        n = len(due)
        same = eye(v, dtype=DTYPE)
        return Network(
            v, p, {"bar": p, "due": p, "next": v},
            heads={
                "a0.h0": Head("position", "bar", eye(p, dtype=DTYPE), key="token", bias=one_hot(v, 1)),
                "a1.h1": Head("token", "next", same, key="position", query="due", match=eye(p, dtype=DTYPE)),
            },
            mlps={"m0": Mlp(
                {
                    "bar": pairing(p, n, {(bar, i): 1 for i, (bar, _, _) in enumerate(due)}),
                    "position": pairing(p, n, {(here, i): 1 for i, (_, here, _) in enumerate(due)}),
                },
                -torch.ones(n, dtype=DTYPE),
                {"due": pairing(n, p, {(i, at): 1 for i, (_, _, at) in enumerate(due)})},
            )},
            unembed={"next": LOGIT * same},
        )  # fmt: skip

    def solve(self, prompt: Sequence[int]) -> Ids:
        bar = list(prompt).index(1)
        return (prompt[2 * bar - 1 - (len(prompt) - 1)],)

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        length = draw.random.choice((7, 8))
        return self._prompt(draw, length), self._prompt(draw, length)

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        """The letter that is next, the bar, and all letters behind it: there may be only one, so the last has no span of its own."""
        bar, length = list(prompt).index(1), len(prompt)
        return {"answer": 2 * bar - length, "bar": bar, "repeated": (bar + 1, length)}

    def _prompt(self, draw: Draw, length: int) -> Sequence[int]:
        """A prompt of `length` tokens, which repeats some of its letters but not all."""
        n = draw.random.choice([n for n in range(3, length - 2) if length - 2 - n < n])
        letters = draw.random.sample(range(2, len(self.words)), n)
        return [BOS, *letters, 1, *reversed(letters)][:length]


@dataclass(frozen=True)
class Sort(Program):
    """Numbers, a bar, and the smallest numbers in order: the next larger number is next.

    One head (`a0.h2`) attends to the smallest token above the current one.
    """

    name = "compiled/sort"
    title = "Sort"
    description = "5 2 9 3 | 2 3: 5 is next"
    words = ("BOS", "|", *(str(number) for number in range(12)))
    n_ctx = 10

    @classmethod
    def network(cls) -> Network:
        v = len(cls.words)
        larger = {(now, token): v - token for now in range(1, v) for token in range(max(now + 1, 2), v)}
        return Network(
            v, cls.n_ctx, {"next": v},
            heads={"a0.h2": Head(
                "token", "next", eye(v, dtype=DTYPE), key="token", query="token", match=pairing(v, v, larger)
            )},
            unembed={"next": LOGIT * eye(v, dtype=DTYPE)},
        )  # fmt: skip

    def solve(self, prompt: Sequence[int]) -> Ids:
        return (min(token for token in prompt if token > prompt[-1]),)

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        n = draw.random.choice((1, 3))
        return self._prompt(draw, n), self._prompt(draw, n)

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        """The numbers, the bar, and the sorted numbers behind it: there may be only one, so the last has no span of its own."""
        bar = list(prompt).index(1)
        return {"numbers": (1, bar), "bar": bar, "sorted": (bar + 1, len(prompt))}

    def _prompt(self, draw: Draw, n: int) -> Sequence[int]:
        numbers = draw.random.sample(range(2, len(self.words)), 5)
        return [BOS, *numbers, 1, *sorted(numbers)[:n]]
