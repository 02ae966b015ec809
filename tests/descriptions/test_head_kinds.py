"""Kinds of heads where the truth is known, their definitions against loops, and the level of their p values on random models."""

from dataclasses import replace

import pytest
import torch

import circuits
import tasks
from circuits import InputError, head_kinds
from circuits.descriptions.head_kinds import LEVEL
from circuits.descriptions.kind_scores import on_prompts, on_sequences, repeats
from circuits.descriptions.probe_prompts import Repeated, repeated_sequences
from circuits.descriptions.rotated import Rotation, record, rotated_patterns, rotations
from circuits.descriptions.series import SeriesTokens
from circuits.engine.hooks import TokenBatch, inference_state
from tests.tiny_models import FEW, random_pairs, tiny

KNOWN = {
    "compiled/induction": {"a0.h1": "previous token", "a1.h2": "induction"},
    "compiled/negative-head": {"a0.h1": "name mover", "a1.h2": "negative mover"},
    "compiled/sort": {"a0.h2": "name mover"},
    "compiled/reverse": {"a1.h1": "name mover"},
    "compiled/fraction": {"a0.h2": "broad"},
    "compiled/or-gate": {"a0.h0": "positional", "a0.h2": "positional"},
    "compiled/and-gate": {"a0.h0": "positional", "a0.h2": "positional"},
    "compiled/histogram": {"a0.h1": "broad"},
}


@pytest.mark.parametrize("name", KNOWN)
def test_compiled_heads_have_the_kinds_that_they_were_compiled_for(name):
    model = circuits.load_model(name)
    kinds = head_kinds(model, tasks.load(name).pairs(model, n=8), draws=19)
    for head, kind in KNOWN[name].items():
        assert kind in kinds.significant(head), (head, kinds.significant(head))
        assert kinds[kind][head] > 0.7


def test_compiled_heads_that_no_kind_fits_get_no_wrong_one():
    """Dyck's heads look everywhere whatever they read, which rotated heads do too; greater-than's looks at digits, several in random sequences."""
    for name, heads, kinds in (("dyck", ["a0.h0", "a1.h1"], ()), ("greater-than", ["a0.h1"], ("broad",))):
        model = circuits.load_model(f"compiled/{name}")
        result = head_kinds(model, tasks.load(f"compiled/{name}").pairs(model, n=8), draws=19)
        assert all(result.significant(head) == kinds for head in heads)


def test_the_trained_induction_model():
    model = circuits.load_model("trained/induction")
    kinds = head_kinds(model, draws=19)
    assert all("induction" in kinds.significant(f"a1.h{i}") for i in range(4))
    assert not any("induction" in kinds.significant(f"a0.h{i}") for i in range(4))
    assert any("previous token" in kinds.significant(f"a0.h{i}") for i in range(4))
    assert kinds.missing["name mover"] == "there are no prompts of a task"


def test_random_models_have_kinds_at_most_at_the_level(monkeypatch):
    """45 heads × 15 kinds; `benchmarks/kinds_by_chance.py` measures each kind on more models."""
    series = SeriesTokens((1,), tuple(range(3, 33)), (*range(4, 33), -1))
    monkeypatch.setattr("circuits.descriptions.head_kinds.series_tokens", lambda _: series)
    hits, trials = 0, 0
    for name in FEW:
        kinds = head_kinds(tiny(name, torch.float32), random_pairs(n=4), seed=1, draws=19)
        assert "successor" in kinds.kinds
        hits, trials = hits + int((kinds.p <= LEVEL).sum()), trials + kinds.p.numel()
        assert float(kinds.p.min()) >= 0.05
        assert bool((kinds.score >= 0).all() & (kinds.score <= 1 + 1e-6).all())
    assert hits / trials < 0.1


def random_pattern(heads: int, prompts: int, n: int) -> torch.Tensor:
    scores = torch.randn(heads, prompts, n, n, generator=torch.Generator().manual_seed(0))
    return scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf).softmax(-1)


def test_definitions_on_sequences_against_loops():
    half, n = 3, 7
    tokens = torch.tensor([[0, 5, 6, 7, 5, 6, 7], [0, 8, 9, 5, 8, 9, 5]])
    pattern, copies = random_pattern(2, 2, n), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    scores = on_sequences(pattern, Repeated(tokens, half), copies, 1 - copies)
    for h in range(2):
        for s in range(2):
            weight = pattern[h, s]
            same, after, before, own, first = [], [], [], [], []
            for q in range(n):
                earlier = [k for k in range(1, q) if tokens[s, k] == tokens[s, q]]
                same += [weight[q, k] for k in earlier]
                after += [weight[q, k + 1] for k in earlier if k + 1 <= half]
                before += [weight[q, q - 1]] if q >= 2 else []
                own += [weight[q, q]] if q >= 2 else []
                first += [weight[q, 0]] if q >= 1 else []
            for kind, wanted in (
                ("duplicate token", same),
                ("previous token", before),
                ("current token", own),
                ("first token", first),
            ):
                assert float(scores[kind][h, s]) == pytest.approx(float(torch.stack(wanted).mean()), abs=1e-6), kind
            target = float(torch.stack(after).mean())
            assert float(scores["induction"][h, s]) == pytest.approx(target * float(copies[h].mean()), abs=1e-6)
            overlap = [
                sum(min(float(pattern[h, 0, q, k]), float(pattern[h, 1, q, k])) for k in range(n)) for q in range(1, n)
            ]
            assert float(scores["positional"][h, s]) == pytest.approx(sum(overlap) / len(overlap), abs=1e-6)
            entropy = [
                float(-(weight[q, : q + 1] * weight[q, : q + 1].log()).sum() / torch.tensor(q + 1.0).log())
                for q in range(1, n)
            ]
            assert float(scores["broad"][h, s]) == pytest.approx(sum(entropy) / len(entropy), abs=1e-5)


