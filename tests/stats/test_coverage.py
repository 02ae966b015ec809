"""The coverage that the documentation states for 95% intervals of a mean, simulated again with fewer draws."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACE = importlib.util.spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
assert PLACE is not None
assert PLACE.loader is not None
benchmark = importlib.util.module_from_spec(PLACE)
PLACE.loader.exec_module(benchmark)
DRAWS = 800


@pytest.mark.parametrize(
    ("method", "distribution", "n", "stated"),
    [
        ("percentile", "normal", 8, 0.89),
        ("percentile", "lognormal", 8, 0.78),
        ("percentile", "lognormal", 32, 0.88),
        ("t", "normal", 8, 0.95),
        ("t", "lognormal", 16, 0.86),
    ],
)
def test_an_interval_covers_what_the_documentation_states(method, distribution, n, stated):
    result = benchmark.coverage(method, distribution, n, DRAWS, resamples=400, seed=1)
    assert result == pytest.approx(stated, abs=0.01 + 3 * (stated * (1 - stated) / DRAWS) ** 0.5)
    row = next(
        line for line in (ROOT / "docs" / "selection.md").read_text().splitlines() if _is(line, distribution, method)
    )
    assert f"{stated:.0%}" in row


def _is(line, distribution, method):
    return line.startswith(f"| {distribution} | {'percentile bootstrap' if method == 'percentile' else 'Student'}")
