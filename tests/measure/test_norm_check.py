"""Gradients on an empty residual stream are warned of, whatever brought them there, and no others are."""

import json
import sys
import warnings

import pytest
import torch

import circuits
from circuits import AttributionWarning, PromptPairs, cli, edge_attribution
from circuits.question.ablations import Ablation
from tests.tiny_models import random_hf_model, random_pairs, tiny

AT_THE_END = {
    "corrupted": ({"gradient": "corrupted"}, "gradient='ig'"),
    "clean-corrupted": ({"gradient": "clean-corrupted"}, "gradient='ig'"),
    "ig": ({"gradient": "ig", "steps": 2, "quadrature": "left"}, "quadrature='midpoint'"),
    "conductance": ({"gradient": "conductance", "steps": 2, "quadrature": "left"}, "quadrature='midpoint'"),
    "ig-activations": ({"gradient": "ig-activations", "steps": 1, "quadrature": "left"}, "quadrature='midpoint'"),
}
ELSEWHERE = [
    {"gradient": "clean", "check_sign": False},
    {"gradient": "relp"},
    {"gradient": "gim"},
    {"gradient": "ig"},
    {"gradient": "ig", "steps": 100},
    {"gradient": "conductance", "steps": 2, "quadrature": "right"},
    {"gradient": "ig-activations", "steps": 1},
]


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2", "qwen2", "neox", "gpt2"])
@pytest.mark.parametrize("rule", AT_THE_END)
def test_zero_ablation_at_the_ablated_end_is_warned_of_with_a_rule_that_works(rule, name):
    model, pairs = tiny(name), random_pairs(n=3)
    options, instead = AT_THE_END[rule]
    with pytest.warns(AttributionWarning, match="on 3 of 3 pairs .*zero ablation") as warned:
        scores = edge_attribution(model, pairs, ablation="zero", batch_size=2, **options)
    assert len(warned) == 1
    assert f"Use {instead}" in str(warned[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        followed = {"gradient": "ig"} if "gradient" in instead else options | {"quadrature": "midpoint"}
        sane = edge_attribution(model, pairs, ablation="zero", **followed)
    assert scores.values.abs().max() > 3 * sane.values.abs().max()


@pytest.mark.parametrize("name", ["llama", "gemma2", "olmo2", "gpt2"])
@pytest.mark.parametrize("options", ELSEWHERE)
def test_other_points_of_the_path_are_not_warned_of(name, options):
    edge_attribution(tiny(name), random_pairs(n=2), ablation="zero", **options)


@pytest.mark.parametrize("ablation", ["interchange", "mean", "gaussian"])
@pytest.mark.parametrize("rule", AT_THE_END)
def test_other_ablations_are_not_warned_of(rule, ablation):
    edge_attribution(tiny("llama"), random_pairs(n=2, prefix=2), ablation=ablation, **AT_THE_END[rule][0])


def test_without_norms_an_empty_stream_is_as_good_as_any():
    edge_attribution(tiny("native-no-norm"), random_pairs(n=2), ablation="zero", gradient="corrupted")


class Shrunk(Ablation):
    """Almost nothing of the writer's own value."""

    name = "shrunk"

    def replacement(self, model, suffix, clean):
        return clean.map(lambda value: value * 1e-7)


def test_almost_nothing_is_warned_of_too():
    with pytest.warns(AttributionWarning, match="shrunk ablation"):
        edge_attribution(tiny("llama"), random_pairs(n=2), ablation=Shrunk(), gradient="corrupted")


def test_a_token_whose_embedding_is_zero_is_warned_of_on_the_pairs_that_have_it():
    hf_model = random_hf_model("llama")
    with torch.no_grad():
        hf_model.model.embed_tokens.weight[0] = 0
    model, pairs = circuits.load_model(hf_model), random_pairs(n=3)
    corrupted = [list(tokens) for tokens in pairs.corrupted]
    corrupted[1][2] = 0
    with_zero = PromptPairs.from_tokens(pairs.clean, corrupted, pairs.answers, pairs.distractors)
    with pytest.warns(AttributionWarning, match="on 1 of 3 pairs .*interchange ablation"):
        edge_attribution(model, with_zero, gradient="corrupted")
    same = [[0, *tokens] for tokens in pairs.clean], [[0, *tokens] for tokens in pairs.corrupted]
    edge_attribution(model, PromptPairs.from_tokens(*same, pairs.answers, pairs.distractors), gradient="corrupted")


def test_the_command_notes_it_in_the_run(tmp_path, monkeypatch, capsys):
    random_hf_model("llama").save_pretrained(tmp_path / "model")
    pairs = random_pairs(n=2)
    rows = zip(pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors, strict=True)
    keys = ("clean", "corrupted", "answers", "distractors")
    lines = [json.dumps(dict(zip(keys, map(list, row), strict=True))) for row in rows]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    asked = ("--method", "edge-attribution", "--gradient", "corrupted", "--ablation", "zero", "--edges", 20)
    arguments = ("discover", tmp_path / "pairs.jsonl", "--model", tmp_path / "model", *asked, "--out", tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["circuits", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = capsys.readouterr().out
    assert not stopped.value.code
    assert "Use gradient='ig'" in " ".join(printed.split())
    notes = json.loads((tmp_path / "out" / "run.json").read_text())["summary"]["notes"]
    assert sum("on 2 of 2 pairs a gradient was taken where zero ablation" in note for note in notes) == 1
