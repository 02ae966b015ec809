"""Ensembles against loops over edges, and the identities that they must satisfy."""

import math
from dataclasses import replace

import pytest
import torch

import circuits
from circuits import Circuit, EdgeScores, InputError, edge_attribution, edge_pruning, ensemble
from circuits.results.recorded import method_name, quantity_of
from tests.tiny_models import random_pairs, tiny


def scores(seed, graph=None):
    graph = tiny("gpt2").graph if graph is None else graph
    values = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = (10**seed * values.pow(3)).round(decimals=1) * graph.edge_mask
    return EdgeScores(graph, values, torch.zeros_like(values), 4)


def naive(members, how, kind):
    """One edge at a time, from dictionaries."""
    tables = [one.to_dict() for one in members]
    normalised = []
    for table in tables:
        sizes = sorted(abs(value) for value in table.values())
        scale = math.sqrt(sum(size * size for size in sizes) / len(sizes)) or 1.0
        normal = {}
        for edge, value in table.items():
            same = [i + 1 for i, size in enumerate(sizes) if size == abs(value)]
            rank = sum(same) / len(same) / len(sizes)
            normal[edge] = {
                "none": value,
                "scale": value / scale,
                "rank": math.copysign(rank, value) if value else 0.0,
            }[kind]
        normalised.append(normal)
    combined = {}
    for edge in tables[0]:
        values = [normal[edge] for normal in normalised]
        if how in ("mean", "rank-mean"):
            combined[edge] = sum(values) / len(values)
        elif how == "max":
            combined[edge] = max(values, key=abs)
        else:
            one_sign = all(value > 0 for value in values) or all(value < 0 for value in values)
            combined[edge] = min(values, key=abs) if one_sign else 0.0
    return combined


