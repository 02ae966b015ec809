"""The parts certificate, families and specificity of an evaluation, and its verdict."""

import json

import pytest
import torch

import circuits
from circuits.evaluation.specificity import specificity_of
from circuits.pages.verdict import NOT_SUPPORTED, NOT_TESTED, SUPPORTED, verdicts
from circuits.question.question import Question
from circuits.report import report_sections
from circuits.runs.evaluate import evaluate_run
from circuits.runs.object_parts import certified
from circuits.runs.read import read_run
from tasks.compiled import TwoWays
from tests.command import discovered

MADE = {"answers": {"accuracy": 0.9}, "ablation": "interchange", "n_edges": 10}
RANDOM = {"p": 0.01, "ratio_of_means": 0.9, "random_faithfulness": 0.1}


def named(measured):
    return {one.claim: one for one in verdicts(measured)}


def test_nothing_measured_is_nothing_tested():
    assert {one.verdict for one in verdicts({"ablation": "zero"})} == {NOT_TESTED}


@pytest.mark.parametrize(
    ("claim", "measured", "opposite"),
    [
        ("the model does the task", {"answers": {"accuracy": 0.9}}, {"answers": {"accuracy": 0.5}}),
        ("the circuit does more than random circuits", {"faithfulness": {"interchange": RANDOM}}, {"faithfulness": {"interchange": {**RANDOM, "p": 0.05}}}),
        ("it does more than circuits of the same layers", {"same_layers": RANDOM}, {"same_layers": {**RANDOM, "p": 0.3}}),
        ("this holds under other ablations", {"faithfulness": {"interchange": RANDOM, "zero": RANDOM}}, {"faithfulness": {"interchange": RANDOM, "zero": {**RANDOM, "p": 1.0}}}),
        ("it is sufficient", {"hypothesis": {"tests": [{"name": "sufficiency", "supports": True, "corrected": 0.01}]}}, {"hypothesis": {"tests": [{"name": "sufficiency", "supports": False, "corrected": 0.2}]}}),
        ("its edges do not hang on a few prompts", {"certificate": {"circuit": 10, "certified": 9, "confidence": 0.95}}, {"certificate": {"circuit": 10, "certified": 8, "confidence": 0.95}}),
        ("it is one circuit", {"families": {"k": 1, "p": 0.5}}, {"families": {"k": 2, "p": 0.01}}),
        ("other pairs give the same circuit", {"stability": {"by": {"pairs": {"jaccard": 0.6}}}}, {"stability": {"by": {"pairs": {"jaccard": 0.4}}}}),
        ("scores depend on the weights", {"randomisation": {"rank": [0.9, 0.1], "jaccard": None}}, {"randomisation": {"rank": [0.9, 0.8], "jaccard": None}}),
    ],
)  # fmt: skip
def test_a_claim_is_what_its_number_says(claim, measured, opposite):
    about = {"ablation": "interchange"}
    assert named({**about, **measured})[claim].verdict == SUPPORTED
    result = named({**about, **opposite})[claim]
    assert result.verdict == NOT_SUPPORTED
    assert result.number
    assert result.test


@pytest.mark.parametrize(("n", "verdict"), [(5, NOT_TESTED), (19, NOT_TESTED), (20, SUPPORTED)])
def test_a_run_that_was_not_evaluated_has_its_own_numbers(n, verdict):
    summary = {
        "accuracy": 0.9, "ablation": "interchange", "faithfulness": 0.8, "clean": 5.0, "circuit": 4.0, "random_faithfulness": 0.1,
        "random_circuits": [0.5] * n,
    }  # fmt: skip
    made = {one.claim: one for one in verdicts({}, summary)}
    assert made["the model does the task"].verdict == SUPPORTED
    beside = made["the circuit does more than random circuits"]
    assert beside.verdict == verdict
    assert beside.number.startswith(f"faithfulness 0.80, random circuits 0.10, p = {1 / (n + 1):.2g}")
    assert ("too few" in beside.number) == (verdict == NOT_TESTED)
    near = {one.claim: one for one in verdicts({}, {**summary, "random_circuits": [5.5] * n})}
    assert near["the circuit does more than random circuits"].verdict == (NOT_SUPPORTED if n == 20 else NOT_TESTED)
    measured = {"answers": {"accuracy": 0.1}, "ablation": "interchange"}
    assert {one.claim: one for one in verdicts(measured, summary)}["the model does the task"].verdict == NOT_SUPPORTED


