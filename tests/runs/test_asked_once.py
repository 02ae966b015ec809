"""A question is asked once: however much a run does with it, its pairs are checked and its means are computed once."""

from collections import Counter

import pytest

from circuits.question.ablations import Mean
from circuits.question.question import Question
from circuits.runs.directory import RunDirectory
from circuits.runs.discover import discover
from circuits.runs.evaluate import evaluate_run
from circuits.runs.read import read_run
from tests.tiny_models import random_pairs, tiny

FEW = {"edges": 8, "random_circuits": 1}
RUNS = {
    "eap-ig": {**FEW, "steps": 2, "refine": "exact", "refine_top": 3},
    "exact-edges": FEW,
    "information-flow": FEW,
    "acdc": {"threshold": 0.5, "order": "eap", "random_circuits": 1},
    "edge-pruning": {**FEW, "steps": 2, "start": "gim"},
    "ugs": {**FEW, "steps": 2},
    "ensemble": {**FEW, "gradients": ["ig", "gim"]},
    "coar": {"samples": 4},
}


@pytest.fixture
def calls(monkeypatch):
    """How often questions are asked, and means computed."""
    counts = Counter()
    ask, prepared = Question.ask.__func__, Mean.prepared

    def counted_ask(cls, *given, **options):
        counts["asked"] += 1
        return ask(cls, *given, **options)

    def counted_prepared(self, *given):
        counts["means computed"] += 1
        return prepared(self, *given)

    monkeypatch.setattr(Question, "ask", classmethod(counted_ask))
    monkeypatch.setattr(Mean, "prepared", counted_prepared)
    return counts


@pytest.mark.parametrize("method", RUNS)
@pytest.mark.filterwarnings("ignore::circuits.AttributionWarning")
def test_a_run_asks_its_question_once(method, calls):
    model = tiny("gpt2")
    discover(model, random_pairs(n=3), method=method, ablation="mean", **RUNS[method])
    assert calls == {"asked": 1, "means computed": 1}


def test_an_evaluation_asks_once(calls, tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    result = discover(model, pairs, method="eap", ablation="mean", **FEW)
    run = read_run(RunDirectory(tmp_path / "run").write(result, pairs))
    calls.clear()
    evaluate_run(run, model, pairs, parts=("faithfulness", "completeness", "minimality", "curves"), n_random=1)
    assert calls == {"asked": 1, "means computed": 1}
