"""Token positions as an axis of scores: all positions, or those that a task names."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.errors import PairsError
from circuits.prompts.pairs import PromptPairs
from circuits.question.places import one_length
from circuits.question.question import Batch


def position_axis(pairs: PromptPairs, positions: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The labels of a position axis.

    Args:
        pairs: the prompts.
        positions: None: no axis; `each`: every position, for prompts of equal length; `roles`: all roles that every
            pair has, in order of their position in the first pair; or names of roles.

    Raises:
        PairsError: the pairs do not have these positions.
    """
    if positions is None:
        return None
    if positions == "each":
        return one_length(pairs)
    if positions == "roles":
        common = [role for role in pairs.roles[0] if all(role in roles for roles in pairs.roles)]
        wanted = sorted(common, key=lambda role: pairs.roles[0][role])
    else:
        wanted = [positions] if isinstance(positions, str) else list(positions)
    for role in wanted:
        for i, roles in enumerate(pairs.roles):
            if role not in roles:
                raise PairsError(f"pair {i} has no role {role!r} (its roles: {', '.join(roles) or 'none'})")
    if not wanted:
        raise PairsError("these pairs name no roles; use positions='each', or give roles in the file")
    return tuple(wanted)


def place(label: str, batch: Batch, pairs: PromptPairs) -> Int[Tensor, " batch"]:
    """A label's position in each prompt of a batch, counted from the suffix's start; negative in the common prefix."""
    rows = batch.suffix.batch.index.tolist()
    positions = [pairs.roles[i][label] if label in pairs.roles[i] else int(label) for i in rows]
    return torch.tensor(positions, device=batch.suffix.clean.device) - batch.suffix.start
