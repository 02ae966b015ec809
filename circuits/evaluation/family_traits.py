"""What families of prompts follow: a template, a role, or a token."""

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.evaluation.hypothesis_statistics import holm
from circuits.prompts.pair import Place, TokenIds, bounds
from circuits.prompts.pairs import PromptPairs
from circuits.stats.grouping import association

PERMUTATIONS = 999


@dataclass(frozen=True)
class Trait:
    """A property of prompts, and how far it tells their families.

    Attributes:
        name: the property.
        strength: Cramér's V: 1 if it tells each prompt's family, 0 if it tells nothing.
        p: p value over permutations of the families, corrected for the number of properties (Holm).
        values: the number of values that it has.
    """

    name: str
    strength: float
    p: float
    values: int


def traits(pairs: PromptPairs, labels: Int[Tensor, " pair"], seed: int = 0) -> tuple[Trait, ...]:
    """All properties that vary but are not different for nearly every prompt, those that vary alike together; the clearest first."""
    named: dict[tuple[int, ...], list[str]] = {}
    for name, values in properties(pairs).items():
        numbers = {value: i for i, value in enumerate(dict.fromkeys(values))}
        if 2 <= len(numbers) <= len(pairs) // 2:
            named.setdefault(tuple(numbers[value] for value in values), []).append(name)
    measured = [association(labels, values, PERMUTATIONS, seed) for values in named]
    corrected = holm(torch.tensor([p for _, p in measured], dtype=torch.float64)).tolist() if measured else []
    kept = [
        Trait(", ".join(names), strength, p, len(set(values)))
        for (values, names), (strength, _), p in zip(named.items(), measured, corrected, strict=True)
    ]
    return tuple(sorted(kept, key=lambda trait: (trait.p, -trait.strength)))


def properties(pairs: PromptPairs) -> dict[str, tuple[Hashable, ...]]:
    """The properties of the prompts, by name, with a value for each pair."""
    n = range(len(pairs))
    roles = [dict(pairs.roles[i]) for i in n]
    columns: dict[str, tuple[Hashable, ...]] = {
        "the template (tokens outside of roles and answers)": tuple(_template(pairs, i) for i in n),
        "the order of roles": tuple(
            tuple(sorted(role, key=lambda name, role=role: bounds(role[name]))) for role in roles
        ),
        "the number of tokens": tuple(len(pairs.clean[i]) for i in n),
        "the last token": tuple(pairs.clean[i][pairs.positions[i]] for i in n),
        "the answer": tuple(pairs.answers[i] for i in n),
    }
    for name in dict.fromkeys(name for role in roles for name in role):
        columns[f"the tokens of role {name}"] = tuple(
            _tokens(pairs.clean[i], role.get(name)) for i, role in enumerate(roles)
        )
        columns[f"the position of role {name}"] = tuple(role.get(name) for role in roles)
    for name in dict.fromkeys(name for i in n for name in pairs.metadata[i]):
        columns[f"column {name}"] = tuple(str(pairs.metadata[i].get(name)) for i in n)
    return columns


def _tokens(prompt: TokenIds, place: Place | None) -> TokenIds | None:
    return None if place is None else prompt[slice(*bounds(place))]


def _template(pairs: PromptPairs, i: int) -> tuple[int | None, ...]:
    """The clean prompt without the tokens of roles, of answers and of distractors, and without what its pair changes."""
    clean = pairs.clean[i]
    left_out = {*pairs.answers[i], *pairs.distractors[i]}
    at_roles = {at for name, place in pairs.roles[i].items() if name != "end" for at in range(*bounds(place))}
    changed = set(pairs.pair(i).differing)
    return tuple(
        None if token in left_out or at in at_roles or at in changed else token for at, token in enumerate(clean)
    )
