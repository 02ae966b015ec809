"""Token positions as an axis of scores: every position, the spans of the prompts, or those that a task names."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.errors import PairsError
from circuits.prompts.pair import bounds
from circuits.prompts.pairs import PromptPairs
from circuits.question.places import SPANS, one_length
from circuits.question.question import Batch


def position_axis(pairs: PromptPairs, positions: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The labels of a position axis.

    Args:
        pairs: the prompts.
        positions: None: no axis; `each`: every position of the prompts (not those of answers of several tokens behind
            them), for prompts of equal length; `spans`: the spans that divide every prompt (`PromptPairs.spans`); `roles`: all
            roles that every pair has, in order of their position in the first pair; or names of roles or spans.

    Raises:
        PairsError: the pairs do not have these positions.
    """
    if positions is None:
        return None
    if positions == "each":
        return one_length(pairs)
    if positions == SPANS:
        return pairs.spans
    if positions == "roles":
        common = [role for role in pairs.roles[0] if all(role in roles for roles in pairs.roles)]
        wanted = sorted(common, key=lambda role: bounds(pairs.roles[0][role]))
    else:
        wanted = [positions] if isinstance(positions, str) else list(positions)
    for role in wanted:
        for i, roles in enumerate(pairs.roles):
            if role not in roles and role not in span_names(pairs):
                raise PairsError(f"pair {i} has no role {role!r} (its roles: {', '.join(roles) or 'none'})")
    if not wanted:
        raise PairsError("these pairs name no roles; use positions='each', or give roles in the file")
    return tuple(wanted)


def tokens_at(label: str, batch: Batch, pairs: PromptPairs) -> Bool[Tensor, "row pos"]:
    """The tokens of a label in the suffix of each row: of a role, a span, or a token's number; none in the common prefix."""
    starts, stops = zip(*(label_bounds(label, i, pairs) for i in batch.pair_of_row), strict=True)
    device = batch.suffix.clean.device
    tokens = torch.arange(batch.suffix.clean.shape[1], device=device) + batch.suffix.start
    start, stop = (torch.tensor(ends, device=device)[:, None] for ends in (starts, stops))
    return (start <= tokens) & (tokens < stop)


def label_bounds(label: str, pair: int, pairs: PromptPairs) -> tuple[int, int]:
    """The first token of a label, and the one behind its last."""
    roles = pairs.roles[pair]
    if label in roles:
        return bounds(roles[label])
    if label not in span_names(pairs):
        return bounds(int(label))
    starts = (*pairs.span_starts(pair), len(pairs.clean[pair]))
    span = pairs.spans.index(label)
    return starts[span], starts[span + 1]


def span_names(pairs: PromptPairs) -> tuple[str, ...]:
    """The pairs' spans, or none."""
    try:
        return pairs.spans
    except PairsError:
        return ()
