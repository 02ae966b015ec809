"""Runs whose circuit has places: found, refined, stored, and every part of their evaluation against direct calls."""

import json

import pytest
import torch

import circuits
import tasks
from circuits import Circuit, EdgeScores, InputError, circuit_metrics
from circuits.pages.evaluation import evaluation_sections
from circuits.runs.directory import RunDirectory
from circuits.runs.discover import discover
from circuits.runs.evaluate import evaluate_run
from circuits.runs.findings import circuit_findings
from circuits.runs.object_parts import certified
from circuits.runs.read import read_run

TASK = "compiled/sort"
PARTS = (
    "faithfulness", "completeness", "minimality", "curves", "hypothesis", "scores", "recovery", "certificate", "families",
    "stability", "randomisation",
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return circuits.load_model(TASK)


@pytest.fixture(scope="module")
def pairs(model):
    return tasks.load(TASK).pairs(model, n=12)


@pytest.fixture(scope="module")
def run(model, pairs, tmp_path_factory):
    found = discover(
        model, pairs, method="eap-ig", positions="spans", destinations=True, edges=40, fill=False, random_circuits=3
    )
    made = RunDirectory(tmp_path_factory.mktemp("runs") / "run", overwrite=True).write(found, pairs)
    return found, read_run(made)


def share(model, pairs, circuit, ablation="interchange"):
    full, empty, kept = circuit_metrics(
        model, pairs, [Circuit.full(model.graph), Circuit.empty(model.graph), circuit], ablation=ablation
    ).mean(1)
    return float((kept - empty) / (full - empty))


def test_every_part_of_its_evaluation_is_that_of_edges_at_places(model, pairs, run):
    found, read = run
    measured = evaluate_run(read, model, pairs, parts=PARTS, ablations=["interchange", "zero"], n_random=3)
    told = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    circuit, scores = found.circuit, found.scores.over_places()
    assert read.circuits["run circuit"] == circuit
    assert circuit.places == pairs.spans
    for ablation, of in told["faithfulness"].items():
        assert of["ratio_of_means"] == pytest.approx(share(model, pairs, circuit, ablation))
        assert of["unit"] == "(edge, place) pairs"
        assert "(edge, place) pairs ablated" in of["name"]
    assert told["completeness"]["complement"] == pytest.approx(share(model, pairs, ~circuit))
    for edge, effect in told["minimality"]["effects"].items():
        both = circuit_metrics(model, pairs, [circuit, circuit - Circuit.from_edges(circuit.graph, [edge])]).mean(1)
        assert effect == pytest.approx(float(both[0] - both[1]), abs=1e-4)
    assert tuple(told["minimality"]["effects"]) == circuit.edges
    curves = circuits.faithfulness_curves(model, pairs, scores, seed=1)
    torch.testing.assert_close(measured.curves.absolute.faithfulness, curves.absolute.faithfulness)
    assert measured.curves.absolute.edges[-1] == circuit.graph.n_edges
    assert measured.complexity == circuits.complexity(scores)
    assert measured.certificate.certificate.graph == circuit.graph
    assert measured.certificate.n_certified <= len(circuit)
    assert all(of.graph == circuit.graph for of in measured.families.circuits)
    assert measured.variations.compared().names == measured.prompts.names == circuit.graph.edges
    assert all(of["auroc"] == 1.0 for of in told["recovery"]["scores"])
    assert set(told["hypothesis"])
    assert not told["skipped"].keys() & set(PARTS)
    assert "(edge, place) pairs" in str(evaluation_sections(told))


def test_a_certificate_of_too_many_pairs_is_left_out_unless_asked_for(run):
    found, _ = run
    with pytest.raises(
        InputError, match=r"choosing 1000 circuits of 743 edges again would take about 0 minutes; --parts certificate"
    ):
        certified(found.ranked, found.circuit, 0, at_most=1e-9)
    assert certified(found.ranked, found.circuit, 0, at_most=60.0).n_circuit == len(found.circuit)


def test_its_summary_names_pairs_and_its_edges_with_their_places(run):
    found, read = run
    first, strongest = circuit_findings(found.summary(), found.provenance)
    assert f"{len(found.circuit)} of {found.circuit.graph.n_edges:,} (edge, place) pairs" in first
    assert "@sorted" in strongest
    assert read.record["summary"]["unit"] == "(edge, place) pairs"


def test_refined_scores_at_places_choose_the_circuit(model, pairs, tmp_path):
    options = {"positions": "spans", "destinations": True, "edges": 40}
    found = discover(model, pairs, method="eap", refine="exact", refine_top=30, random_circuits=0, **options)
    read = read_run(RunDirectory(tmp_path / "run", overwrite=True).write(found, pairs))
    (scores,) = (result for result in read.results.values() if isinstance(result, EdgeScores))
    assert scores.graph == found.circuit.graph
    refined = list(scores.provenance["refined"])
    exact = circuits.exact_edge_effects(model, pairs, refined, positions="spans", destinations=True)
    assert {edge: scores[edge] for edge in refined} == pytest.approx(exact.to_dict(), abs=1e-4)
    assert torch.equal(found.circuit.mask, scores.top(40).mask)


def test_a_run_found_again_is_compared_at_its_places(model, pairs, run):
    from circuits.runs.again import own_result, what_was_asked

    own, again = own_result(run[1]), what_was_asked(run[1]).again(model, pairs)
    assert own.graph == again.graph == run[0].circuit.graph
    torch.testing.assert_close(own.values, again.values)
