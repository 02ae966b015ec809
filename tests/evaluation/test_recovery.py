"""Recovery of a known circuit, against counting all pairs and against scikit-learn."""

from itertools import product

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from circuits import Circuit, EdgeScores, Graph, InputError, NodeScores, recovery
from circuits.evaluation.recovery import LEVELS

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=2, mlps=(True, True))
GROUPED = Graph(n_layers=2, n_heads=4, n_kv_heads=2, mlps=(True, False))


def scores_of(graph: Graph, seed: int, levels: int = 5) -> EdgeScores:
    """Random scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-levels, levels + 1, graph.edge_mask.shape, generator=generator).double() * graph.edge_mask
    return EdgeScores(graph, values, torch.zeros_like(values), 1)


def random_truth(graph: Graph, seed: int, n: int = 4) -> Circuit:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(graph.n_edges, generator=generator)[:n].tolist()
    return Circuit.from_edges(graph, [graph.edges[i] for i in chosen])


def counted(scores: torch.Tensor, true: torch.Tensor) -> float:
    """The share of (true, false) pairs in the right order, ties half."""
    pairs = list(product(scores[true].tolist(), scores[~true].tolist()))
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)


def endpoints(graph: Graph, edge: str) -> tuple[str, tuple[str, ...]]:
    """The writer of an edge, and the nodes that it feeds."""
    w, r = graph.edge_index(edge)
    return graph.writer_names[w], graph.nodes_fed_by(graph.reader_nodes[r]) or ("logits",)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("graph", [GRAPH, GROUPED])
@pytest.mark.parametrize("by", ["abs", "signed"])
@pytest.mark.parametrize("seed", range(3))
def test_areas_are_those_of_counting_pairs_and_of_scikit_learn(level: str, graph: Graph, by: str, seed: int) -> None:
    result = recovery(scores_of(graph, seed), random_truth(graph, seed + 7, 2), level=level, by=by)
    true, scores = result.true, result.scores
    assert result.auroc == pytest.approx(counted(scores, true))
    assert result.auroc == pytest.approx(roc_auc_score(true, scores))
    assert result.average_precision == pytest.approx(average_precision_score(true, scores))
    fpr, tpr, thresholds = roc_curve(true, scores, drop_intermediate=False)
    torch.testing.assert_close(result.false_positive_rate, torch.tensor(fpr))
    torch.testing.assert_close(result.true_positive_rate, torch.tensor(tpr))
    torch.testing.assert_close(result.thresholds, torch.tensor(thresholds))


@pytest.mark.parametrize("graph", [GRAPH, GROUPED])
def test_merged_edges_and_nodes_have_the_largest_score_of_what_they_put_together(graph: Graph) -> None:
    scores, truth = scores_of(graph, 1), random_truth(graph, 2, 2)
    values = {edge: abs(value) for edge, value in scores.to_dict().items()}
    merged = recovery(scores, truth, level="merged")
    for name, score, true in zip(merged.names, merged.scores.tolist(), merged.true.tolist(), strict=True):
        inside = [e for e in values if any(name == f"{endpoints(graph, e)[0]}->{t}" for t in endpoints(graph, e)[1])]
        assert score == max(values[edge] for edge in inside)
        assert true == any(edge in truth for edge in inside)
    nodes = recovery(scores, truth, level="nodes")
    assert nodes.names == graph.writer_names[1:]
    for name, score, true in zip(nodes.names, nodes.scores.tolist(), nodes.true.tolist(), strict=True):
        touching = [e for e in values if name == endpoints(graph, e)[0] or name in endpoints(graph, e)[1]]
        assert score == max(values[edge] for edge in touching)
        assert true == any(edge in truth for edge in touching)


def test_a_circuit_against_itself_is_perfect_and_its_nodes_are_its_own() -> None:
    truth = random_truth(GRAPH, 3)
    for level in LEVELS:
        result = recovery(truth, truth, level=level)
        assert (result.auroc, result.average_precision) == (1, 1)
        assert float(result.precision[int(result.true.sum()) - 1]) == 1
    assert {n for n, t in zip(result.names, result.true.tolist(), strict=True) if t} == {*truth.nodes} - {
        "input",
        "logits",
    }


def test_a_circuit_is_a_point_of_the_curve() -> None:
    truth, other = random_truth(GRAPH, 3, 12), random_truth(GRAPH, 4, 12)
    result = recovery(other, truth)
    hits, n = len(truth & other), len(other)
    assert result.thresholds.tolist() == [torch.inf, 1, 0]
    assert result.true_positive_rate[1] == pytest.approx(hits / len(truth))
    assert result.false_positive_rate[1] == pytest.approx((n - hits) / (GRAPH.n_edges - len(truth)))
    assert result.precision[n - 1] == pytest.approx(hits / n)
    assert result.recall[n - 1] == pytest.approx(hits / len(truth))


def test_precision_and_recall_at_a_size_within_ties_are_those_of_a_draw() -> None:
    graph = Graph(1, 1, 1, (False,))
    edges = {
        "input->a0.h0<q>": 2.0,
        "input->a0.h0<k>": 1.0,
        "input->a0.h0<v>": 1.0,
        "input->logits": 1.0,
        "a0.h0->logits": 0.0,
    }
    values = torch.zeros(graph.edge_mask.shape, dtype=torch.float64)
    for edge, value in edges.items():
        values[graph.edge_index(edge)] = value
    result = recovery(EdgeScores(graph, values, values, 1), ["input->a0.h0<q>", "input->logits"])
    torch.testing.assert_close(result.recall, torch.tensor([1 / 2, 4 / 6, 5 / 6, 1, 1], dtype=torch.float64))
    torch.testing.assert_close(result.precision, torch.tensor([1, 4 / 6, 5 / 9, 1 / 2, 2 / 5], dtype=torch.float64))


def test_signed_and_abs_differ_on_edges_that_hurt() -> None:
    truth = random_truth(GRAPH, 5)
    values = torch.where(truth.mask, -1.0, 0.1).double() * GRAPH.edge_mask
    scores = EdgeScores(GRAPH, values, torch.zeros_like(values), 1)
    assert recovery(scores, truth).auroc == 1
    assert recovery(scores, truth, by="signed").auroc == 0


def test_scores_of_nodes_are_ranked_by_size_and_leave_out_what_is_no_head_or_mlp() -> None:
    nodes = ("input", "a0.h0", "a0.h1", "m0", "a1.h1")
    scores = NodeScores(nodes, torch.tensor([[9.0], [-3.0], [0.5], [0.5], [0.0]], dtype=torch.float64))
    truth = Circuit.from_edges(GRAPH, ["input->a0.h0<v>", "a0.h0->m0", "m0->logits"])
    result = recovery(scores, truth)
    assert (result.level, result.names) == ("nodes", nodes[1:])
    assert result.true.tolist() == [True, False, True, False]
    assert result.auroc == pytest.approx(3.5 / 4)
    assert recovery(scores, truth.edges, graph=GRAPH).auroc == result.auroc
    assert recovery(scores, truth, by="signed").auroc == pytest.approx(1.5 / 4)


class TestRefused:
    SCORES = scores_of(GRAPH, 0)
    NODES = NodeScores(("a0.h0", "m0"), torch.ones(2, 1, dtype=torch.float64))

    def test_what_leaves_nothing_to_tell_apart(self) -> None:
        with pytest.raises(InputError, match="none of the 46 edges"):
            recovery(self.SCORES, [])
        with pytest.raises(InputError, match="all of the 46 edges"):
            recovery(self.SCORES, Circuit.full(GRAPH))

    def test_options_and_names_that_do_not_exist(self) -> None:
        truth = random_truth(GRAPH, 0)
        with pytest.raises(InputError, match="level must be one of edges, merged, nodes, got 'heads'"):
            recovery(self.SCORES, truth, level="heads")
        with pytest.raises(InputError, match="not 'size'"):
            recovery(self.SCORES, truth, by="size")
        with pytest.raises(InputError, match=r"no reader 'a9\.h9<q>'"):
            recovery(self.SCORES, ["input->a9.h9<q>"])
        with pytest.raises(InputError, match="not the text"):
            recovery(self.SCORES, "input->logits")
        with pytest.raises(InputError, match="two graphs"):
            recovery(self.SCORES, random_truth(GROUPED, 0))

    def test_scores_that_cannot_be_ranked(self) -> None:
        values = self.SCORES.values.clone()
        values[0, 0] = torch.nan
        broken, truth = EdgeScores(GRAPH, values, values, 1), random_truth(GRAPH, 0, 2)
        for level in LEVELS:
            with pytest.raises(InputError, match="are NaN"):
                recovery(broken, truth, level=level)

    def test_scores_of_nodes_that_do_not_fit(self) -> None:
        truth = Circuit.from_edges(GRAPH, ["input->m0", "m0->logits"])
        assert recovery(self.NODES, truth).auroc == 0.5
        with pytest.raises(InputError, match="level 'nodes' only"):
            recovery(self.NODES, truth, level="edges")
        with pytest.raises(InputError, match="do not contain their graph"):
            recovery(self.NODES, ["input->m0"])
        with pytest.raises(InputError, match="none of the 1 scored nodes"):
            recovery(NodeScores(("input",), torch.ones(1, 1, dtype=torch.float64)), truth)
        placed = NodeScores(("m0",), torch.ones(1, 2, 1, dtype=torch.float64), ("0", "1"))
        with pytest.raises(InputError, match="positions"):
            recovery(placed, truth)
