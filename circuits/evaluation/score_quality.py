"""Properties of scores that need no ground truth: complexity and sensitivity (Bhatt et al. 2020, 2005.00631).

Scores are easier to use if few edges carry them, and if similar prompts have similar scores.
"""

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.plain_torch import plain_torch
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores


@plain_torch
def complexity(scores: EdgeScores | NodeScores) -> float:
    """Entropy of the shares |score| / Σ|score| in nats (Bhatt et al., definition 3): 0 if one part has the whole share, ln n if
    all n shares are equal. Its exponential is the number of parts that have this entropy with equal shares.

    Raises:
        InputError: all scores are 0.
    """
    values = scores.values[scores.candidates] if isinstance(scores, EdgeScores) else scores.values
    sizes = values.double().abs().flatten()
    total = float(sizes.sum())
    if total == 0:
        raise InputError("all scores are 0, so shares are undefined")
    shares = sizes[sizes > 0] / total
    return -float((shares * shares.log()).sum())


@dataclass(frozen=True)
class Sensitivity:
    """Change of the scores between prompts of one kind.

    Attributes:
        mean, largest: distance between two prompts' score vectors, each scaled to length 1, over pairs of prompts (0: the same
            direction, √2: orthogonal, 2: opposite).
        pairs: number of pairs of prompts.
    """

    mean: float
    largest: float
    pairs: int

    def to_dict(self) -> dict[str, float | int]:
        """JSON values."""
        return asdict(self)


@plain_torch
def sensitivity(scores: EdgeScores | NodeScores) -> Sensitivity:
    """Mean and largest distance between prompts' scores (Bhatt et al., definitions 1 and 2; the other prompts of the task serve as
    the neighbourhood of an input).

    Args:
        scores: scores with effects per prompt; a group of prompts counts as one.

    Raises:
        InputError: fewer than two prompts have scores.
    """
    rows = _rows(scores)
    length = rows.norm(dim=1)
    rows = rows[length > 0] / length[length > 0, None]
    n = len(rows)
    if n < 2:
        raise InputError("sensitivity compares prompts; these scores have fewer than two prompts with any effect")
    cosine = (rows @ rows.T).clamp(-1, 1)
    distance = (2 - 2 * cosine).sqrt()[torch.ones(n, n, dtype=torch.bool).triu(1)]
    return Sensitivity(float(distance.mean()), float(distance.max()), math.comb(n, 2))


def _rows(scores: EdgeScores | NodeScores) -> Float[Tensor, "row part"]:
    if isinstance(scores, NodeScores):
        return scores.per_prompt.reshape(-1, scores.n_prompts).T.double()
    if scores.per_prompt is None:
        raise InputError("these scores have no effects per prompt")
    return scores.per_prompt.double()