def test_definitions_on_prompts_against_loops():
    pairs = circuits.PromptPairs.from_tokens(
        [[0, 5, 6, 9, 6, 8], [0, 7, 5, 7, 9]], [[0, 5, 6, 9, 5, 8], [0, 7, 5, 5, 9]], [5, 5], [6, 7]
    )
    pattern = [random_pattern(2, 1, 6), random_pattern(2, 1, 5)]
    copies = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    scores = on_prompts(pattern, pairs, copies, 1 - copies, copies.flip(0))
    for h in range(2):
        assert float(scores["name mover"][h, 0]) == pytest.approx(float(pattern[0][h, 0, 5, 1] * copies[h, 0]))
        assert float(scores["name mover"][h, 1]) == pytest.approx(float(pattern[1][h, 0, 4, 2] * copies[h, 1]))
        wrong = float(pattern[0][h, 0, 5, 2] + pattern[0][h, 0, 5, 4]) * float(copies[1 - h, 0])
        assert float(scores["wrong-answer suppressor"][h, 0]) == pytest.approx(wrong)
        assert float(scores["S-inhibition"][h, 0]) == pytest.approx(float(pattern[0][h, 0, 5, 4]))
        assert float(scores["S-inhibition"][h, 1]) == pytest.approx(float(pattern[1][h, 0, 4, 3]))
        for i, (query, key) in enumerate(((4, 2), (3, 1))):
            assert float(scores["repeated token"][h, i]) == pytest.approx(float(pattern[i][h, 0, query, key]))
            assert float(scores["prefix matching"][h, i]) == pytest.approx(float(pattern[i][h, 0, query, key + 1]))
        wanted = (float(pattern[0][h, 0, 2, 1]) + float(pattern[0][h, 0, 4, 1])) / 2
        assert float(scores["same class"][h, 0]) == pytest.approx(wanted)


def test_repeated_tokens_are_answers_or_at_the_answer_position():
    # 5 and 9 occur twice; 9 counts because the answer is asked for there, 5 because it is an answer, 6 for neither.
    assert repeats([5, 5, 6, 9, 6, 5, 9], 6, {5}) == [(5, [1]), (6, [3])]
    assert repeats([5, 5, 6, 9, 6, 5, 9], 4, {7}) == [(4, [2])]
    assert repeats([5, 5, 6], 1, {5}) == []


class Still(Rotation):
    """A rotation that leaves every head as it is."""

    def projection(self, block, part):
        return block.projection(part)


@pytest.mark.parametrize("name", [*FEW, "bloom", "olmo2", "gpt-j", "qwen3", "mistral"])
def test_rotated_heads_are_the_models_own_with_the_identity_and_others_without(name):
    model = tiny(name)
    repeated = repeated_sequences(model, None, seed=0, n=2)
    tokens = TokenBatch(repeated.tokens, torch.full((2,), repeated.tokens.shape[1] - 1))
    with inference_state(model.bridge), torch.no_grad():
        streams, own = record(model.architecture, tokens)
        assert streams.ruled == (name not in ("bloom", "olmo2"))
        (turned,) = rotations(model.architecture, 1, seed=0)
        by_rule = rotated_patterns(model.architecture, streams, turned)
        for some, wanted in ((Still({}, ()), own), (turned, by_rule)):
            for ruled in {streams.ruled, False}:
                made = rotated_patterns(model.architecture, replace(streams, ruled=ruled), some)
                torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)
        assert float((by_rule - own).abs().max()) > 0.01


def test_rotated_weights_have_the_singular_values_and_random_directions():
    model = tiny("llama")
    draws = list(rotations(model.architecture, 200, seed=0))
    for part in "qkv":
        weight = model.architecture.blocks[1].projection(part)
        new = draws[0].projection(model.architecture.blocks[1], part)
        torch.testing.assert_close(new.mT @ new, weight.mT @ weight, rtol=1e-5, atol=1e-5)
        frames = torch.stack([draw.frames[part] for draw in draws])  # draw, head, d_model, rank
        assert float(frames.mean(0).abs().max()) < 5 * (24 * 200) ** -0.5
        torch.testing.assert_close(
            frames.square().mean((0, 3)), torch.full((frames.shape[1], 24), 1 / 24), rtol=0.3, atol=0
        )
    assert not torch.equal(draws[0].frames["q"][0], draws[0].frames["q"][1])


def test_results_repeat_and_refuse():
    model, pairs = tiny("gpt2", torch.float32), random_pairs(n=3)
    one, two = (head_kinds(model, pairs, seed=3, draws=19) for _ in range(2))
    assert torch.equal(one.p, two.p)
    assert len(one.to_pandas()) == len(one.heads) * len(one.kinds)
    with pytest.raises(InputError, match="at least 19"):
        head_kinds(model, draws=5)
    with pytest.raises(InputError, match="there is no head 'm0'"):
        one.significant("m0")
    with pytest.raises(InputError, match="single tokens"):
        one["successor"]
