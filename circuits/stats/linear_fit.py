"""Linear models of outcomes on masks: least squares, ridge and lasso, with a column of outcomes for each prompt.

    outcome_ip ≈ bias_p + Σ_j kept_ij · weight_jp

Least squares use one singular value decomposition of the centred masks. It also gives the quality of the fit: rank, condition,
standard errors of the weights, and the prediction of each sample by a fit without it (with the leverage h_i of sample i, the
held-out residual is e_i / (1 - h_i); Allen 1974).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.stats.rounding import computed_in, rounding

FITS = ("least_squares", "ridge", "lasso")
STRENGTHS = torch.logspace(-4, 4, 17, dtype=torch.float64)
"""Penalties of ridge to choose from, times the number of samples and the variance of a mask's entry."""
FOLDS = 5


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A fitted model.

    Attributes:
        weights, bias: of the model of each prompt.
        stderr: of each weight, from the residuals, or from their possible rounding error if that is larger; NaN if there are no
            residuals, or if weights are shrunk.
        mean_stderr: the same for the weights averaged over the prompts.
        left_out: prediction of each sample by a fit without it; NaN if there is none.
        rank: of the centred masks; if it is less than the number of components, some weights cannot be distinguished.
        condition: ratio of the largest to the smallest nonzero singular value.
        strength: the chosen penalty of each prompt, or none.
        rounding: the possible rounding error of each prompt's residuals; smaller residuals are no evidence.
    """

    weights: Float[Tensor, "node prompt"]
    bias: Float[Tensor, " prompt"]
    stderr: Float[Tensor, "node prompt"]
    mean_stderr: Float[Tensor, " node"]
    left_out: Float[Tensor, "sample prompt"]
    rank: int
    condition: float
    strength: tuple[float, ...] = field(default=())
    rounding: Float[Tensor, " prompt"] = field(default_factory=lambda: torch.zeros(0))


def fit_linear(
    kept: Float[Tensor, "sample node"],
    outcomes: Float[Tensor, "sample prompt"],
    fit: str = "least_squares",
    dtype: torch.dtype | None = None,
) -> LinearFit:
    """Fits a model to every prompt.

    Args:
        kept: 1 if a component is kept, 0 if it is ablated.
        outcomes: the metric.
        fit: `least_squares` (of smallest norm, if not unique), `ridge` or `lasso`, with a penalty chosen for each prompt by
            cross-validation.
        dtype: of the computation of the outcomes; None: see `circuits.stats.rounding.computed_in`.

    Raises:
        InputError: an unknown fit, or fewer than two samples.
    """
    if fit not in FITS:
        raise InputError(f"fit must be one of {', '.join(FITS)}, got {fit!r}")
    if len(kept) < 2:
        raise InputError(f"a linear model needs at least 2 samples, got {len(kept)}")
    centre, level = kept.mean(0), outcomes.mean(0)
    x, y = kept - centre, outcomes - level
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    rank = int((s > s.max() * max(x.shape) * torch.finfo(s.dtype).eps).sum()) if bool(s.max() > 0) else 0
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    condition = float(s[0] / s[-1]) if rank else torch.inf
    left = rounding(outcomes.abs().amax(0), dtype or computed_in(outcomes))
    if fit == "least_squares":
        solution = _least_squares(u, s, vt, y, left)
    else:
        solution = _ridge(x, y) if fit == "ridge" else _lasso(x, y)
    weights, stderr, mean_stderr, left_out, strength = solution
    left = left + rounding(weights.abs().sum(0), weights.dtype)  # of the fit's own sums
    return LinearFit(
        weights, level - centre @ weights, stderr, mean_stderr, left_out + level, rank, condition, strength, left
    )


_Solution = tuple[Tensor, Tensor, Tensor, Tensor, tuple[float, ...]]


def _least_squares(
    u: Float[Tensor, "sample rank"],
    s: Float[Tensor, " rank"],
    vt: Float[Tensor, "rank node"],
    y: Float[Tensor, "sample prompt"],
    left: Float[Tensor, " prompt"],
) -> _Solution:
    along = u.T @ y
    weights = vt.T @ (along / s[:, None])
    residuals = y - u @ along
    freedom = len(y) - 1 - u.shape[1]
    spread = (vt.T / s).square().sum(1)
    if freedom > 0:
        variance = spread[:, None] * residuals.square().sum(0) / freedom
        stderr = torch.maximum(variance, spread[:, None] * left.square()).sqrt()
        mean_variance = spread * residuals.mean(1).square().sum() / freedom
        mean_stderr = torch.maximum(mean_variance, spread * left.mean().square()).sqrt()
    else:
        stderr, mean_stderr = torch.full_like(weights, torch.nan), torch.full_like(spread, torch.nan)
    leverage = (1 / len(y) + u.square().sum(1))[:, None]
    alone = leverage > 1 - 1e-9
    left_out = y - residuals / torch.where(alone, 1.0, 1 - leverage)
    return weights, stderr, mean_stderr, left_out.masked_fill(alone, torch.nan), ()


@contextmanager
def _threads_of_torch() -> Iterator[None]:
    """scikit-learn with the number of threads of torch.

    Its linear algebra otherwise takes the number from the environment, which Ray sets in its workers, and results depend on it in
    the last bits. The limit applies only to libraries that are loaded, so scikit-learn is imported before.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(torch.get_num_threads(), user_api="blas"):
        yield


