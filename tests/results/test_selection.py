"""Rules of selection against slow twins: enumeration of all circuits, growth edge by edge, and what every rule promises."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits import Circuit, EdgeScores, Graph, InputError
from circuits.results import optimal_selection as solver
from circuits.results.provenance import frozen
from circuits.results.selection import RULES

GRAPHS = {
    "plain": Graph(2, 2, 2, (True, True)),
    "grouped": Graph(2, 4, 2, (True, True)),
    "parallel": Graph(3, 2, 2, (True, True, True), parallel=True),
    "attention-only": Graph(3, 3, 1, (False, False, False)),
}
TINY = {
    "one layer": Graph(1, 1, 1, (True,)),
    "one group": Graph(1, 2, 1, (True,)),
    "two layers": Graph(2, 1, 1, (False, False)),
}
"""8, 11 and 13 edges: few enough to look at every circuit."""

shapes = st.sampled_from(sorted(GRAPHS))
seeds = st.integers(0, 10_000)
sides = st.sampled_from(["abs", "signed"])
RANKED = ["top", "greedy", "positive-share"]


def example(graph=GRAPHS["grouped"], seed=0, ties=False):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(graph.edge_mask.shape, generator=generator, dtype=torch.float64) * graph.edge_mask
    if ties:
        values = values.round()
    return EdgeScores(graph, values, values.abs() / 3, 7, frozen({"method": "test"}))


def check(circuit, n, rule):
    """What every rule promises."""
    note = circuit.provenance["selection"]
    assert len(circuit) <= n
    assert circuit == circuit.pruned()
    assert (note["rule"], note["n"], note["kept"]) == (rule, n, len(circuit))


# --- what all rules promise -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@given(shape=shapes, seed=seeds, wish=st.integers(0, 10**6), ties=st.booleans())
@settings(max_examples=12, deadline=None)
def test_circuits_are_connected_within_budget_and_the_same_every_time(rule, shape, seed, wish, ties):
    scores = example(GRAPHS[shape], seed, ties)
    n = wish % (len(scores) + 1)
    result = scores.select(n, rule)
    check(result, n, rule)
    assert scores.select(n, rule) == result
    assert result.scores is scores.values
    assert result.provenance["method"] == "test"
    if rule in RANKED:
        filled = scores.select(n, rule, fill=True)
        check(filled, n, rule)
        assert result <= filled
        assert filled.provenance["selection"]["fill"]


@pytest.mark.parametrize("rule", RANKED)
@given(shape=shapes, seed=seeds, fill=st.booleans())
@settings(max_examples=8, deadline=None)
def test_larger_budgets_only_add_edges(rule, shape, seed, fill):
    scores = example(GRAPHS[shape], seed)
    smaller = Circuit.empty(scores.graph)
    for n in range(0, len(scores), 5):
        larger = scores.select(n, rule, fill=fill)
        assert smaller <= larger
        smaller = larger


@pytest.mark.parametrize("rule", RULES)
def test_the_budget_of_all_edges_buys_the_full_circuit_and_none_the_empty_one(rule):
    scores = example()
    assert scores.select(len(scores), rule).edges == scores.graph.edges
    assert len(scores.select(0, rule)) == 0


@pytest.mark.parametrize("rule", ["top", "greedy"])
@pytest.mark.parametrize("by", ["abs", "signed"])
def test_filling_goes_on_until_no_further_edge_fits(rule, by):
    scores = example()
    for n in (1, 5, 17, 40):
        result = scores.select(n, rule, by=by, fill=True)
        k = result.provenance["selection"]["considered"]
        bigger = [scores.select(m, rule, by=by) for m in (k, k + 1)]
        assert bigger[0] == result
        assert len(bigger[1]) > n


def test_rules_and_options_that_do_not_exist_are_refused():
    scores = example()
    for n, rule, options, message in [
        (3, "best", {}, "one of top, greedy, positive-share, optimal"),
        (3, "optimal", {"fill": True}, "its options: by, time_limit"),
        (3, "positive-share", {"by": "abs"}, "its options: share, fill"),
        (3, "positive-share", {"share": 1.5}, "between 0 and 1"),
        (3, "positive-share", {"share": math.nan}, "between 0 and 1"),
        (3, "optimal", {"time_limit": 0.0}, "time_limit"),
    ]:
        with pytest.raises(InputError, match=message):
            scores.select(n, rule, **options)
    for rule in RULES:
        for n in (-1, 10**6):
            with pytest.raises(InputError, match="cannot choose"):
                scores.select(n, rule)
    for rule in ("top", "greedy", "optimal"):
        with pytest.raises(InputError, match="'abs' or 'signed'"):
            scores.select(3, rule, by="size")
    with pytest.raises(InputError, match="not a number"):
        scores.threshold(math.nan)
    with pytest.raises(InputError, match="not finite"):
        scores.threshold(math.inf)


# --- each rule --------------------------------------------------------------------------------------------------------------


def ranked(scores, by):
    size = abs if by == "abs" else float
    return sorted(scores.to_dict().items(), key=lambda item: -size(item[1]))


@pytest.mark.parametrize("by", ["abs", "signed"])
@pytest.mark.parametrize("n", [0, 1, 10, 36])
@pytest.mark.parametrize("ties", [False, True])
def test_top_chooses_the_strongest_edges_and_prunes(by, n, ties):
    scores = example(ties=ties)
    chosen = [edge for edge, _ in ranked(scores, by)[:n]]
    result = scores.top(n, by=by)
    assert result == Circuit.from_edges(scores.graph, chosen).pruned()
    assert result.provenance["selection"] == {"rule": "top", "by": by, "n": n, "kept": len(result)}
    for edge in result.edges:
        assert result.score(edge) == scores[edge]


@pytest.mark.parametrize("by", ["abs", "signed"])
@pytest.mark.parametrize("tau", [-0.5, 0.0, 0.8, 1e9])
def test_threshold_keeps_what_reaches_it(by, tau):
    scores = example()
    tau = max(scores.to_dict().values()) if tau == 0.8 else tau  # an edge at the threshold itself
    chosen = [edge for edge, value in ranked(scores, by) if (abs(value) if by == "abs" else value) >= tau]
    result = scores.threshold(tau, by)
    assert result == Circuit.from_edges(scores.graph, chosen).pruned()
    note = result.provenance["selection"]
    assert note == {"rule": "threshold", "by": by, "tau": tau, "kept": len(result)}


def naive_greedy(scores, n, by):
    """EAP-IG's growth: look at every edge, take the best one into a node that is there."""
    nodes, chosen = {"logits"}, []
    readers = dict(zip(scores.graph.reader_names, scores.graph.reader_nodes, strict=True))
    order = [edge for edge, _ in ranked(scores, by)]
    for _ in range(n):
        for edge in order:
            writer, reader = edge.split("->")
            fed = set(scores.graph.nodes_fed_by(readers[reader]) or ("logits",))
            if edge not in chosen and fed & nodes:
                chosen.append(edge)
                nodes.add(writer)
                break
    return Circuit.from_edges(scores.graph, chosen)


