"""Verification against exact patching of all nodes, and on functions whose effects are known."""

from dataclasses import replace

import pytest
import torch
import transformers

import circuits.measure.subsets as subsets
from circuits import (
    InputError,
    Metric,
    NodeScores,
    PromptPairs,
    activation_patching,
    atp_star,
    causal_mediation,
    load_model,
    verify,
)
from circuits.measure.joint_sets import JOINT_SETS
from circuits.methods.verification import SetRuns
from circuits.results.node_scores import node_scores
from tests.tiny_models import FEW, atol, random_pairs, tiny


def exact(model, pairs, scores):
    return activation_patching(
        model, pairs, nodes=scores.nodes, positions=scores.positions and "each", direction="noising"
    ).per_prompt.reshape(-1, len(pairs))


def flat_names(scores):
    if scores.positions is None:
        return list(scores.nodes)
    return [f"{node}@{position}" for node in scores.nodes for position in scores.positions]


@pytest.mark.parametrize(("name", "positions"), [*((name, False) for name in FEW), ("gpt2", True), ("gemma2", True)])
def test_patched_effects_are_exact_and_nothing_large_is_left(name, positions):
    model, pairs = tiny(name), random_pairs(n=2, prefix=3)
    scores = atp_star(model, pairs, positions=positions)
    truth = exact(model, pairs, scores)
    size = truth.mean(1).abs()
    below = float(size.max()) / 3
    result = verify(model, pairs, scores, below=below, samples=16)
    names = flat_names(scores)
    rows = [names.index(node) for node in result.effects.nodes]
    torch.testing.assert_close(result.effects.per_prompt, truth[rows], rtol=1e-4, atol=max(1e-5, atol(name)))
    assert sorted([*result.effects.nodes, *result.unverified]) == sorted(names)
    large = [i for i in size.argsort(descending=True).tolist() if size[i] >= below]
    assert result.found == tuple(names[i] for i in large)
    assert result.bound < below
    sampled = sum(done.samples + JOINT_SETS for done in result.rounds)
    assert result.passes == 2 + len(rows) + sampled < 3 * len(names) + 2
    torch.testing.assert_close(
        result.effects.clean - result.effects.corrupted, torch.tensor(ends(model, pairs), dtype=torch.float64),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def ends(model, pairs):
    scores = activation_patching(model, pairs, nodes=["input"], direction="noising")
    return scores.per_prompt[0].tolist()  # the whole embedding corrupted is the corrupted run


def made_up(monkeypatch, effects):
    """Patches f(S) = Σ effects (one pair) under verification, and records the sets that were asked for."""
    asked = []

    def outcomes(runs, name, sets, progress=None):
        asked.append((name, [[node.name for node in nodes] for nodes in sets]))
        if progress is not None:
            progress(len(sets), len(sets))
        values = torch.tensor([[sum(effects[node.name] for node in nodes)] for nodes in sets], dtype=torch.float64)
        return values.reshape(len(sets), 1), torch.zeros(2, 1, dtype=torch.float64)

    monkeypatch.setattr(SetRuns, "outcomes", outcomes)
    return asked


def each_position(model, pairs, values):
    """Scores of the queries at each position, with these values in order."""
    nodes = tuple(f"a{layer}.h{head}<q>" for layer in range(3) for head in range(3))
    positions = tuple(map(str, range(len(pairs.clean[0]))))
    scores = node_scores(nodes, torch.tensor(values, dtype=torch.float64).reshape(len(nodes), -1, 1), {}, positions)
    return scores, [f"{node}@{position}" for node in nodes for position in positions]


def test_nodes_go_by_score_but_first_those_that_the_diagnosis_suspects(monkeypatch):
    model, pairs = tiny("gpt2"), random_pairs(n=1, length=20)
    scores, names = each_position(model, pairs, [1 - i / 180 for i in range(180)])
    noise = 0.02 * torch.randn(180, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    effects = dict(zip(names, noise.tolist(), strict=True))
    effects[names[170]] = -5.0  # the scores all but miss it
    asked = made_up(monkeypatch, effects)
    result = verify(model, pairs, scores, below=0.95, samples=32, share=0.25)
    patched = [nodes[0] for name, sets in asked if name.startswith("patched") for nodes in sets]
    assert patched[:10] == names[:10]  # whose scores reach 0.95
    assert patched[10] == names[170]
    assert result.found == (names[170],)
    assert result.unverified == tuple(name for name in names if name not in patched)
    assert [name for name, _ in asked] == ["patched-0000000", "round-001", "patched-0000010", "round-002"]
    assert [done.patched for done in result.rounds] == [10, 42]
    assert result.rounds[-1].bound == result.bound < 0.95 < result.rounds[0].bound


def test_rounds_double_and_share_out_the_doubt_until_it_is_cheaper_to_patch_the_rest(monkeypatch):
    model, pairs = tiny("gpt2"), random_pairs(n=1, length=20)
    scores, names = each_position(model, pairs, [0.0] * 180)
    asked = made_up(monkeypatch, dict.fromkeys(names, 1.0))
    seen = []
    result = verify(
        model, pairs, scores, below=1e-3, samples=5, share=0.5, confidence=0.9, progress=lambda *p: seen.append(p)
    )
    assert [done.samples for done in result.rounds] == [5, 10, 20, 40]
    assert [1 - done.confidence for done in result.rounds] == pytest.approx([0.1 / 2, 0.1 / 6, 0.1 / 12, 0.1 / 20])
    assert [done.patched for done in result.rounds] == [0, 5, 15, 35]
    assert sorted(node for nodes in asked[-1][1] for node in nodes) == sorted(
        set(names) - set(result.effects.nodes[:75])
    )
    assert (result.bound, result.unverified, len(result.found)) == (0, (), 180)
    assert [done for done, _ in seen] == [54, 59, 118, 128, 197, 217, 306, 346, 451]
    assert {most for _, most in seen} == {180 + 54 + 59 + 69 + 89 + 129}


def test_it_stops_too_early_no_more_often_than_it_says(monkeypatch):
    """A node that the scores put last is just large enough; all others are small."""
    model, pairs = tiny("gpt2"), random_pairs(n=1, length=20)
    scores, names = each_position(model, pairs, [0.0] * 180)
    misses = stops = 0
    for seed in range(25):
        effects = 0.05 * torch.randn(180, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        effects[179] = 1.0
        made_up(monkeypatch, dict(zip(names, effects.tolist(), strict=True)))
        result = verify(model, pairs, scores, below=1.0, samples=32, share=0.5, confidence=0.8, seed=seed)
        stops += bool(result.unverified)
        misses += names[179] in result.unverified
    assert 0 < misses <= 0.2 * 25
    assert stops >= 12


def test_a_stopped_verification_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    model, pairs = tiny("llama"), random_pairs(n=3, length=4)
    scores = atp_star(model, pairs)
    asked = {
        "below": 0.2 * float(scores.values.max()),
        "samples": 4,
        "share": 0.25,
        "size": "contribution",
        "batch_size": 2,
    }
    whole = verify(model, pairs, scores, **asked)
    assert len(whole.rounds) > 1
    real, calls = subsets.PatchRuns.metrics, []

    def stop_sometimes(runs, interventions):
        calls.append(1)
        if len(calls) in (2, 5, 9):
            raise KeyboardInterrupt
        return real(runs, interventions)

    monkeypatch.setattr(subsets.PatchRuns, "metrics", stop_sometimes)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            verify(model, pairs, scores, store=tmp_path / "s", **asked)
    again = verify(model, pairs, scores, store=tmp_path / "s", **asked)
    assert again.to_dict() == whole.to_dict()
    assert torch.equal(again.effects.per_prompt, whole.effects.per_prompt)
    n = len(calls)
    verify(model, pairs, scores, store=tmp_path / "s", **asked)
    assert len(calls) == n
    with pytest.raises(InputError, match="another question"):
        verify(model, pairs, scores, store=tmp_path / "s", **{**asked, "below": 1.0})
    larger = replace(scores, per_prompt=2 * scores.per_prompt)  # the same order, but more of them are patched at once
    with pytest.raises(InputError, match="another question"):
        verify(model, pairs, larger, store=tmp_path / "s", **asked)


def test_identical_prompts_need_one_round():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    result = verify(model, same, atp_star(model, same), below=1e-6, samples=32, share=0.5)
    assert (len(result.effects), result.bound, result.passes) == (0, 0, 34 + JOINT_SETS)
    assert result.to_dict()["rounds"] == [{"patched": 0, "samples": 32, "confidence": 0.975, "bound": 0, "spread": 0}]
    assert "if interactions show when half or a quarter of them is patched" in repr(result)
    assert "half or a quarter" in result.to_dict()["assumes"]


def test_what_it_says_of_itself():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    scores = atp_star(model, pairs, positions=False)
    result = verify(model, pairs, scores, below=float(scores.values.median()), metric="probability")
    assert "39 patched, 0 not: exact; 41 passes" in repr(result)
    data = result.to_dict()
    assert list(data["found"]) == list(result.found)
    assert set(data["effects"]) == set(scores.nodes)
    assert (data["bound"], data["passes"], data["size"]) == (0, 41, "mean")
    options = result.effects.provenance["options"]
    assert (options["scores"], options["nodes"], result.effects.provenance["metric"]) == ("atp_star", 39, "probability")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"below": 0.0}, "below must be above 0, got 0"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"confidence": 1.0}, "confidence must be between"),
        ({"size": "max"}, "size must be one of"),
        ({"share": 0.0}, "share must be between"),
        ({"ablation": "mean"}, "another run"),
    ],
)
def test_what_cannot_be_verified_is_refused(asked, message):
    model, pairs = tiny("gpt2"), random_pairs(n=1)
    scores = atp_star(model, pairs, positions=False)
    with pytest.raises(InputError, match=message):
        verify(model, pairs, scores, **{"below": 1.0, **asked})


