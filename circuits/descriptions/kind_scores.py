"""The scores of the kinds of heads, from attention patterns and from what heads write: each a number in [0, 1] for each prompt.

A pattern's row is one query. On repeated sequences (BOS, n tokens, the same n again; `probe_prompts`):

| kind | score | source |
|---|---|---|
| previous token | attention to the token before | Elhage et al. 2021 |
| current token | attention to itself | |
| first token | attention to the first token | Xiao et al. 2023, 2309.17453 |
| duplicate token | in the second half, attention to the same token in the first | Wang et al. 2022, 2211.00593 |
| induction | in the second half, attention to the token after the earlier same one, times copying | Olsson et al. 2022, 2209.11895 |
| copy suppression | the same attention, times anti-copying | McDougall et al. 2023, 2310.04625 |
| copying | share of tokens whose own logit the head's values raise most, of all tokens in the sequences | Wang et al. 2022 |
| local | attention to the last four tokens | |
| broad | entropy of attention, as a share of that of uniform attention | |
| positional | overlap Σ_key min of the patterns on two sequences of different tokens | |

On the task's prompts, from the answer position unless stated otherwise:

| kind | score | source |
|---|---|---|
| name mover | attention to an earlier right answer, times copying of it | Wang et al. 2022 |
| negative mover | the same attention, times anti-copying | Wang et al. 2022; McDougall et al. 2023 |
| wrong-answer suppressor | attention to earlier wrong answers, times anti-copying of them | |
| S-inhibition | attention to the last of several equal wrong answers | Wang et al. 2022 |
| prefix matching | from repeated tokens, attention to the token after the earlier same one | Olsson et al. 2022, 2209.11895 |
| repeated token | from repeated tokens, attention to the earlier same one | Wang et al. 2022 |
| same class | from each answer or distractor of any pair, attention to earlier other ones | |

The repeated tokens of a prompt are those of its answers and distractors that stand there before, and the token of the answer position.

| kind | score | source |
|---|---|---|
| successor | share of words of a series (days, months, numbers) whose successor's logit the values raise most | Gould et al. 2023, 2312.09230 |
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.probe_prompts import Repeated
from circuits.descriptions.rotated import Patterns
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.sequences import Answer

NEAR = 4
"""Tokens of `local`, the query's own among them."""

Scores = dict[str, Float[Tensor, "head prompt"]]


def on_sequences(
    pattern: Patterns, repeated: Repeated, copies: Float[Tensor, "head token"], suppresses: Float[Tensor, "head token"]
) -> Scores:
    """The kinds that repeated sequences show.

    Args:
        pattern: of all heads on the sequences.
        repeated: the sequences.
        copies, suppresses: whether each head copies, and suppresses, each of some tokens.
    """
    n, length = repeated.half, pattern.shape[-1]
    second = torch.arange(n + 1, length)
    target = _attention(pattern, second[:-1], second[:-1] - n + 1)
    early = min(NEAR, length - 2)
    near = torch.stack([pattern[..., q, max(0, q - NEAR + 1) : q + 1].sum(-1) for q in range(early, length)]).mean(0)
    later = torch.arange(2, length)
    return {
        "previous token": _attention(pattern, later, later - 1),
        "current token": _attention(pattern, later, later),
        "first token": pattern[:, :, 1:, 0].mean(-1),
        "duplicate token": _attention(pattern, second, second - n),
        "induction": target * copies.mean(1, keepdim=True),
        "copy suppression": target * suppresses.mean(1, keepdim=True),
        "copying": copies,
        "local": near,
        "broad": _entropy(pattern),
        "positional": torch.minimum(pattern, pattern.roll(1, 1))[:, :, 1:].sum(-1).mean(-1),
    }


def _attention(pattern: Patterns, queries: Tensor, keys: Tensor) -> Float[Tensor, "head sequence"]:
    return pattern[:, :, queries, keys].mean(-1)


def _entropy(pattern: Patterns) -> Float[Tensor, "head sequence"]:
    entropy = torch.special.entr(pattern[:, :, 1:]).sum(-1)
    return (entropy / torch.arange(2, pattern.shape[-1] + 1).log()).mean(-1)