@given(shapes, seeds, sides, st.booleans())
@settings(max_examples=20, deadline=None)
def test_greedy_grows_from_the_logits(shape, seed, by, ties):
    scores = example(GRAPHS[shape], seed, ties)
    grown = naive_greedy(scores, 15, by)
    assert len(grown) == 15
    assert scores.greedy(15, by) == grown.pruned()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("n", [0, 7, 25, 60])
@pytest.mark.parametrize("ties", [False, True])
def test_positive_share_spends_part_of_the_budget_on_positive_edges(share, n, ties):
    scores = example(ties=ties)
    positive = [edge for edge, value in ranked(scores, "signed")[: int(share * n)] if value > 0]
    rest = [edge for edge, _ in ranked(scores, "abs") if edge not in positive]
    result = scores.positive_share(n, share)
    assert result == Circuit.from_edges(scores.graph, [*positive, *rest][:n]).pruned()
    if share == 0:
        assert result == scores.top(n)
    if share == 1 and len(positive) == n:
        assert result == scores.top(n, by="signed")


def test_without_positive_edges_positive_share_ranks_by_absolute_value():
    scores = example()
    scores = EdgeScores(scores.graph, -scores.values.abs(), scores.stderr, 7)
    assert scores.positive_share(20, 1.0) == scores.top(20)


# --- the optimal circuit ----------------------------------------------------------------------------------------------------