@pytest.mark.parametrize(
    ("how", "normalise", "kind"),
    [
        ("mean", None, "scale"), ("mean", "none", "none"), ("rank-mean", None, "rank"), ("max", None, "scale"),
        ("max", "rank", "rank"), ("min", None, "scale"), ("min", "rank", "rank"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("n", [2, 3])
def test_every_rule_is_its_loop_over_edges(how, normalise, kind, n):
    members = [scores(seed) for seed in range(n)]
    got = ensemble(members, how, normalise=normalise).to_dict()
    assert got == pytest.approx(naive(members, how, kind), rel=1e-12, abs=1e-15)


def test_the_size_of_a_members_scores_does_not_matter():
    first, second = scores(0), scores(1)
    larger = replace(second, values=1000 * second.values)
    for how in ("mean", "rank-mean", "max", "min"):
        assert torch.allclose(ensemble([first, second], how).values, ensemble([first, larger], how).values)
    assert not torch.allclose(
        ensemble([first, second], normalise="none").values, ensemble([first, larger], normalise="none").values
    )


def test_scores_combined_with_themselves_keep_their_ranking_and_their_errors():
    model, pairs = tiny("gpt2"), random_pairs(n=4)
    own = edge_attribution(model, pairs)
    for how in ("mean", "rank-mean", "max", "min"):
        assert ensemble([own, own], how).top(20) == own.top(20)
    same = ensemble([own, own], normalise="none")
    torch.testing.assert_close(same.values, own.values)
    torch.testing.assert_close(same.stderr, own.stderr, rtol=1e-5, atol=1e-9)
    assert same.per_prompt is not None
    torch.testing.assert_close(same.per_prompt, own.per_prompt)


def test_errors_are_left_out_where_they_are_not_known():
    model = tiny("gpt2")
    first = edge_attribution(model, random_pairs(n=4))
    other = edge_attribution(model, random_pairs(n=4, seed=1), gradient="clean", check_sign=False)
    for combined in (ensemble([first, other]), ensemble([first, first], "rank-mean"), ensemble([first, scores(0)])):
        assert combined.per_prompt is None
        assert combined.stderr[combined.graph.edge_mask].isnan().all()


def test_circuits_count_by_their_edges_and_trained_masks_by_their_openness_too():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    own = edge_attribution(model, pairs)
    circuit = own.top(15)
    got = ensemble([circuit, circuit], normalise="none")
    assert {edge for edge, value in got.to_dict().items() if value} == set(circuit.edges)
    pruned = edge_pruning(model, pairs, 15, steps=3)
    values = ensemble([pruned, pruned], normalise="none").values
    assert set(EdgeScores(model.graph, values, values, 1).top(len(pruned)).edges) == set(pruned.edges)
    outside = values[model.graph.edge_mask & ~pruned.mask]
    assert len(outside.unique()) > 10
    assert 0 < float(outside.max()) < 0.5 <= float(values[pruned.mask].min())
    hybrid = ensemble([own, pruned], "rank-mean")
    assert method_name(hybrid.provenance) == "rank-mean of EAP-IG and edge pruning"
    assert quantity_of(hybrid.provenance).label == "combined score"


def test_edges_that_no_member_finds_significant_are_left_out():
    own = edge_attribution(tiny("gpt2"), random_pairs(n=5))
    strict, loose = own.significant(0.99, kind="t"), own.significant(0.9, kind="t")
    assert len(strict) < len(loose) < len(own)
    assert len(ensemble([strict, loose])) == len(loose)
    assert len(ensemble([strict, own])) == len(own)


def test_an_ensemble_is_saved_and_names_its_members(tmp_path):
    model, pairs = tiny("llama"), random_pairs(n=2)
    members = [edge_attribution(model, pairs, gradient=gradient) for gradient in ("ig", "gim")]
    combined = ensemble(members)
    combined.save(tmp_path / "scores.safetensors")
    again = EdgeScores.load(tmp_path / "scores.safetensors")
    assert torch.equal(again.values, combined.values)
    assert method_name(again.provenance) == "mean of EAP-IG and GIM"
    assert again.provenance["weights_sha256"] == model.weights_hash
    assert [one["options"]["gradient"] for one in again.provenance["of"]] == ["ig", "gim"]


def test_what_cannot_be_combined_is_refused():
    first = scores(0)
    with pytest.raises(InputError, match="at least two scores, got 1"):
        ensemble([first])
    with pytest.raises(InputError, match="mean, rank-mean, max, min"):
        ensemble([first, first], "median")
    with pytest.raises(InputError, match="scale, rank, none"):
        ensemble([first, first], normalise="z")
    with pytest.raises(InputError, match="use how='mean'"):
        ensemble([first, first], "rank-mean", normalise="scale")
    with pytest.raises(InputError, match="different graphs"):
        ensemble([first, scores(0, tiny("llama").graph)])
    a, b = (replace(first, provenance={"weights_sha256": name}) for name in "ab")
    with pytest.raises(InputError, match="different models"):
        ensemble([a, b])
    with pytest.raises(InputError, match="not dict"):
        ensemble([first, {}])  # type: ignore[list-item]


def test_the_method_combines_gradients_and_runs(tmp_path):
    from circuits.runs.directory import RunDirectory
    from circuits.runs.discover import discover

    model, pairs = tiny("gpt2"), random_pairs(n=3)
    quick = {"edges": 15, "random_circuits": 0}
    members = [
        edge_attribution(model, pairs, gradient=gradient, check_sign=False) for gradient in ("ig", "gim", "clean")
    ]
    result = discover(model, pairs, method="ensemble", gradients=["ig", "gim", "clean"], how="rank-mean", **quick)
    assert isinstance(result, circuits.runs.result.Discovery)
    assert result.scores is not None
    assert torch.equal(result.scores.values, ensemble(members, "rank-mean").values)
    runs = []
    for name, options in {"gim": {}, "eap": {}, "edge-pruning": {"steps": 2, "edges": 15}}.items():
        out = RunDirectory(tmp_path / name)
        out.write(discover(model, pairs, method=name, **{**quick, **options}), pairs)
        runs.append(str(out.path))
    result = discover(model, pairs, method="ensemble", runs=runs, how="mean", **quick)
    circuit = Circuit.from_json(tmp_path / "edge-pruning" / "circuit.json")
    wanted = ensemble([members[1], members[2], circuit])
    torch.testing.assert_close(result.scores.values, wanted.values)
    with pytest.raises(InputError, match="is not a run directory"):
        discover(model, pairs, method="ensemble", runs=[str(tmp_path)], **quick)
    with pytest.raises(InputError, match="a run of another model"):
        discover(tiny("gpt2", seed=1), pairs, method="ensemble", runs=runs[:2], **quick)
    with pytest.raises(InputError, match="gradients must be some of"):
        discover(model, pairs, method="ensemble", gradients=["ig", "eap"], **quick)


def test_pruning_started_from_scores_begins_with_their_ranking():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    own = edge_attribution(model, pairs)
    at_once = edge_pruning(model, pairs, 15, steps=1, learning_rate=1e-6, start=own)
    assert at_once in (own.top(15, fill=True), own.top(15))
    assert at_once.provenance["options"]["start"] == {
        "method": "edge_attribution",
        "options": own.provenance["options"],
    }
    plain = edge_pruning(model, pairs, 15, steps=1, learning_rate=1e-6)
    assert plain != at_once
    assert "start" not in plain.provenance["options"]
    with pytest.raises(InputError, match="another graph"):
        edge_pruning(tiny("llama"), pairs, 15, steps=1, start=own)
    placed = edge_attribution(model, pairs, positions="each")
    over = edge_pruning(model, pairs, 15, steps=1, learning_rate=1e-6, positions="each", start=placed)
    both = set(over.edges) & set(placed.top(15, fill=True, places=True).edges)
    assert len(both) >= len(over) - 2  # the first log α have some noise
    with pytest.raises(InputError, match="no places"):
        edge_pruning(model, pairs, 15, steps=1, positions="each", start=own)


def test_discover_starts_pruning_from_a_gradient_or_from_a_file(tmp_path):
    from circuits.runs.discover import discover

    model, pairs = tiny("gpt2"), random_pairs(n=2)
    quick = {"edges": 15, "steps": 2, "random_circuits": 0}
    own = edge_attribution(model, pairs, gradient="gim")
    own.save(tmp_path / "scores.safetensors")
    wanted = edge_pruning(model, pairs, 15, steps=2, start=own)
    by_name = discover(model, pairs, method="edge-pruning", start="gim", **quick)
    by_file = discover(model, pairs, method="edge-pruning", start_scores=str(tmp_path / "scores.safetensors"), **quick)
    assert by_name.circuit == by_file.circuit == wanted
    assert torch.equal(by_name.circuit.scores.nan_to_num(), wanted.scores.nan_to_num())
    with pytest.raises(InputError, match="give only one of them"):
        discover(model, pairs, method="edge-pruning", start="gim", start_scores="x", **quick)
