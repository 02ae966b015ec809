"""Hartigan's dip test: have values more than one mode?

The dip is the smallest distance sup |F - G| between the empirical distribution F and any unimodal distribution G (Hartigan and
Hartigan 1985); the algorithm is theirs (1985, AS 217). Its p value is computed against the uniform distribution, for which dips are
largest among unimodal ones (asymptotically). For a distribution with one clear mode the test therefore rejects much less often than
its level.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

DRAWS = 999


def dip(values: Sequence[float]) -> float:
    """The dip of some values; between 1/(2n) and 1/4."""
    x = sorted(values)
    n = len(x)
    if n < 4 or x[0] == x[-1]:
        return 1 / (2 * max(n, 1))
    below, above = _minorant(x), _majorant(x)
    low, high, largest = 0, n - 1, 1.0
    while True:
        left, right = [high], [low]  # touching points of the convex minorant, and of the concave majorant
        while left[-1] > low:
            left.append(below[left[-1]])
        while right[-1] < high:
            right.append(above[right[-1]])
        distance, at_left, at_right = _farthest(x, left, right)
        if distance < largest:
            break
        spans = [(left[j + 1], left[j], True) for j in range(at_left, len(left) - 1)]
        spans += [(right[j], right[j + 1], False) for j in range(at_right, len(right) - 1)]
        largest = max([largest, *(_deviation(x, *span) for span in spans)])
        if (low, high) == (left[at_left], right[at_right]):
            break
        low, high = left[at_left], right[at_right]
    return largest / (2 * n)


def _minorant(x: Sequence[float]) -> list[int]:
    """For each value the one before it on the greatest convex minorant of the values up to it."""
    before = [0] * len(x)
    for j in range(1, len(x)):
        before[j] = j - 1
        while True:
            k = before[j]
            i = before[k]
            if k == 0 or (x[j] - x[k]) * (k - i) < (x[k] - x[i]) * (j - k):
                break
            before[j] = i
    return before


def _majorant(x: Sequence[float]) -> list[int]:
    """For each value the one after it on the least concave majorant of the values from it on."""
    last = len(x) - 1
    after = [last] * len(x)
    for j in range(last - 1, -1, -1):
        after[j] = j + 1
        while True:
            k = after[j]
            i = after[k]
            if k == last or (x[j] - x[k]) * (k - i) < (x[k] - x[i]) * (j - k):
                break
            after[j] = i
    return after


def _farthest(x: Sequence[float], left: Sequence[int], right: Sequence[int]) -> tuple[float, int, int]:
    """The largest distance between minorant and majorant at their touching points, and where it is."""
    at_left, at_right = len(left) - 1, len(right) - 1
    if len(left) == 2 and len(right) == 2:
        return 1.0, at_left, at_right
    i, j, distance = at_left - 1, 1, 0.0
    while True:
        a, b = left[i], right[j]
        if a > b:
            start = left[i + 1]
            gap = (b - start + 1) - (x[b] - x[start]) * (a - start) / (x[a] - x[start])
            j += 1
            if gap >= distance:
                distance, at_left, at_right = gap, i + 1, j - 1
        else:
            start = right[j - 1]
            gap = (x[a] - x[start]) * (b - start) / (x[b] - x[start]) - (a - start - 1)
            i -= 1
            if gap >= distance:
                distance, at_left, at_right = gap, i + 1, j
        i, j = max(i, 0), min(j, len(right) - 1)
        if left[i] == right[j]:
            return distance, at_left, at_right


def _deviation(x: Sequence[float], start: int, end: int, convex: bool) -> float:
    """The largest distance between the empirical distribution and the chord from one touching point to the next."""
    if end - start <= 1 or x[end] == x[start]:
        return 1.0
    slope = (end - start) / (x[end] - x[start])
    if convex:
        return max(1.0, *((i - start + 1) - (x[i] - x[start]) * slope for i in range(start, end + 1)))
    return max(1.0, *((x[i] - x[start]) * slope - (i - start - 1) for i in range(start, end + 1)))


def dip_p_value(values: Float[Tensor, " value"], seed: int = 0) -> float:
    """p value of the hypothesis that the values have one mode; 1 for fewer than four values."""
    if len(values) < 4:
        return 1.0
    own = dip(values.tolist())
    return (1 + sum(one >= own - 1e-12 for one in _uniform_dips(len(values), seed))) / (1 + DRAWS)


@lru_cache(maxsize=256)
def _uniform_dips(n: int, seed: int) -> tuple[float, ...]:
    drawn = torch.rand(DRAWS, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return tuple(dip(row) for row in drawn.tolist())
