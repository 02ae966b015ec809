"""Runs whose circuit has places: found, refined, stored, and every part of their evaluation against direct calls."""

import json

import pytest
import torch

import circuits
import tasks
from circuits import Circuit, EdgeScores, circuit_metrics
from circuits.pages.evaluation import evaluation_sections
from circuits.runs.directory import RunDirectory
from circuits.runs.discover import discover
from circuits.runs.evaluate import evaluate_run
from circuits.runs.findings import circuit_findings
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
    result = discover(
        model, pairs, method="eap-ig", positions="spans", destinations=True, edges=40, fill=False, random_circuits=3
    )
    made = RunDirectory(tmp_path_factory.mktemp("runs") / "run", overwrite=True).write(result, pairs)
    return result, read_run(made)


def share(model, pairs, circuit, ablation="interchange"):
    full, empty, kept = circuit_metrics(
        model, pairs, [Circuit.full(model.graph), Circuit.empty(model.graph), circuit], ablation=ablation
    ).mean(1)
    return float((kept - empty) / (full - empty))


@pytest.fixture(scope="module")
def evaluated(model, pairs, run):
    """Every part of the run's evaluation, and its JSON."""
    measured = evaluate_run(run[1], model, pairs, parts=PARTS, ablations=["interchange", "zero"], n_random=3)
    return measured, json.loads(json.dumps(measured.to_dict(), allow_nan=False))


def test_the_runs_circuit_is_at_the_places_of_its_pairs(pairs, run):
    result, read = run
    assert read.circuits["run circuit"] == result.circuit
    assert result.circuit.places == pairs.spans


def test_faithfulness_is_that_of_edges_at_places(model, pairs, run, evaluated):
    for ablation, part in evaluated[1]["faithfulness"].items():
        assert part["ratio_of_means"] == pytest.approx(share(model, pairs, run[0].circuit, ablation))
        assert part["unit"] == "(edge, place) pairs"
        assert "(edge, place) pairs ablated" in part["name"]


def test_completeness_and_minimality_are_those_of_edges_at_places(model, pairs, run, evaluated):
    circuit, record = run[0].circuit, evaluated[1]
    assert record["completeness"]["complement"] == pytest.approx(share(model, pairs, ~circuit))
    for edge, effect in record["minimality"]["effects"].items():
        both = circuit_metrics(model, pairs, [circuit, circuit - Circuit.from_edges(circuit.graph, [edge])]).mean(1)
        assert effect == pytest.approx(float(both[0] - both[1]), abs=1e-4)
    assert tuple(record["minimality"]["effects"]) == circuit.edges


def test_curves_and_complexity_are_those_of_edges_at_places(model, pairs, run, evaluated):
    measured, scores = evaluated[0], run[0].scores.over_places()
    curves = circuits.faithfulness_curves(model, pairs, scores, seed=1)
    torch.testing.assert_close(measured.curves.absolute.faithfulness, curves.absolute.faithfulness)
    assert measured.curves.absolute.edges[-1] == run[0].circuit.graph.n_edges
    assert measured.complexity == circuits.complexity(scores)


def test_certificate_families_and_stability_are_over_places(run, evaluated):
    measured, circuit = evaluated[0], run[0].circuit
    assert measured.certificate.certificate.graph == circuit.graph
    assert measured.certificate.n_certified <= len(circuit)
    assert all(family.graph == circuit.graph for family in measured.families.circuits)
    assert measured.variations.compared().names == measured.prompts.names == circuit.graph.edges


def test_no_part_of_the_evaluation_is_skipped(evaluated):
    record = evaluated[1]
    assert all(row["auroc"] == 1.0 for row in record["recovery"]["scores"])
    assert set(record["hypothesis"])
    assert not record["skipped"].keys() & set(PARTS)
    assert "(edge, place) pairs" in str(evaluation_sections(record))


def test_its_summary_names_pairs_and_its_edges_with_their_places(run):
    result, read = run
    first, strongest = circuit_findings(result.summary(), result.provenance)
    assert f"{len(result.circuit)} of {result.circuit.graph.n_edges:,} (edge, place) pairs" in first
    assert "@sorted" in strongest
    assert read.record["summary"]["unit"] == "(edge, place) pairs"


def test_refined_scores_at_places_choose_the_circuit(model, pairs, tmp_path):
    options = {"positions": "spans", "destinations": True, "edges": 40}
    outcome = discover(model, pairs, method="eap", refine="exact", refine_top=30, random_circuits=0, **options)
    read = read_run(RunDirectory(tmp_path / "run", overwrite=True).write(outcome, pairs))
    (scores,) = (result for result in read.results.values() if isinstance(result, EdgeScores))
    assert scores.graph == outcome.circuit.graph
    refined = list(scores.provenance["refined"])
    exact = circuits.exact_edge_effects(model, pairs, refined, positions="spans", destinations=True)
    assert {edge: scores[edge] for edge in refined} == pytest.approx(exact.to_dict(), abs=1e-4)
    assert torch.equal(outcome.circuit.mask, scores.top(40).mask)


def test_a_run_found_again_is_compared_at_its_places(model, pairs, run):
    from circuits.runs.again import own_result, what_was_asked

    own, again = own_result(run[1]), what_was_asked(run[1]).again(model, pairs)
    assert own.graph == again.graph == run[0].circuit.graph
    torch.testing.assert_close(own.values, again.values)