def _ridge(x: Tensor, y: Tensor) -> _Solution:
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    scale = len(x) * max(float(x.var(0).mean()), 1e-12)
    with _threads_of_torch():
        strengths_tried = (STRENGTHS * scale).numpy()
        chosen = RidgeCV(strengths_tried, fit_intercept=False, alpha_per_target=True).fit(x.numpy(), y.numpy())
        strengths = torch.as_tensor(chosen.alpha_).reshape(-1)
        penalties: Any = strengths.numpy()  # one for each prompt
        final = Ridge(penalties, fit_intercept=False)
        left_out = cross_val_predict(final, x.numpy(), y.numpy(), cv=KFold(min(FOLDS, len(x))))
    weights = torch.as_tensor(chosen.coef_, dtype=x.dtype).reshape(-1, x.shape[1]).T.contiguous()
    return _shrunk(weights, torch.as_tensor(left_out, dtype=x.dtype).reshape(y.shape), strengths.tolist())


def _lasso(x: Tensor, y: Tensor) -> _Solution:
    from sklearn.linear_model import Lasso, LassoCV
    from sklearn.model_selection import KFold, cross_val_predict

    weights, left_out, strengths = [], [], []
    folds = KFold(min(FOLDS, len(x)))
    for column in y.T:
        if not bool(column.any()):
            weights.append(torch.zeros(x.shape[1], dtype=x.dtype))
            left_out.append(torch.zeros_like(column))
            strengths.append(0.0)
            continue
        with _threads_of_torch():
            chosen = LassoCV(cv=folds, fit_intercept=False, max_iter=5000).fit(x.numpy(), column.numpy())
            final = Lasso(chosen.alpha_, fit_intercept=False, max_iter=5000)
            predicted = cross_val_predict(final, x.numpy(), column.numpy(), cv=folds)
        weights.append(torch.as_tensor(chosen.coef_, dtype=x.dtype))
        left_out.append(torch.as_tensor(predicted, dtype=x.dtype))
        strengths.append(float(chosen.alpha_))
    return _shrunk(torch.stack(weights, 1), torch.stack(left_out, 1), strengths)


def _shrunk(weights: Tensor, left_out: Tensor, strengths: list[float]) -> _Solution:
    """A penalised fit has no standard errors: its weights are biased, so those from residuals would be too small."""
    unknown = torch.full_like(weights, torch.nan)
    return weights, unknown, unknown[:, 0], left_out, tuple(strengths)
