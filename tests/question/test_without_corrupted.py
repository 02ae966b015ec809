"""Pairs without corrupted prompts: ablations that need none give the same results, those that need one refuse."""

import json
from typing import Any

import pytest
import torch

import circuits
from circuits import PairsError, PromptPairs
from circuits.methods import catalogue
from circuits.question.ablations import Gaussian
from circuits.runs.discover import discover
from tests.command import run
from tests.tiny_models import random_pairs, tiny

SUBJECT = [{"subject": [1, 3]}] * 4
FULL = random_pairs(n=4, length=6)
REST = (FULL.answers, FULL.distractors)
FULL = PromptPairs.from_tokens(FULL.clean, FULL.corrupted, *REST, roles=SUBJECT)
BARE = PromptPairs.from_tokens(FULL.clean, None, *REST, roles=SUBJECT)
SMALL: dict[str, dict[str, Any]] = {
    "acdc": {"threshold": 0.1},
    "coar": {"samples": 40},
    "edge-pruning": {"edges": 9, "steps": 2},
    "ensemble": {"gradients": ["ig", "gim"]},
    "ugs": {"edges": 9, "steps": 2},
    "path-patching": {"receivers": ["logits"]},
}
OF_RUNS = ("activation-patching", "attribution-patching", "atp-star", "path-patching")


def scores(method: str, pairs: PromptPairs, ablation: Any) -> torch.Tensor:
    result: Any = discover(tiny("gpt2"), pairs, method=method, ablation=ablation, test=False, **SMALL.get(method, {}))
    return result.scores.per_prompt if result.scores is not None else result.circuit.mask


@pytest.mark.parametrize("method", catalogue.names())
def test_every_method_gives_the_same_without_the_corrupted_prompts(method: str) -> None:
    noise = () if method == "direct-effects" else (Gaussian(("subject",)),)
    ablations = noise if method in OF_RUNS else ("zero", *noise)
    for ablation in ablations:
        assert torch.equal(scores(method, BARE, ablation), scores(method, FULL, ablation))
    if not noise:
        return  # it takes zero ablation only
    with pytest.raises(
        PairsError, match="interchange ablation needs corrupted prompts, and these pairs have none; give"
    ):
        scores(method, BARE, "interchange")


def test_means_and_other_prompts_need_none_and_noise_on_what_differs_does() -> None:
    for ablation in ("mean", "mean_positional", "optimal", "resample"):
        assert torch.equal(scores("eap", BARE, ablation), scores("eap", FULL, ablation))
    with pytest.raises(PairsError, match=r"gaussian\(tokens=differing.* needs corrupted prompts"):
        scores("eap", BARE, "gaussian")


def test_methods_without_an_ablation_need_none_and_interventions_do() -> None:
    model = tiny("gpt2")
    for method in (circuits.information_flow, circuits.gradient_times_parameter):
        without, with_them = method(model, BARE), method(model, FULL)
        assert without.to_dict() == with_them.to_dict()
    copies = circuits.CausalModel({"x": lambda prompt, _: prompt}, output="x")
    with pytest.raises(PairsError, match="interchange ablation needs corrupted prompts"):
        circuits.interchange_interventions(model, BARE, copies, [(3, 4)] * 4, {"x": "a0.h0"}, token_of=int)


def test_the_task_is_checked_on_clean_prompts_alone() -> None:
    with_them, without = (circuits.check_pairs(tiny("gpt2"), pairs) for pairs in (FULL, BARE))
    assert without.accuracy is not None
    assert with_them.accuracy is not None
    assert (without.accuracy.clean, without.accuracy.corrupted) == (with_them.accuracy.clean, None)
    assert (without.flips, without.same_prompts) == (None, 0)
    assert json.loads(json.dumps(without.to_dict()))["accuracy"]["corrupted"] is None


def test_files_without_corrupted_prompts_read_as_written(tmp_path: Any) -> None:
    path = tmp_path / "pairs.jsonl"
    BARE.to_jsonl(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all("corrupted" not in line for line in lines)
    again = PromptPairs.from_jsonl(path)
    assert (again.clean, again.corrupted, again.digest()) == (BARE.clean, ((),) * 4, BARE.digest())
    assert again.digest() != FULL.digest()
    assert not BARE[1:3].has_corrupted
    path.write_text(
        "\n".join(json.dumps(line) for line in [*lines[:2], {**lines[2], "corrupted": list(FULL.corrupted[2])}])
    )
    with pytest.raises(
        PairsError, match="line 3: this pair has one, and the pair at line 1 has none: a corrupted prompt"
    ):
        PromptPairs.from_jsonl(path)
    path.write_text(json.dumps({**lines[0], "corupted": [1]}))
    with pytest.raises(PairsError, match="unknown key 'corupted'; did you mean 'corrupted'"):
        PromptPairs.from_jsonl(path)
    with pytest.raises(
        PairsError, match="pair 1 has no corrupted prompt, and pair 0 has; give one to all pairs, or to none"
    ):
        PromptPairs.from_tokens([[1, 2], [1, 2]], [[1, 3], []], [4, 4])


def test_a_run_is_made_evaluated_and_shown(monkeypatch: Any, capsys: Any, tmp_path: Any) -> None:
    full = circuits.load_task("compiled/and-gate").pairs(circuits.load_model("compiled/and-gate"), n=4)
    roles = [{"subject": [1, 3]}] * 4
    bare = PromptPairs.from_tokens(full.clean, None, full.answers, full.distractors, roles=roles)
    bare.to_jsonl(tmp_path / "pairs.jsonl")
    model = ["--model", "compiled/and-gate"]
    asked = ["discover", str(tmp_path / "pairs.jsonl"), *model, "--edges", "6", "--random-circuits", "1"]
    assert run(monkeypatch, [*asked, "--out", str(tmp_path / "no")]) == 2
    assert "--ablation gaussian --noise-tokens subject" in capsys.readouterr().err
    noisy = [*asked, "--ablation", "gaussian", "--noise-tokens", "subject", "--out", str(tmp_path / "run")]
    assert run(monkeypatch, noisy) == 0
    assert PromptPairs.from_jsonl(tmp_path / "run" / "pairs.jsonl").digest() == bare.digest()
    evaluate = ["evaluate", str(tmp_path / "run"), "--parts", "faithfulness", "--random-circuits", "1"]
    assert run(monkeypatch, evaluate) == 0
    record = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert "needs corrupted prompts" in record["skipped"]["faithfulness under interchange"]
    assert run(monkeypatch, ["tasks", "check", str(tmp_path / "pairs.jsonl"), *model]) == 0
    assert run(monkeypatch, ["view", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
