"""Programs that count by averaging: the fraction of previous tokens, a histogram, balanced brackets (Dyck-1).

The three are programs of RASP (Weiss et al. 2021, 2106.06981), as Tracr ships them (Lindner et al. 2023, 2301.05062).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import eye

from circuits.prompts.pair import Place
from tasks.base import Draw
from tasks.compiled.compiler import DTYPE, Head, Network
from tasks.compiled.parts import LOGIT, one_hot, pairing, steps
from tasks.compiled.program import BOS, Ids, Program


@dataclass(frozen=True)
class Fraction(Program):
    """Which fraction of the tokens so far is an x, in eighths?

    One head (`a0.h2`) averages over all tokens but BOS; the logit of the answer a is 2af - a² for the fraction f, which is
    highest for the nearest a. Everything is linear except for the attention pattern, which does not depend on the data.
    """

    name = "compiled/fraction"
    title = "Fraction of previous tokens"
    description = "x a x b c x a b: three eighths are x"
    words = ("BOS", "x", *"abcdef", *(f"{n}/8" for n in range(9)))
    n_ctx = 9
    first_answer = 8

    @classmethod
    def network(cls) -> Network:
        v, first = len(cls.words), cls.first_answer
        answers = {first + n: n / 8 for n in range(9)}
        scale = 64 * LOGIT / 2
        return Network(
            v, cls.n_ctx, {"fraction": 1},
            heads={"a0.h2": Head("token", "fraction", one_hot(v, 1)[:, None], key="token", bias=one_hot(v, *range(1, v)))},
            unembed={
                "fraction": pairing(1, v, {(0, token): 2 * scale * a for token, a in answers.items()}),
                "one": pairing(1, v, {(0, token): LOGIT - scale * a * a for token, a in answers.items()}),
            },
        )  # fmt: skip

    def solve(self, prompt: Sequence[int]) -> Ids:
        fraction = list(prompt).count(1) / (len(prompt) - 1)
        return (self.first_answer + round(8 * fraction),)

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        return self._prompt(draw), self._prompt(draw)

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        return {"tokens": (1, len(prompt) - 1)}

    def _prompt(self, draw: Draw) -> Sequence[int]:
        count = draw.random.randint(0, 8)
        tokens = [1] * count + [draw.random.randrange(2, self.first_answer) for _ in range(8 - count)]
        draw.random.shuffle(tokens)
        return [BOS, *tokens]


@dataclass(frozen=True)
class Histogram(Program):
    """How often has the last token occurred?

    A head (`a0.h1`) attends equally to BOS and to all copies of the current token, so that BOS gets f = 1 / (1 + count); the
    MLP (`m0`) compares f with thresholds.
    """

    name = "compiled/histogram"
    title = "Histogram"
    description = "a b a c b a: the last token has occurred 3 times"
    words = ("BOS", *"abcd", *(f"{n}×" for n in range(1, 7)))
    n_ctx = 7
    first_answer = 5

    @classmethod
    def network(cls) -> Network:
        v, first = len(cls.words), cls.first_answer
        letters = range(1, first)
        same = pairing(v, v, {(a, b): 1 for a in letters for b in (a, BOS)})
        # Step k is on if the count is above k, that is, if f is below the mean of 1 / (1 + k) and 1 / (2 + k).
        edges = torch.tensor([(1 / (1 + k) + 1 / (2 + k)) / 2 for k in range(1, 6)], dtype=DTYPE)
        slope = 42.0  # half the distance of the two closest values of f, 1/6 and 1/7, is 1/84: half a step
        above = {(k - 1, first + k): LOGIT for k in range(1, 6)} | {(k - 1, first + k - 1): -LOGIT for k in range(1, 6)}
        return Network(
            v, cls.n_ctx, {"rarity": 1, "above": 5},
            heads={"a0.h1": Head("token", "rarity", one_hot(v, BOS)[:, None], key="token", query="token", match=same)},
            mlps={"m0": steps({"rarity": -slope * torch.ones(1, 5, dtype=DTYPE)}, {"above": eye(5, dtype=DTYPE)}, slope * edges + 0.5)},
            unembed={"above": pairing(5, v, above), "one": LOGIT * one_hot(v, first)[None]},
        )  # fmt: skip

    def solve(self, prompt: Sequence[int]) -> Ids:
        return (self.first_answer + list(prompt).count(prompt[-1]) - 1,)

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        clean, corrupted = ([draw.random.randrange(1, self.first_answer) for _ in range(6)] for _ in range(2))
        return [BOS, *clean], [BOS, *corrupted]

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        return {"letters": (1, len(prompt) - 1)}


@dataclass(frozen=True)
class Dyck(Program):
    """Are the brackets balanced?

    A head (`a0.h0`) averages brackets into the depth divided by the number of tokens; `m0` marks positions of negative depth; a
    head (`a1.h1`) averages the marks; `m1` detects a final depth other than zero, and any mark.
    """

    name = "compiled/dyck"
    title = "Dyck-1: balanced brackets"
    description = "( ( ) ) ( ): balanced"
    words = ("BOS", "(", ")", "balanced", "unbalanced")
    n_ctx = 11

    @classmethod
    def network(cls) -> Network:
        v, p = len(cls.words), float(cls.n_ctx)
        one = torch.ones(1, 1, dtype=DTYPE)
        brackets = pairing(v, 1, {(1, 0): 1, (2, 0): -1})
        return Network(
            v, cls.n_ctx, {"depth": 1, "below": 1, "ever": 1, "fault": 1},
            heads={"a0.h0": Head("token", "depth", brackets), "a1.h1": Head("below", "ever", one)},
            mlps={
                "m0": steps({"depth": -p * one}, {"below": one}),
                "m1": steps(
                    {"depth": p * pairing(1, 3, {(0, 0): 1, (0, 1): -1}), "ever": p * pairing(1, 3, {(0, 2): 1})},
                    {"fault": torch.ones(3, 1, dtype=DTYPE)},
                ),
            },
            unembed={"fault": LOGIT * one_hot(v, 4)[None], "one": LOGIT / 2 * one_hot(v, 3)[None]},
        )  # fmt: skip

    def solve(self, prompt: Sequence[int]) -> Ids:
        depth = 0
        for token in prompt[1:]:
            depth += 1 if token == 1 else -1
            if depth < 0:
                return (4,)
        return (4,) if depth else (3,)

    def prompts(self, draw: Draw) -> tuple[Sequence[int], Sequence[int]]:
        balanced = self._balanced(draw)
        other = list(balanced)
        if draw.index % 2:
            draw.random.shuffle(other)
        else:
            place = draw.random.randrange(len(other))
            other[place] = 3 - other[place]
        prompts = [BOS, *balanced], [BOS, *other]
        return prompts if draw.index % 4 < 2 else (prompts[1], prompts[0])

    def spans(self, prompt: Sequence[int]) -> Mapping[str, Place]:
        return {"brackets": (1, len(prompt) - 1)}

    def _balanced(self, draw: Draw) -> Sequence[int]:
        """Eight random balanced brackets."""
        tokens, depth = [], 0
        for left in range(8, 0, -1):
            opens = depth == 0 or (depth < left and draw.random.random() < 0.5)
            tokens.append(1 if opens else 2)
            depth += 1 if opens else -1
        return tokens