def test_a_test_that_could_not_be_made_is_not_tested():
    measured = {
        "ablation": "zero",
        "hypothesis": {"tests": [{"name": "equivalence", "supports": None, "corrected": None}]},
    }
    assert named(measured)["it does what the model does"].verdict == NOT_TESTED


def test_a_report_without_an_evaluation_has_what_the_run_knows(monkeypatch, tmp_path):
    path = discovered(monkeypatch, tmp_path, "run", "eap", "--edges", 20, "--random-circuits", 0)
    _, sections = report_sections([path])
    assert sections[0].heading == "Verdict"
    (claim, verdict, number, _), rest = sections[0].content.rows
    accuracy = read_run(path).record["summary"]["accuracy"]
    assert (claim, verdict) == ("the model does the task", SUPPORTED if accuracy >= 0.8 else NOT_SUPPORTED)
    assert number == f"accuracy {accuracy:.2f}"
    assert rest[0].count(";") == 12
    assert rest[1:] == [NOT_TESTED, "–", "circuits evaluate RUN --parts faithfulness,hypothesis,certificate,stability,families,specificity,randomisation"]  # fmt: skip


def test_a_run_is_evaluated_and_the_report_opens_with_the_verdict(monkeypatch, tmp_path):
    path = discovered(monkeypatch, tmp_path, "run", "eap", "--edges", 20, "--random-circuits", 0)
    run = read_run(path)
    model = circuits.load_model(run.provenance["model"], dtype="float64")
    pairs = circuits.PromptPairs.from_jsonl(run.path / "pairs.jsonl", model, trust_ids=True)
    parts = ("faithfulness", "certificate", "families", "specificity")
    result = evaluate_run(run, model, pairs, parts=parts, ablations=["interchange"], n_random=20, write=True)
    data = json.loads((run.path / "evaluation.json").read_text())
    assert data["certificate"]["circuit"] == len(next(iter(run.circuits.values())))
    assert "families need at least 8 pairs, got 4" in data["skipped"]["families"]
    assert "no other task" in data["skipped"]["specificity"]
    _, sections = report_sections([path])
    rows = {row[0]: row for row in sections[0].content.rows}
    assert rows["its edges do not hang on a few prompts"][1] == (
        SUPPORTED if result.certificate.n_certified >= 0.9 * result.certificate.n_circuit else NOT_SUPPORTED
    )
    assert "it is one circuit" in sections[0].content.rows[-1][0]
    assert [section.heading for section in sections].count("Verdict") == 1


def test_the_certificate_is_that_of_the_runs_selection():
    model = circuits.load_model(TwoWays.bridge())
    scores = circuits.edge_attribution(model, TwoWays().pairs(model, n=12), gradient="ig", steps=5)
    for circuit, same in (
        (scores.top(6), circuits.certify(scores, edges=6, seed=3)),
        (scores.threshold(1.0), circuits.certify(scores, "threshold", tau=1.0, seed=3)),
    ):
        result = certified(scores, circuit, seed=3)
        assert torch.equal(result.certificate.counts, same.counts)
        assert result.n_certified == sum(same.status[edge] == "in" and same.radius[edge] >= 1 for edge in circuit.edges)
    with pytest.raises(circuits.InputError, match="edges were chosen by greedy"):
        certified(scores, scores.greedy(6), seed=0)


def test_a_circuit_that_serves_one_mechanism_is_specific():
    model = circuits.load_model(TwoWays.bridge())
    asked = {ending: Question.ask(model, TwoWays(ending).pairs(model, n=12)) for ending in "?!"}
    scores = circuits.edge_attribution(model, asked["?"].pairs, gradient="ig", steps=5)
    circuit = scores.threshold(1.0)
    result = specificity_of(("?", asked["?"]), {"!": asked["!"]}, circuit, n_random=3)
    assert result.specific
    assert result.own.effect == pytest.approx(1)
    assert result.others[0].effect == pytest.approx(0, abs=1e-9)
    both = circuit | circuits.edge_attribution(model, asked["!"].pairs, gradient="ig", steps=5).threshold(1.0)
    assert specificity_of(("?", asked["?"]), {"!": asked["!"]}, both).specific is False
    assert specificity_of(("?", asked["?"]), {}, circuit).specific is None
