"""The dip against linear programs over all unimodal distributions."""

import pytest
import torch
from scipy.optimize import linprog

from circuits.stats.dip import dip, dip_p_value


def naive_dip(values: list[float]) -> float:
    """The least t for which a distribution is convex up to some mode, concave from there, and within t of the empirical one."""
    x, best = sorted(values), 1.0
    n = len(x)
    for mode in range(n):
        left, t = mode + 1, n + 1  # variables: G up to the mode, G from the mode on (there may be a step), and t
        rows: list[dict[int, float]] = []
        limits: list[float] = []

        def within(variable, value, rows=rows, limits=limits, t=t):
            rows.extend([{variable: 1, t: -1}, {variable: -1, t: -1}])
            limits.extend([value, -value])

        def slopes(at, sign, offset, rows=rows, limits=limits):
            before, after = 1 / (x[at] - x[at - 1]), 1 / (x[at + 1] - x[at])
            rows.append({offset - 1: -sign * before, offset: sign * (before + after), offset + 1: -sign * after})
            limits.append(0)

        for i in range(n):
            for variable in ([i] if i <= mode else []) + ([left + i - mode] if i >= mode else []):
                if not (i == mode and variable != i):
                    within(variable, i / n)
                if not (i == mode and variable == i):
                    within(variable, (i + 1) / n)
        for i in range(1, mode):
            slopes(i, 1, i)
        for i in range(mode + 1, n - 1):
            slopes(i, -1, left + i - mode)
        for i in range(n):
            rows.append({i: 1, i + 1: -1})
            limits.append(0)
        matrix = [[row.get(column, 0) for column in range(n + 2)] for row in rows]
        solved = linprog([0] * (n + 1) + [1], matrix, limits, bounds=[(0, 1)] * (n + 2))
        best = min(best, solved.fun) if solved.status == 0 else best
    return best


@pytest.mark.parametrize("n", [4, 5, 8, 11])
def test_the_dip_is_the_distance_from_the_nearest_unimodal_distribution(n):
    generator = torch.Generator().manual_seed(n)
    normal = torch.randn(n, generator=generator, dtype=torch.float64)
    two = torch.cat([normal[: n // 2], normal[n // 2 :] + 9])
    for values in (normal, two, normal.exp(), torch.rand(n, generator=generator, dtype=torch.float64)):
        assert dip(values.tolist()) == pytest.approx(naive_dip(values.tolist()), abs=1e-7)


def test_what_has_no_second_mode():
    assert dip([1.0] * 8) == 1 / 16
    assert dip_p_value(torch.tensor([1.0, 2.0, 3.0])) == 1
    assert dip_p_value(torch.linspace(0, 1, 20)) == 1
    assert dip_p_value(torch.tensor([0.0, 0.01, 0.02, 0.03] * 2 + [1.0, 1.01, 1.02, 1.03] * 2)) < 0.01
