"""Certified selection: against brute force over all subsets and all deletions, and simulated error rates."""

from itertools import combinations

import pytest
import torch

import circuits
from circuits import Circuit, EdgeScores, Graph, InputError
from circuits.graph.places import Places, over
from circuits.results import subsample_selection
from circuits.results.edge_scores import EdgeScores as Scores
from circuits.results.provenance import frozen
from circuits.results.subsample_selection import pruned_sets, selection_counts, strongest
from circuits.stats.deletion import deletions_allowed, replacements_allowed
from circuits.stats.proportion import clopper_pearson
from tests.tiny_models import random_pairs, tiny

GRAPH = Graph(n_layers=1, n_heads=2, n_kv_heads=2, mlps=(True,))


def scores_of(rows: torch.Tensor, graph: Graph = GRAPH, group: int = 1, n: int | None = None) -> Scores:
    values = torch.zeros(graph.n_writers, graph.n_readers, dtype=torch.float64)
    n = len(rows) if n is None else n
    sizes = torch.tensor([min(group, n - start) for start in range(0, n, group)], dtype=torch.float64)
    values[graph.edge_mask] = (rows.double() * sizes[:, None]).sum(0) / n
    return EdgeScores(graph, values, torch.zeros_like(values), n, per_prompt=rows.float(), group=group)


def unstable(n: int, seed: int, graph: Graph = GRAPH) -> Scores:
    """Edges from certainly strong to certainly weak, with noise that decides those between."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.linspace(0.2, 2, graph.n_edges)
    return scores_of(means + torch.randn(n, graph.n_edges, generator=generator), graph)


def chosen(scores: Scores, rows: list[int], n: int) -> torch.Tensor:
    """Naive: the selection as if there were only these prompts."""
    if not rows:
        return torch.zeros(scores.graph.n_edges, dtype=torch.bool)
    return scores_of(scores.per_prompt[rows], scores.graph).top(n).mask[scores.graph.edge_mask]


def subset_table(scores: Scores, n: int) -> torch.Tensor:
    """The selection from each subset of the prompts, by the subset's bits."""
    rows = len(scores.per_prompt)
    sets = [[i for i in range(rows) if bits >> i & 1] for bits in range(2**rows)]
    return torch.stack([chosen(scores, rows, n) for rows in sets])


def exact(table: torch.Tensor, rows: int, delta: float, deleted: tuple[int, ...] = ()) -> torch.Tensor:
    """Each edge's probability over subsamples of the prompts that are not deleted."""
    gone = sum(1 << i for i in deleted)
    left = rows - len(deleted)
    p = torch.zeros(table.shape[1], dtype=torch.float64)
    for bits in range(2**rows):
        if not bits & gone:
            size = bits.bit_count()
            p += (1 - delta) ** size * delta ** (left - size) * table[bits].double()
    return p


@pytest.mark.parametrize(("seed", "delta"), [(0, 0.5), (1, 0.7), (2, 0.85)])
def test_no_deletion_within_the_radius_changes_the_decision(seed, delta):
    """Every deletion of up to four of seven prompts, each probability by enumeration: the bound holds, and is not idle."""
    rows = 7
    scores = unstable(rows, seed)
    table = subset_table(scores, 5)
    p = exact(table, rows, delta)
    result = circuits.certify(scores, edges=5, deletions=delta, samples=4000, seed=seed)
    used = 0
    for r in range(5):
        for deleted in combinations(range(rows), r):
            after = exact(table, rows, delta, deleted)
            certain = result.radii >= r
            assert bool((((after > 0.5) == (result.states == 1)) | ~certain).all())
            used += int(certain.sum()) if r else 0
            # The bounds of the docstring, for the exact probability.
            beta = delta**r
            assert bool((after >= (p - 1 + beta) / beta - 1e-12).all())
            assert bool((after <= p / beta + 1e-12).all())
    assert used > 0


def test_no_replacement_within_the_radius_changes_the_decision():
    rows, delta = 6, 0.9
    generator = torch.Generator().manual_seed(5)
    scores = scores_of(
        torch.tensor([3.0, 3.0, 3.0, *[0.0] * (GRAPH.n_edges - 3)])
        + 0.1 * torch.randn(rows, GRAPH.n_edges, generator=generator)
    )
    result = circuits.certify(scores, edges=3, deletions=delta, samples=4000)
    assert int((result.replaceable >= 1).sum()) > 0
    hostile = torch.eye(GRAPH.n_edges) * 50
    for i in range(rows):
        for row in hostile:
            other = scores.per_prompt.clone()
            other[i] = row
            after = exact(subset_table(scores_of(other), 3), rows, delta)
            assert bool((((after > 0.5) == (result.states == 1)) | (result.replaceable < 1)).all())


