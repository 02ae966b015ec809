"""What 95% intervals of a mean over prompts cover: simulated, since effects are neither normal nor many.

    python benchmarks/coverage.py

`percentile` and `t` are those of the package (`circuits.stats.bootstrap`); `BCa` and `bootstrap-t` were tried beside them.
"""

import argparse

import numpy as np
import torch
from scipy import stats

from circuits.stats.bootstrap import bootstrap_interval, t_interval

DISTRIBUTIONS = {
    "normal": (lambda draw, shape: draw.standard_normal(shape), 0.0),
    "Student's t, 3 degrees": (lambda draw, shape: draw.standard_t(3, shape), 0.0),
    "lognormal": (lambda draw, shape: np.exp(draw.standard_normal(shape)), float(np.exp(0.5))),
    "one prompt in ten": (lambda draw, shape: (draw.random(shape) < 0.1).astype(float), 0.1),
}
"""How effects on prompts are distributed, and the mean. In the last, one prompt in ten has an effect of 1 and the others none."""


def percentile(values: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = bootstrap_interval(torch.from_numpy(values), resamples=resamples)
    return low.numpy(), high.numpy()


def student(values: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    rows = torch.from_numpy(values)
    n = rows.shape[1]
    low, high = t_interval(rows.mean(1), rows.std(1) / n**0.5, n)
    return low.numpy(), high.numpy()


def bca(values: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Bias-corrected and accelerated (Efron 1987), row by row; an interval without a width where all values are one."""
    drawn = np.random.default_rng(0).integers(values.shape[1], size=(resamples, values.shape[1]))
    n, means = values.shape[1], values[:, drawn].mean(2)
    own = values.mean(1, keepdims=True)
    share = ((means < own).mean(1) + 0.5 * (means == own).mean(1)).clip(1e-6, 1 - 1e-6)
    jackknife = (values.sum(1, keepdims=True) - values) / (n - 1)
    away = jackknife.mean(1, keepdims=True) - jackknife
    spread = (away**2).sum(1)
    acceleration = np.divide((away**3).sum(1), 6 * spread**1.5, out=np.zeros(len(values)), where=spread > 0)
    z = stats.norm.ppf(share)
    ends = []
    for tail in (0.025, 0.975):
        moved = z + stats.norm.ppf(tail)
        at = stats.norm.cdf(z + moved / (1 - acceleration * moved))
        ends.append(np.array([np.quantile(row, q) for row, q in zip(means, at, strict=True)]))
    return ends[0], ends[1]


def bootstrap_t(values: np.ndarray, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Resampled means in units of the resample's own standard error (Efron 1982)."""
    drawn = np.random.default_rng(0).integers(values.shape[1], size=(resamples, values.shape[1]))
    n, picked = values.shape[1], values[:, drawn]
    own, error = values.mean(1), values.std(1, ddof=1) / n**0.5
    errors = picked.std(2, ddof=1) / n**0.5
    ratio = np.divide(picked.mean(2) - own[:, None], errors, out=np.full(errors.shape, np.nan), where=errors > 0)
    ratio[np.isnan(ratio).all(1)] = 0
    low, high = np.nanquantile(ratio, [0.025, 0.975], axis=1)
    return own - high * error, own - low * error


METHODS = {"percentile": percentile, "t": student, "BCa": bca, "bootstrap-t": bootstrap_t}


def coverage(method: str, distribution: str, n: int, draws: int, resamples: int, seed: int = 0) -> float:
    """The share of intervals of n prompts that hold the true mean."""
    make, mean = DISTRIBUTIONS[distribution]
    values = make(np.random.default_rng(seed + n), (draws, n))
    held = 0
    for part in np.array_split(values, max(1, draws // 100)):
        low, high = METHODS[method](part, resamples)
        held += int(((low <= mean) & (mean <= high)).sum())
    return held / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--prompts", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    given = parser.parse_args()
    print("| effects | interval | " + " | ".join(f"n = {n}" for n in given.prompts) + " |")
    print("|---|---|" + "---|" * len(given.prompts))
    for distribution in DISTRIBUTIONS:
        for method in METHODS:
            cells = [coverage(method, distribution, n, given.draws, given.resamples) for n in given.prompts]
            print(f"| {distribution} | {method} | " + " | ".join(f"{100 * c:.0f}%" for c in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