def answer_places(pairs: PromptPairs, wrong: bool = False) -> list[list[int]]:
    """Per pair, the tokens up to the answer position that are right answers, or wrong ones."""
    return [
        [i for i, token in enumerate(clean[: position + 1]) if token in ids]
        for clean, position, ids in zip(
            pairs.clean, pairs.positions, pairs.distractors if wrong else pairs.answers, strict=True
        )
    ]


def repeated_wrong(pairs: PromptPairs) -> list[list[int]]:
    """Per pair, the last token before the answer position that is a distractor which occurs more than once."""
    places = []
    for clean, position, wrong in zip(pairs.clean, pairs.positions, pairs.distractors, strict=True):
        before = clean[:position]
        repeated = [i for i, token in enumerate(before) if token in wrong and before.count(token) > 1]
        places.append(repeated[-1:])
    return places


def repeats(clean: Sequence[int], position: int, answers: Collection[Answer]) -> list[tuple[int, list[int]]]:
    """Tokens up to the answer position that have occurred before, if they are among `answers` or at the answer position: their
    place, and the earlier places, the first token aside."""
    places = [i for i in range(position + 1) if clean[i] in answers or i == position]
    matches = [(i, [j for j in range(1, i) if clean[j] == clean[i]]) for i in places]
    return [(i, earlier) for i, earlier in matches if earlier]


def on_prompts(
    pattern: Sequence[Tensor],
    pairs: PromptPairs,
    copies: Float[Tensor, "head pair"],
    suppresses: Float[Tensor, "head pair"],
    suppresses_wrong: Float[Tensor, "head pair"],
) -> Scores:
    """The kinds that the task's prompts show; without those for which no prompt has such tokens.

    Args:
        pattern: of all heads on each pair's clean prompt: [head, 1, query, key].
        pairs: the prompts.
        copies, suppresses: each head's copying and anti-copying of each pair's earlier right answers.
        suppresses_wrong: its anti-copying of each pair's earlier wrong answers.
    """
    scores: Scores = {}
    to_answer = _from_answer_position(pattern, pairs, answer_places(pairs))
    if to_answer is not None:
        shown = [i for i, places in enumerate(answer_places(pairs)) if places]
        scores["name mover"] = to_answer * copies[:, shown]
        scores["negative mover"] = to_answer * suppresses[:, shown]
    to_any_wrong = _from_answer_position(pattern, pairs, answer_places(pairs, wrong=True))
    if to_any_wrong is not None:
        shown = [i for i, places in enumerate(answer_places(pairs, wrong=True)) if places]
        scores["wrong-answer suppressor"] = to_any_wrong * suppresses_wrong[:, shown]
    to_wrong = _from_answer_position(pattern, pairs, repeated_wrong(pairs))
    if to_wrong is not None:
        scores["S-inhibition"] = to_wrong
    members = {token for ids in (*pairs.answers, *pairs.distractors) for token in ids}
    for kind, shift in (("repeated token", 0), ("prefix matching", 1)):
        rows = []
        for i, (clean, position, *words) in enumerate(
            zip(pairs.clean, pairs.positions, pairs.answers, pairs.distractors, strict=True)
        ):
            repeated = repeats(clean, position, {token for ids in words for token in ids})
            targets = [(q, [k + shift for k in earlier if k + shift < q]) for q, earlier in repeated]
            weights = [pattern[i][:, 0, q, keys].sum(-1) for q, keys in targets if keys]
            rows += [torch.stack(weights).mean(0)] if weights else []
        if rows:
            scores[kind] = torch.stack(rows, 1)
    rows = []
    for i, clean in enumerate(pairs.clean):
        places = [p for p, token in enumerate(clean) if token in members]
        queries = [(p, [k for k in places if k < p and clean[k] != clean[p]]) for p in places]
        weights = [pattern[i][:, 0, p, keys].sum(-1) for p, keys in queries if keys]
        rows += [torch.stack(weights).mean(0)] if weights else []
    if rows:
        scores["same class"] = torch.stack(rows, 1)
    return scores


def _from_answer_position(
    pattern: Sequence[Tensor], pairs: PromptPairs, places: Sequence[Sequence[int]]
) -> Float[Tensor, "head prompt"] | None:
    """Attention from the answer position to some tokens, of the prompts that have any; None without any."""
    rows = [
        pattern[i][:, 0, position, list(keys)].sum(-1)
        for i, (position, keys) in enumerate(zip(pairs.positions, places, strict=True)) if keys
    ]  # fmt: skip
    return torch.stack(rows, 1) if rows else None