def test_radii_are_those_of_the_derivation():
    doubts = torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for delta in (0.3, 0.5, 0.8, 0.97):
        for allowed, bound in ((deletions_allowed, lambda q: 2 * q), (replacements_allowed, lambda q: 0.5 + q)):
            naive = [max((r for r in range(41) if delta**r > bound(q)), default=-1) for q in doubts.tolist()]
            assert allowed(doubts, delta, 40).tolist() == naive
    assert deletions_allowed(torch.tensor(0.01), 0.8, 64) == 17
    assert replacements_allowed(torch.tensor(0.01), 0.8, 64) == 3


def test_limits_are_wrong_no_more_often_than_stated():
    """Exactly, by summing over all outcomes, for probabilities from 0 to 1."""
    from scipy.stats import binom

    n, error = 40, 0.1
    low, high = clopper_pearson(torch.arange(n + 1), n, error)
    for p in torch.linspace(0, 1, 101).tolist():
        chance = torch.as_tensor(binom.pmf(range(n + 1), n, p))
        assert float(chance[low > p + 1e-12].sum()) <= error / 2 + 1e-9
        assert float(chance[high < p - 1e-12].sum()) <= error / 2 + 1e-9


def test_the_stated_confidence_holds_under_known_instability():
    """300 certificates of 11 unstable edges, whose probabilities are known by enumeration: share with any wrong limit, decision or radius."""
    rows, delta, wrong = 8, 0.6, 0
    scores = unstable(rows, 3)
    p = exact(subset_table(scores, 5), rows, delta)
    true_radius = deletions_allowed(torch.minimum(p, 1 - p), delta, rows)
    assert int(((p > 0.1) & (p < 0.9)).sum()) >= 4
    single = 0
    for seed in range(300):
        result = circuits.certify(scores, edges=5, deletions=delta, samples=200, confidence=0.9, seed=seed)
        low, high = result.limits
        outside = (low > p) | (p > high)
        decided = ((result.states == 1) & (p <= 0.5)) | ((result.states == -1) & (p >= 0.5))
        wrong += bool((outside | decided | (result.radii > true_radius)).any())
        each = circuits.certify(
            scores, edges=5, deletions=delta, samples=200, confidence=0.9, simultaneous=False, seed=seed
        )
        low, high = each.limits
        single += bool(((low > p) | (p > high)).any())
    assert wrong / 300 <= 0.1 + 3 * (0.1 * 0.9 / 300) ** 0.5
    assert single > wrong  # so that the correction is what does it


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "native-attention-only"])
def test_counts_are_those_of_one_selection_per_subsample(name, monkeypatch):
    model = tiny(name)
    monkeypatch.setattr(subsample_selection, "_MORE", 0)  # so that few edges bound all
    scores = circuits.edge_attribution(model, random_pairs(n=6))
    kept = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    kept[0] = False
    for rule, n, options in (
        ("top", 30, {}), ("top", 30, {"by": "signed"}), ("top", 20, {"fill": True}), ("greedy", 25, {}),
        ("positive-share", 25, {"share": 0.5}), ("threshold", 0, {"tau": float(scores.values.abs().max()) / 10}),
    ):  # fmt: skip
        naive = torch.zeros(model.graph.n_edges, dtype=torch.long)
        for row in kept:
            if row.any():
                one = scores_of(scores.per_prompt[row], model.graph)
                circuit = one.threshold(**options) if rule == "threshold" else one.select(n, rule, **options)
                naive += circuit.mask[model.graph.edge_mask]
        assert torch.equal(selection_counts(scores, kept, rule, n, options), naive), (rule, options)
        assert int(naive.sum()) > 0


def test_ties_are_chosen_in_graph_order():
    values = torch.tensor([[1.0, 2, 2, 2, 0], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]])
    assert strongest(values, 2).tolist() == [
        [False, True, True, False, False], [True, True, False, False, False], [True, True, False, False, False],
    ]  # fmt: skip


@pytest.mark.parametrize("graph", [tiny("gpt2").graph, tiny("llama").graph, Graph(2, 4, 2, (True, False), True)])
def test_pruning_many_sets_is_pruning_each(graph):
    generator = torch.Generator().manual_seed(0)
    sets = torch.rand(20, graph.n_edges, generator=generator) < torch.rand(20, 1, generator=generator) / 3
    pruned = pruned_sets(graph, sets)
    for before, after in zip(sets, pruned, strict=True):
        mask = torch.zeros_like(graph.edge_mask)
        mask[graph.edge_mask] = before
        assert torch.equal(Circuit(graph, mask).pruned().mask[graph.edge_mask], after)