def test_scores_that_order_nothing_are_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=1)
    scores = atp_star(model, pairs, positions=False)
    broken = scores.per_prompt.clone()
    broken[1] = torch.nan
    with pytest.raises(InputError, match=r"such as that of a0\.h1<q>"):
        verify(model, pairs, replace(scores, per_prompt=broken), below=1.0)
    with pytest.raises(InputError, match=r"no node 'a7\.h0'"):
        verify(model, pairs, NodeScores(("a7.h0",), torch.ones(1, 1)), below=1.0)


def backing_up():
    """A GPT-2 in which two heads of layer 1 each write one of two answers when they see token 6 become 5; MLPs do next to nothing.

    The metric is the larger logit of the two answers, so that either head alone can be patched without harm.
    """
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=12, n_positions=8, n_embd=16, n_layer=2, n_head=2, n_inner=150, bos_token_id=1, eos_token_id=2
    )
    model = transformers.GPT2LMHeadModel(config).double().eval()
    unit = torch.eye(16, dtype=torch.float64)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "ln_" not in name:
                values.mul_(0.01 if "mlp" in name else 0)
        embeddings = model.transformer.wte.weight
        embeddings[5], embeddings[6] = unit[0] - unit[1], unit[1] - unit[0]
        embeddings[3], embeddings[4] = unit[8] - unit[9], unit[10] - unit[11]
        embeddings[10], embeddings[11] = unit[2], unit[3]
        heads = model.transformer.h[1].attn
        for head in (0, 1):
            heads.c_attn.weight[0, 32 + 8 * head], heads.c_attn.weight[1, 32 + 8 * head] = 1, -1
            heads.c_proj.weight[8 * head, 2 + head], heads.c_proj.weight[8 * head, 12 + head] = 0.3, -0.3
    either = Metric("either_answer", lambda logits, targets: torch.maximum(logits[:, 10], logits[:, 11]))
    return load_model(model), PromptPairs.from_tokens([[3, 4, 5]], [[3, 4, 6]], [10], [11]), either


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_heads_that_back_each_other_up_are_not_bounded_below_their_average_effect():
    model, pairs, metric = backing_up()
    scores = activation_patching(model, pairs, nodes="heads+neurons", direction="noising", metric=metric)
    a, b = scores["a1.h0"], scores["a1.h1"]
    both = causal_mediation(model, pairs, ["a1.h0", "a1.h1"], metric=metric).indirect
    assert both > 10 * max(a, b)
    average = {"a1.h0": a + (both - a - b) / 16, "a1.h1": b + (both - a - b) / 16}
    truth = max(average.values())
    for seed in range(3):
        result = verify(model, pairs, scores, below=0.8 * truth, metric=metric, seed=seed)
        assert result.rounds[0].spread >= 0.9 * (both - a - b)
        assert result.bound >= max((average[node] for node in result.unverified if node in average), default=0)
        wide = verify(model, pairs, scores, below=1.1 * both, metric=metric, seed=seed)
        assert {*average} <= {*wide.unverified}
        assert wide.bound >= truth
