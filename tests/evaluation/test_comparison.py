"""Methods side by side: naive twins, agreement with oneself, what is refused."""

import json

import pytest
import torch
from scipy.stats import spearmanr

import circuits
from circuits import Circuit, InputError
from circuits.pages.comparison_tables import comparison_findings
from circuits.results.node_scores import node_scores
from tests.tiny_models import random_pairs, tiny

NODES = tuple(f"n{i}" for i in range(9))


def random_scores(seed, nodes=NODES, prompts=6):
    return node_scores(nodes, torch.randn(len(nodes), prompts, generator=torch.Generator().manual_seed(seed)), {})


@pytest.mark.parametrize("by", ["abs", "signed"])
def test_rank_correlation_and_overlap_are_the_naive_ones(by):
    one, other = random_scores(0), random_scores(1)
    result = circuits.compare({"one": one, "other": other}, by=by)
    a, b = (each.values.abs() if by == "abs" else each.values for each in (one, other))
    assert float(result.rank[0, 1]) == pytest.approx(spearmanr(a, b).statistic)
    assert float(result.rank[1, 0]) == float(result.rank[0, 1])
    assert float(result.low[0, 1]) <= float(result.rank[0, 1]) <= float(result.high[0, 1])
    for k in range(1, 10):
        tops = [set(each.argsort(descending=True)[:k].tolist()) for each in (a, b)]
        assert float(result.overlap[0, 1, k - 1]) == pytest.approx(len(tops[0] & tops[1]) / k)
    assert bool((result.overlap[0, 0] == 1).all())  # no ties


def test_a_method_agrees_with_itself_whatever_its_scale_and_the_interval_holds_that():
    scores = random_scores(2)
    result = circuits.compare({"a": scores, "b": node_scores(NODES, 3 * scores.per_prompt, {})})
    assert result.rank.tolist() == [[1, 1], [1, 1]]
    assert result.low.tolist() == [[1, 1], [1, 1]]
    assert "rank correlation over 9 nodes" in str(result)


def test_edges_circuits_and_nodes_are_compared_on_a_model(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=4)
    edges = circuits.edge_attribution(model, pairs, gradient="clean")
    results = {
        "EAP": edges,
        "AtP": circuits.attribution_patching(model, pairs),
        "circuit": edges.top(15),
        "COAR": circuits.coar(model, pairs, samples=128, ablation="interchange"),
    }
    judge = circuits.counterfactuals(model, pairs, alphas=(0.1, 0.3), samples=48, ablation="interchange")
    result = circuits.compare(results, judge=judge, resamples=50)
    assert len(result.nodes) == 12
    assert float(result.rank[0, 1]) == pytest.approx(1.0)  # AtP is the sum of EAP over a node's out-edges
    assert result.counterfactual["COAR"][0.1].mean > result.counterfactual["circuit"][0.1].mean
    written = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert written["methods"] == list(results)
    assert [entry["alpha"] for entry in written["counterfactual"]["EAP"]] == [0.1, 0.3]


def test_what_cannot_be_compared_is_refused():
    model = tiny("gpt2")
    one = random_scores(0)
    whole = Circuit.full(model.graph)
    for results, message in (
        ({"one": one}, "at least two"),
        ({"one": one, "other": random_scores(0, prompts=5)}, "different prompts"),
        ({"one": one, "other": random_scores(0, nodes=("x", "y"))}, "in common"),
        ({"one": one, "circuit": whole}, "in common"),
        ({"one": one, "split": circuits.attribution_patching(model, random_pairs(n=6), positions="each")}, "position"),
    ):
        with pytest.raises(InputError, match=message):
            circuits.compare(results)
    with pytest.raises(InputError, match="by must be"):
        circuits.compare({"a": one, "b": one}, by="size")


def test_the_strongest_of_a_circuit_are_all_of_its_nodes():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    edges = circuits.edge_attribution(model, pairs, gradient="clean")
    circuit = edges.top(12)
    size = sum(node in circuit.nodes for node in model.graph.writer_names)
    result = circuits.compare({"edges": edges, "circuit": circuit})
    shares = result.overlap[0, 1]
    assert (~shares.isnan()).nonzero()[:, 0].tolist() == [size - 1, len(result.nodes) - 1]
    strongest = {name for name, _, _ in edges.to_nodes().strongest(size)}
    assert float(shares[size - 1]) == pytest.approx(len(strongest & set(circuit.nodes)) / size)


def test_a_single_prompt_has_no_interval_and_a_constant_method_no_correlation():
    one = node_scores(NODES, torch.arange(9.0)[:, None], {})
    same = node_scores(NODES, torch.ones(9, 1), {})
    result = circuits.compare({"one": one, "same": same})
    assert result.rank[0, 1].isnan()
    assert result.low.isnan().all()
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["rank_correlation"][0][1] is None


def test_thresholds_are_compared_and_circuits_predicted():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    thresholds = (0.05, 0.5)
    sweep = dict(zip(thresholds, circuits.acdc_sweep(model, pairs, thresholds), strict=True))
    linear = circuits.coar(model, pairs, samples=96, ablation="interchange")
    result = circuits.compare({"ACDC": sweep, "COAR": linear})
    for node, value in zip(result.nodes, result.scores["ACDC"].values[-len(result.nodes) :].tolist(), strict=True):
        assert value == pytest.approx(max((t for t in thresholds if node in sweep[t].nodes), default=0))
    with pytest.raises(InputError, match="thresholds"):
        circuits.compare({"ACDC": {0.0: sweep[0.5]}, "COAR": linear})
    whole, none = Circuit.full(model.graph), Circuit.empty(model.graph)
    all_, nothing = circuits.predict_circuits(model, pairs, linear, {"all": whole, "nothing": none})
    torch.testing.assert_close(all_.predicted, linear.bias + linear.per_prompt.sum(0))
    torch.testing.assert_close(all_.nodes_kept, linear.clean)
    torch.testing.assert_close(all_.edges_kept, linear.clean)
    torch.testing.assert_close(nothing.predicted, linear.bias)
    heads = Circuit.from_edges(model.graph, [e for e in model.graph.edges if not e.startswith("m") and "->m" not in e])
    wanted = circuits.circuit_metric(model, pairs, heads)
    (one,) = circuits.predict_circuits(model, pairs, linear, {"heads": heads})
    torch.testing.assert_close(one.edges_kept, wanted)
    torch.testing.assert_close(one.nodes_kept, wanted, rtol=1e-5, atol=1e-6)  # nodes without out-edges are ablated ones
    shown = circuits.compare({"heads": heads, "COAR": linear}, circuits=[one], faithfulness={"heads": 0.5})
    assert shown.to_dict()["circuits"][0]["edges"] == len(heads)
    with pytest.raises(InputError, match="prompts"):
        circuits.predict_circuits(model, random_pairs(n=2), linear, {"all": whole})


def test_a_circuit_chosen_from_scores_that_are_compared_does_not_lead():
    found = circuits.compare(
        {
            "EAP": random_scores(0),
            "EAP circuit": random_scores(1),
            "AtP": random_scores(2),
            "ACDC circuit": random_scores(3),
        }
    )
    assert found.leading == ("EAP", "AtP", "ACDC circuit")
    assert "EAP circuit" not in " ".join(comparison_findings(found))