def test_groups_are_deleted_as_groups_with_their_sizes():
    rows = torch.randn(5, GRAPH.n_edges, generator=torch.Generator().manual_seed(1))
    grouped = scores_of(rows, group=2, n=9)  # the last group has one prompt
    prompts = torch.cat([rows[:4].repeat_interleave(2, 0), rows[4:]])
    kept = torch.rand(30, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    of_prompts = torch.cat([kept[:, :4].repeat_interleave(2, 1), kept[:, 4:]], 1)
    expected = selection_counts(scores_of(prompts), of_prompts, "top", 5, {})
    assert torch.equal(selection_counts(grouped, kept, "top", 5, {}), expected)
    result = circuits.certify(grouped, edges=5, samples=200)
    assert result.n_rows == 5
    assert result.unit == "groups of 2 prompts"
    assert int(result.radii.max()) <= 5


@pytest.fixture(scope="module")
def certificate():
    return circuits.certify(unstable(30, 0), edges=5, deletions=0.5, samples=500)


def test_circuits_of_a_certificate_have_the_edges_of_their_status(certificate):
    status, radius = certificate.status, certificate.radius
    assert set(status.values()) == {"in", "out", "abstained"}
    assert certificate.circuit().edges == tuple(e for e in GRAPH.edges if status[e] == "in")
    within = tuple(e for e in GRAPH.edges if status[e] == "in" and radius[e] >= 2)
    assert certificate.circuit(radius=2).edges == within
    assert certificate.abstained().edges == tuple(e for e in GRAPH.edges if status[e] == "abstained")


def test_abstained_edges_have_no_radius_and_replacements_never_exceed_it(certificate):
    assert all((certificate.radius[e] < 0) == (certificate.status[e] == "abstained") for e in GRAPH.edges)
    assert all(certificate.replacements[e] <= certificate.radius[e] for e in GRAPH.edges)


def test_a_certificate_counts_its_edges(certificate):
    data = certificate.to_dict()
    assert data["in"] + data["out"] + data["abstained"] == len(GRAPH.edges)
    assert f"{data['in']} edges in" in str(certificate)


def test_only_scores_that_depend_on_other_prompts_have_a_caution(certificate):
    assert certificate.caution is None
    mean = scores_of(torch.randn(4, len(GRAPH.edges)))
    mean = EdgeScores(mean.graph, mean.values, mean.stderr, 4, frozen({"ablation": "mean"}), per_prompt=mean.per_prompt)
    assert "mean ablation" in circuits.certify(mean, edges=3, samples=10).caution


def test_what_is_refused():
    scores = unstable(6, 0)
    bare = EdgeScores(GRAPH, scores.values, scores.stderr, 6)
    for refused, words in (
        (lambda: circuits.certify(bare), "effects per prompt"),
        (lambda: circuits.certify(unstable(2, 0), edges=3), "at least three prompts, got 2"),
        (lambda: circuits.certify(scores.significant(), edges=3), "before `significant`"),
        (lambda: circuits.certify(scores, edges=500), f"graph's {GRAPH.n_edges}, got 500"),
        (lambda: circuits.certify(scores, edges=3, deletions=1.0), "between 0 and 1; got 1"),
        (lambda: circuits.certify(scores, edges=3, samples=0), "samples must be at least 1"),
        (lambda: circuits.certify(scores, edges=3, confidence=95.0), "level must be between 0 and 1"),
        (lambda: circuits.certify(scores, "best", 3), "no selection rule 'best'"),
        (lambda: circuits.certify(scores, "optimal", 3), "optimal takes"),
        (lambda: circuits.certify(scores, "threshold"), "takes tau"),
        (lambda: circuits.certify(scores, edges=3, samples=5).circuit(-1), "radius must be at least 0"),
    ):
        with pytest.raises(InputError, match=words):
            refused()


def test_pruning_over_places_is_pruning_each():
    placed = over(Graph(2, 2, 1, (True, True)), Places(("A", "B"), destinations=True))
    generator = torch.Generator().manual_seed(0)
    sets = torch.rand(20, placed.n_edges, generator=generator) < 0.15
    for before, after in zip(sets, pruned_sets(placed, sets), strict=True):
        mask = torch.zeros_like(placed.edge_mask)
        mask[placed.edge_mask] = before
        assert torch.equal(Circuit(placed, mask).pruned().mask[placed.edge_mask], after)
