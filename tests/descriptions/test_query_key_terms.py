"""Terms of attention scores: they sum to the softmax's input, and are what a slow second computation gives."""

from functools import partial

import pytest
import torch
from transformer_lens import TransformerBridge, TransformerBridgeConfig

import circuits
from circuits import InputError, ModelError, PairsError, query_key_terms
from circuits.engine.attention import AttentionScores
from circuits.engine.capture import capture_writes, stack
from circuits.engine.hooks import TokenBatch, inference_state, run
from tests.tiny_models import atol, awkward_pairs, tiny

SPLIT = (
    "gpt2", "neox", "llama", "qwen3", "gemma2", "olmo2", "native", "native-attention-only", "gpt-j", "codegen", "cohere", "gpt-neo",
    "bloom", "mpt",
)  # fmt: skip
BIASED = ("bloom", "mpt")


@pytest.mark.parametrize("name", SPLIT)
def test_terms_sum_to_the_score_that_the_softmax_gets(name):
    model, pairs = tiny(name), awkward_pairs()
    layer = 1
    terms = query_key_terms(model, pairs, f"a{layer}.h1", query="b", key="a")
    last = ("constants", "position") if name in BIASED else ("constants",)
    assert terms.writers == (*model.graph.writer_names[: len(terms.writers) - len(last)], *last)
    for i, pair in enumerate(pairs):
        scores = AttentionScores(model.architecture, [layer])
        with inference_state(model.bridge), torch.no_grad(), scores:
            run(
                model.architecture,
                TokenBatch(torch.tensor([pair.clean]), torch.tensor([pair.position])),
                scores.hooks(),
            )
        wanted = float(scores.layers[layer][0, 1, pair.roles["b"], pair.roles["a"]])
        cap = model.architecture.blocks[layer].rule.softcap
        total = terms.terms[i].sum()
        made = float(total if cap is None else cap * torch.tanh(total / cap))
        assert made == pytest.approx(wanted, abs=atol(name) * max(1, abs(wanted)))
        assert float(terms.score[i]) == pytest.approx(float(total))


def test_a_slow_second_computation_agrees():
    """GPT-2: write by write through the norm at its scale, then one query times one key."""
    model, pairs = tiny("gpt2"), awkward_pairs()
    terms = query_key_terms(model, pairs, "a2.h0", key="a")
    block, n = model.architecture.blocks[2], len(terms.writers) - 1
    for i, pair in enumerate(pairs):
        seen = []
        tokens = TokenBatch(torch.tensor([pair.clean]), torch.tensor([pair.position]))
        with inference_state(model.bridge):
            _, writes = capture_writes(model.architecture, tokens, [(block.resid_pre, seen.append)])
        writers = stack(model.architecture, writes, torch.float64)[0]

        def part(w: int, at: int, weight: torch.Tensor, stream=seen[0][0], writers=writers) -> torch.Tensor:
            x = stream[at] - stream[at].mean()
            v = writers[w, at] - writers[w, at].mean()
            return (v / (x.square().mean() + block.attn_norm.eps).sqrt() * block.attn_norm.weight) @ weight

        with torch.no_grad():
            queries = [part(u, pair.position, block.projection("q")[0]) for u in range(n)]
            keys = [part(w, pair.roles["a"], block.projection("k")[0]) for w in range(n)]
        for u, q in enumerate(queries):
            for w, k in enumerate(keys):
                assert float(terms.terms[i, u, w]) == pytest.approx(float(q @ k) * 8**-0.5, abs=1e-10)


def test_differences_tables_and_refusals():
    model, pairs = tiny("gpt2"), awkward_pairs()
    a, end = (query_key_terms(model, pairs, "a2.h0", key=key) for key in ("a", "end"))
    difference = a.minus(end)
    torch.testing.assert_close(difference.terms.sum((1, 2)), a.score - end.score)
    assert sum(a.by_query.values()) == pytest.approx(sum(a.by_key.values())) == pytest.approx(float(a.score.mean()))
    assert abs(a.strongest(1)[0][2]) == max(abs(row["term"]) for row in a.rows())
    with pytest.raises(InputError, match="comes after the query"):
        query_key_terms(model, pairs, "a2.h0", query="a", key="b")
    with pytest.raises(PairsError, match="no role 'z'"):
        query_key_terms(model, pairs, "a2.h0", key="z")
    with pytest.raises(InputError, match="expected heads"):
        query_key_terms(model, pairs, "m0", key="a")


def test_a_model_whose_scores_are_not_its_rule_is_refused(monkeypatch):
    monkeypatch.setattr("circuits.descriptions.query_key_terms.rotated", lambda y, *_: y)
    with pytest.raises(ModelError, match="cannot be split"):
        query_key_terms(tiny("neox"), awkward_pairs(), "a1.h0", key="a")


@pytest.mark.parametrize("name", BIASED)
def test_the_bias_of_positions_is_alibis_slope_times_the_key(name):
    """Press et al. 2022, section 3: slopes 2^(-8 h / H). BLOOM counts keys from the first token, MPT back from the last."""
    model, pairs = tiny(name), awkward_pairs()
    for head in range(4):
        terms = query_key_terms(model, pairs, f"a1.h{head}", query="b", key="a")
        for i, pair in enumerate(pairs):
            place = pair.roles["a"] - (len(pair.clean) - 1 if name == "mpt" else 0)
            assert float(terms.terms[i, -1, -1]) == pytest.approx(2.0 ** (-2 * (head + 1)) * place, rel=1e-6)
            assert float(terms.terms[i, -1, :-1].abs().sum() + terms.terms[i, :-1, -1].abs().sum()) == 0


def test_adjacent_rotations_against_complex_numbers():
    """A native model in float64: with dimensions 2n and 2n + 1 as one complex number, the score is Re q k* exp(i θ_n (m - j))."""
    config = TransformerBridgeConfig(
        d_model=24, d_head=8, n_layers=2, n_ctx=32, n_heads=3, d_vocab=40, seed=0, act_fn="relu", normalization_type="LN",
        positional_embedding_type="rotary", rotary_dim=4,
    )  # fmt: skip
    model, pairs = circuits.load_model(TransformerBridge.boot_native(config).double()), awkward_pairs()
    terms, block = query_key_terms(model, pairs, "a1.h2", query="b", key="a"), model.architecture.blocks[1]
    for i, pair in enumerate(pairs):
        seen = {}
        tokens = TokenBatch(torch.tensor([pair.clean]), torch.tensor([pair.position]))
        with inference_state(model.bridge):
            run(model.architecture, tokens, [(getattr(block, part), partial(seen.__setitem__, part)) for part in "qk"])
        at = pair.roles["b"], pair.roles["a"]
        q, k = (seen[part][0, place, 2] for part, place in zip("qk", at, strict=True))
        turn = torch.exp(1j * 10000.0 ** -torch.tensor([0.0, 0.5]).double() * (at[0] - at[1]))
        q_turned, k_turned = (torch.view_as_complex(x[:4].reshape(2, 2).contiguous()) for x in (q, k))
        wanted = float((q_turned * k_turned.conj() * turn).real.sum() + q[4:] @ k[4:]) * 8**-0.5
        assert float(terms.score[i]) == pytest.approx(wanted, abs=1e-6)
