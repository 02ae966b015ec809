"""Ensembles, the start of edge pruning and its masks against the authors' code (golden; 2510.06811)."""

import json
from pathlib import Path

import pytest
import torch

from circuits import EdgeScores, ensemble
from circuits.measure.mask_training import first_steps
from circuits.stats import hard_concrete
from circuits.stats.correlation import ranks
from tests.tiny_models import tiny

CASE = json.loads((Path(__file__).parents[1] / "golden" / "ensembles" / "values.json").read_text())
GRAPH = tiny("gpt2").graph
N = 20


def scored(values):
    """Scores of the graph's first edges; all others are 0."""
    wide = torch.zeros(GRAPH.n_edges, dtype=torch.float64)
    wide[:N] = torch.tensor(values, dtype=torch.float64).flatten()
    placed = torch.zeros(GRAPH.edge_mask.shape, dtype=torch.float64)
    placed[GRAPH.edge_mask] = wide
    return EdgeScores(GRAPH, placed, torch.full_like(placed, torch.nan), 1, {})


def first(scores):
    return scores.values[GRAPH.edge_mask][:N]


def theirs(name):
    return torch.tensor(CASE[name], dtype=torch.float64).flatten()


@pytest.mark.parametrize("how", ["mean", "max", "min"])
def test_raw_ensembles_of_absolute_scores_are_the_authors(how):
    members = [scored(torch.tensor(one, dtype=torch.float64).abs().tolist()) for one in CASE["scores"]]
    got = ensemble(members, how, normalise="none")
    torch.testing.assert_close(first(got), theirs(f"{how}, absolute"), rtol=1e-12, atol=0)


def test_of_signed_scores_the_mean_is_the_authors_and_max_and_min_go_by_size():
    members = [scored(one) for one in CASE["scores"]]
    torch.testing.assert_close(
        first(ensemble(members, "mean", normalise="none")), theirs("mean, signed"), rtol=1e-12, atol=1e-15
    )
    raw = torch.stack([torch.tensor(one, dtype=torch.float64).flatten() for one in CASE["scores"]])
    for how, reduced in (("max", raw.amax(0)), ("min", raw.amin(0))):
        torch.testing.assert_close(theirs(f"{how}, signed"), reduced)  # the authors compare signed scores
        positive = (raw > 0).all(0)
        assert 0 < int(positive.sum()) < N
        got = first(ensemble(members, how, normalise="none"))
        torch.testing.assert_close(got[positive], theirs(f"{how}, signed")[positive], rtol=1e-12, atol=0)
        assert not torch.equal(got, theirs(f"{how}, signed"))


def test_masks_start_in_the_authors_order():
    steps = first_steps(scored(CASE["scores"][0]), GRAPH)[:N]
    wanted = theirs("warm start")
    assert torch.equal(ranks(steps[:, None].double()), ranks(wanted[:, None]))
    assert (steps > 0).all()  # here all of these edges are above the median, which has no step
    assert int((wanted > 0).sum()) < 5  # there, a tenth of the masks starts open


def test_hard_concrete_masks_are_the_authors():
    got = hard_concrete.draw(theirs("log_alpha"), theirs("uniform"))
    torch.testing.assert_close(got, theirs("masks"), rtol=1e-9, atol=1e-12)
    assert {0.0, 1.0} < set(got.tolist())
