"""Which head of another model does most nearly what a head of this model does?

Heads are compared by the attention and the direct effects that descriptions are made of (`circuits.descriptions.head_profiles`), not
by their index, so the models may have different graphs. Similarity is the correlation of the features of both heads, each feature
centred and scaled over the heads and prompts of its own model: prompt by prompt if both models have the same prompts, and of the means
over prompts otherwise. Every second prompt gives the match again, twice: a head that is matched differently in the two halves is not
*clear*, and nothing is claimed of it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.head_profiles import HeadProfiles, common_roles, head_profiles, why_no_direct_effects
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.metrics import MetricLike
from circuits.results.circuit import Circuit


@dataclass(frozen=True)
class MatchedHead:
    """A head of the circuit, and the head of the other model that does most nearly the same.

    Attributes:
        head: the head in model A.
        match: the head in model B.
        similarity: correlation of their features, at most 1.
        runner_up: the similarity of the second best head.
        clear: both halves of the prompts give this match.
        moved: it is clear, and not the head of the same name (in a model of the same graph).
    """

    head: str
    match: str
    similarity: float
    runner_up: float
    clear: bool
    moved: bool


Side = tuple[Model, PromptPairs]
"""A model and its prompts."""


def match_heads(
    circuit: Circuit, a: Side, b: Side, metric: MetricLike | None = None, skipped: dict[str, str] | None = None
) -> tuple[MatchedHead, ...]:
    """For each head of the circuit the head of the other model with the most similar profile.

    Args:
        circuit: a circuit of the first model.
        a, b: both models with their prompts.
        metric: of direct effects; None: each task's own.
        skipped: gets why direct effects were not compared.

    Raises:
        ModelError: a model does not show its attention patterns.
    """
    roles = common_roles(a[1], b[1])
    reasons = [why for why in (why_no_direct_effects(*side, metric) for side in (a, b)) if why is not None]
    if reasons and skipped is not None:
        skipped["direct effects of heads"] = reasons[0]
    one, other = (head_profiles(model, pairs, roles, not reasons, metric) for model, pairs in (a, b))
    alike = a[1].digest() == b[1].digest()
    parts = (slice(None), slice(0, None, 2), slice(1, None, 2))
    whole, *halves = (_similarity(one, other, part, alike) for part in parts)
    heads, others = one.heads, other.heads
    same_graph = a[0].graph == b[0].graph
    matched, inside = [], {node.partition("@")[0] for node in circuit.nodes}
    for i, head in enumerate(heads):
        if head in inside:
            best, *rest = whole[i].sort(descending=True, stable=True).indices.tolist()
            second = rest[0] if rest else best
            clear = all(int(half[i].argmax()) == best for half in halves)
            moved = clear and same_graph and others[best] != head
            matched.append(
                MatchedHead(head, others[best], float(whole[i, best]), float(whole[i, second]), clear, moved)
            )
    return tuple(matched)


def _similarity(a: HeadProfiles, b: HeadProfiles, part: slice, one_by_one: bool) -> Float[Tensor, "head other"]:
    """Correlation of the features of each head of A with each head of B, on some of the prompts."""
    shared, rows = [feature for feature in a.features if feature in b.features], []
    for profiles in (a, b):
        values = profiles.values[part] if len(profiles.values) > 1 else profiles.values
        values = values[:, :, [profiles.features.index(feature) for feature in shared]]
        if not one_by_one:
            values = values.mean(0, keepdim=True)
        spread = values.std((0, 1), correction=0)
        scaled = (values - values.mean((0, 1))) / torch.where(spread > 1e-9, spread, torch.inf)
        flat = scaled.transpose(0, 1).flatten(1)
        rows.append(flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12))
    return rows[0] @ rows[1].T
