"""A patched query's or key's effect through the recomputed softmax: AtP*'s QK fix.

(Kramár et al. 2024, 2403.00745.) A fix is computed once from a run's scores or outputs, and serves any gradient.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowFix:
    """New queries (or all new keys at once): each head's output changes by `change`.

    Attributes:
        change: new z minus old z.
        slots: number of nodes that these heads form; heads of one node are neighbours.
    """

    change: Float[Tensor, "batch pos head d_head"]
    slots: int

    def effects(self, gradient: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos slot"]:
        """(old z - new z) · gradient at z."""
        return _pool(-(self.change * gradient.to(self.change.dtype)).sum(-1), self.slots)


@dataclass(frozen=True, eq=False)
class KeyFix:
    """New keys, each position separately, in O(pos²) for all.

    Key j changes one score of row i, from s to s'. With L the log-sum-exp of the row's other scores and σ the logistic
    function, its weight changes by Δ = σ(s' - L) - σ(s - L), and the other weights shrink or grow in proportion. The
    row's output changes by Δ (v_j - r_j), where r_j is the other keys' mean value. Let v* be the value of the row's
    strongest key, r* the mean value of all other keys and ε their weight. Then

        v_j - r_j = (v_j - v* - ε (r* - v*)) / (1 - A_j)    for another key than the strongest, where A_j ≤ 1/2
        v_j - r_j = -(r* - v*)                               for the strongest

    No division is by a small number, so the result is exact up to rounding however saturated the row is.

    Attributes:
        weights: Δ / (1 - A_j), for the strongest Δ; 0 if a row sees one key only.
        rest_weights: weights times ε, for the strongest 1.
        strongest: v*.
        rest: r* - v*.
        values: v of the patched keys.
        slots: see `RowFix`.
    """

    weights: Float[Tensor, "batch head query key"]
    rest_weights: Float[Tensor, "batch head query key"]
    strongest: Float[Tensor, "batch head query d_head"]
    rest: Float[Tensor, "batch head query d_head"]
    values: Float[Tensor, "batch head key d_head"]
    slots: int

    def effects(self, gradient: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos slot"]:
        """(old z - new z) · gradient at z, summed over rows, for each key position."""
        g = gradient.transpose(1, 2).to(self.weights.dtype)
        change = (self.weights.transpose(2, 3) @ g * self.values).sum(-1)
        change -= ((g * self.strongest).sum(-1)[:, :, None] @ self.weights)[:, :, 0]
        change -= ((g * self.rest).sum(-1)[:, :, None] @ self.rest_weights)[:, :, 0]
        return _pool(-change.transpose(1, 2), self.slots)


def _pool(by_head: Float[Tensor, "batch pos head"], slots: int) -> Float[Tensor, "batch pos slot"]:
    return by_head.unflatten(2, (slots, -1)).sum(3)


def key_fix(
    scores: Float[Tensor, "batch head query key"],
    patched: Float[Tensor, "batch head query key"],
    values: Float[Tensor, "batch head key d_head"],
    slots: int,
    n_patched: int | None = None,
) -> KeyFix:
    """The `KeyFix` of one layer.

    Args:
        scores, patched: inputs of the softmax with old and with new keys; masked entries are -inf or hugely negative.
        values: v of all visible keys.
        slots: number of nodes that the heads form.
        n_patched: only the last n_patched keys can be patched; the others are a cached prefix. None: all.
    """
    wide = torch.promote_types(torch.promote_types(scores.dtype, values.dtype), torch.float32)
    hidden = scores <= torch.finfo(scores.dtype).min / 2
    old, new = (x.to(wide).masked_fill(hidden, -torch.inf) for x in (scores, patched))
    strongest = old.argmax(-1, keepdim=True)
    others = old.scatter(-1, strongest, -torch.inf)
    alone = others.amax(-1, keepdim=True) == -torch.inf
    all_sum, others_sum = old.logsumexp(-1, keepdim=True), others.logsumexp(-1, keepdim=True)
    pattern = (old - all_sum).exp()
    left_out = (all_sum + torch.log1p(-pattern)).scatter(-1, strongest, others_sum)
    delta = _sigmoid_difference(new - left_out, old - left_out).masked_fill(hidden | alone, 0)
    weights = delta / (1 - pattern).scatter(-1, strongest, 1)
    share = (others_sum - all_sum).exp().expand_as(weights).scatter(-1, strongest, 1)
    values = values.to(wide)
    top = values.gather(2, strongest.expand(*strongest.shape[:3], values.shape[-1]))
    rest = others.softmax(-1).masked_fill(alone, 0) @ values - top
    last = slice(0 if n_patched is None else scores.shape[-1] - n_patched, None)
    weights = weights[..., last]
    return KeyFix(weights, weights * share[..., last], top, rest, values[:, :, last], slots)


def _sigmoid_difference(a: Tensor, b: Tensor) -> Tensor:
    """σ(a) - σ(b), exact up to rounding even if both are near 0 or 1."""
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    return torch.sign(a - b) * high.sigmoid() * (-low).sigmoid() * -torch.expm1(low - high)