@cache
def connected_circuits(shape):
    """Every circuit that pruning leaves as it is, [circuit, edge]."""
    graph = TINY[shape]
    result = []
    for number in range(2**graph.n_edges):
        bits = torch.tensor([number >> edge & 1 for edge in range(graph.n_edges)], dtype=torch.bool)
        mask = torch.zeros_like(graph.edge_mask)
        mask[graph.edge_mask] = bits
        circuit = Circuit(graph, mask)
        if circuit.pruned() == circuit:
            result.append(bits)
    return torch.stack(result)


def enumerated(scores, shape, n, by):
    all_of_them = connected_circuits(shape)
    gains = scores.values[scores.graph.edge_mask]
    sums = all_of_them.double() @ (gains.abs() if by == "abs" else gains)
    return float(sums[all_of_them.sum(1) <= n].max())


def total(circuit, by):
    values = circuit.scores[circuit.mask]
    return float((values.abs() if by == "abs" else values).sum())


@pytest.mark.parametrize("shape", ["one layer", "one group"])
@given(seed=seeds, n=st.integers(0, 11), by=sides, ties=st.booleans())
@settings(max_examples=25, deadline=None)
def test_no_connected_circuit_is_better_than_the_optimal_one(shape, seed, n, by, ties):
    scores = example(TINY[shape], seed, ties)
    n = min(n, len(scores))
    result = scores.optimal(n, by, time_limit=None)
    check(result, n, "optimal")
    note = result.provenance["selection"]
    assert total(result, by) == pytest.approx(enumerated(scores, shape, n, by), abs=1e-9)
    assert note["sum"] == pytest.approx(total(result, by), abs=1e-12)
    assert note["gap"] == 0.0


@pytest.mark.parametrize("first", [3, 2000])
def test_branch_and_bound_finds_it_where_the_relaxation_is_fractional(first, monkeypatch):
    """Of these 40 relaxations some are fractional, as the count at the end says."""
    searched = []
    search = solver._Programme.branch_and_bound
    monkeypatch.setattr(
        solver._Programme, "branch_and_bound", lambda self, stop: searched.append(self.n) or search(self, stop)
    )
    monkeypatch.setattr(solver, "_FIRST", first)
    for seed in range(20):
        for n in (2, 3):
            scores = example(TINY["one group"], seed)
            result = scores.optimal(n, "signed", time_limit=None)
            check(result, n, "optimal")
            assert total(result, "signed") == pytest.approx(enumerated(scores, "one group", n, "signed"), abs=1e-9)
            assert result.provenance["selection"]["gap"] == 0
    assert len(searched) >= 5


@given(shapes, seeds, sides, st.integers(0, 40))
@settings(max_examples=15, deadline=None)
def test_optimal_is_at_least_as_good_as_the_other_rules(shape, seed, by, n):
    scores = example(GRAPHS[shape], seed)
    best = total(scores.optimal(n, by), by)
    for rule in ("top", "greedy"):
        assert best >= total(scores.select(n, rule, by=by, fill=True), by) - 1e-9
    assert best <= total(scores.optimal(n + 1, by), by) + 1e-9


def test_out_of_time_the_best_known_circuit_is_given_with_its_gap(monkeypatch):
    scores = example(GRAPHS["attention-only"], 3)
    best = scores.optimal(20).provenance["selection"]
    for out_of_time in ("linprog", "milp"):
        with monkeypatch.context() as patch:
            cut_short(patch, out_of_time)
            result = scores.optimal(20, time_limit=5.0)
        check(result, 20, "optimal")
        note = result.provenance["selection"]
        assert note["sum"] <= best["sum"] <= note["bound"]
        assert note["gap"] == pytest.approx((note["bound"] - note["sum"]) / note["sum"])
        assert note["gap"] > 0
        assert max(len(scores.top(20, fill=True)), len(scores.greedy(20, fill=True))) >= len(result)


def cut_short(patch, what):
    """The solver as it is when time runs out before it has found anything."""
    from scipy import optimize

    if what == "linprog":
        patch.setattr(optimize, "linprog", lambda *_, **__: optimize.OptimizeResult(x=None, status=1))
    else:
        patch.setattr(solver._Programme, "circuit", lambda self, solution: None)
        patch.setattr(optimize, "milp", lambda *_, **__: optimize.OptimizeResult(x=None, mip_dual_bound=None))
