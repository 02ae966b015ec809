"""What each head does, in a form that can be compared between models: where it looks, and what it adds to the metric directly.

| features of a head on a prompt | from |
|---|---|
| attention between the roles that all prompts have, and from and to the answer position | `circuits.attention`, as in descriptions |
| attention from these to the first token, to the previous token and to itself | the same |
| direct effect on the metric, and its parts by the role of the source token | `circuits.direct_effects`, as in descriptions |

Direct effects are divided by the mean size of the largest one of the model, so that models of different scale can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.attention import ANSWER_POSITION, Attention, attention
from circuits.errors import InputError
from circuits.methods.direct_effects import direct_effects
from circuits.model import Model
from circuits.prompts.pair import bounds
from circuits.prompts.pairs import PromptPairs
from circuits.question.metrics import MetricLike

NEAR = ("first token", "previous token", "itself")
DIRECT = "direct effect"


@dataclass(frozen=True, eq=False)
class HeadProfiles:
    """Profiles of all heads.

    Attributes:
        heads: their names.
        features: names of the features.
        values: the features of each head on each prompt.
    """

    heads: tuple[str, ...]
    features: tuple[str, ...]
    values: Float[Tensor, "prompt head feature"]


def common_roles(*sets: PromptPairs) -> tuple[str, ...]:
    """The roles that every pair of all sets has, without those at the answer position in all of them."""
    shared = set.intersection(*(set(roles) for pairs in sets for roles in pairs.roles))

    def at_the_answer(role: str) -> bool:
        return all(
            bounds(roles[role]) == (at, at + 1)
            for pairs in sets for roles, at in zip(pairs.roles, pairs.positions, strict=True)
        )  # fmt: skip

    return tuple(role for role in sets[0].roles[0] if role in shared and not at_the_answer(role))


def head_profiles(
    model: Model, pairs: PromptPairs, roles: Sequence[str], direct: bool = True, metric: MetricLike | None = None
) -> HeadProfiles:
    """The profiles of all heads of a model.

    Args:
        model: a model that shows its attention patterns.
        pairs: the prompts; the clean ones are run.
        roles: roles that all pairs have, see `common_roles`.
        direct: whether to measure direct effects; see `why_no_direct_effects`.
        metric: of direct effects; None: the task's preferred metric.

    Raises:
        ModelError: the model does not show its attention patterns.
    """
    seen = attention(model, pairs)
    labels, between = seen.between((*roles, ANSWER_POSITION))
    features = [f"{query} to {key}" for query in labels for key in labels]
    parts = [between.flatten(2)]
    for query in labels:
        parts.append(_near(seen, query))
        features += [f"{query} to {key}" for key in NEAR]
    if direct:
        whole = direct_effects(model, pairs, nodes="heads", metric=metric).per_prompt  # [head, prompt]
        effects, names = whole[:, :, None], [DIRECT]
        if roles:
            by_source = direct_effects(model, pairs, nodes="heads", positions="roles", metric=metric)
            assert by_source.positions is not None
            chosen = [i for i, role in enumerate(by_source.positions) if role in roles]
            effects = torch.cat([effects, by_source.per_prompt[:, chosen].transpose(1, 2)], 2)
            names += [f"{DIRECT} from {by_source.positions[i]}" for i in chosen]
        parts.append(effects.double() / whole.double().mean(1).abs().max().clamp(min=1e-30))
        features += names
    return HeadProfiles(seen.heads, tuple(features), torch.cat(parts, 2).transpose(0, 1))


def why_no_direct_effects(model: Model, pairs: PromptPairs, metric: MetricLike | None) -> str | None:
    """Why direct effects cannot be measured, such as answers of several tokens; None if they can."""
    try:
        direct_effects(model, pairs[:1], nodes="heads", metric=metric)
    except InputError as problem:
        return str(problem)
    return None


def _near(seen: Attention, query: str) -> Float[Tensor, "head pair near"]:
    """Attention from the last token of a role to the first token, to the token before and to itself."""
    pairs, rows = seen.pairs, []
    patterns = torch.stack([seen.pattern[head] for head in seen.heads]).double()
    for i, position in enumerate(pairs.positions):
        at = position if query == ANSWER_POSITION else bounds(pairs.roles[i][query])[1] - 1
        rows.append(patterns[:, i, at, [0, max(at - 1, 0), at]])
    return torch.stack(rows, 1)
