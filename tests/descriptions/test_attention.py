"""Attention as arrays against TransformerLens' own cache, and its means against loops."""

import pytest
import torch

from circuits import InputError, PromptPairs, attention
from circuits.notebook import plot
from tests.tiny_models import FEW, tiny

PAIRS = PromptPairs.from_tokens(
    [[3, 4, 5, 6], [7, 8, 9, 10, 11], [12, 13, 14, 15]], [[4, 4, 5, 6], [8, 8, 9, 10, 11], [9, 13, 14, 15]], [16, 17, 18],
    [19, 20, 21], positions=[3, 4, 2], roles=[{"a": 0, "b": 1}, {"a": 1, "b": 3}, {"a": 0, "b": 2}],
)  # fmt: skip


@pytest.mark.parametrize("name", FEW)
def test_patterns_are_those_of_the_model(name):
    model = tiny(name)
    seen = attention(model, PAIRS)
    assert seen.heads == tuple(writer.name for writer in model.graph.writer_nodes if writer.kind == "head")
    for i, prompt in enumerate(PAIRS.clean):
        with torch.no_grad():
            _, cache = model.bridge.run_with_cache(torch.tensor([prompt]))
        n = len(prompt)
        for head in seen.heads:
            layer, index = (int(part[1:]) for part in head.split("."))
            wanted = cache[f"blocks.{layer}.attn.hook_pattern"][0, index].float()
            torch.testing.assert_close(seen.pattern[head][i, :n, :n], wanted, rtol=1e-5, atol=1e-6)
            assert float(seen.pattern[head][i, n:].abs().sum() + seen.pattern[head][i, :, n:].abs().sum()) == 0


def test_means_between_roles_are_means_over_pairs():
    seen = attention(tiny("gpt2"), PAIRS, ["a0.h1", "a2.h0"])
    means = seen.by_span()
    assert means.queries == ("a", "b", "answer position")
    assert means.keys == (*means.queries, "other")
    for h, head in enumerate(means.heads):
        for i, query in enumerate(means.queries):
            for j, key in enumerate(means.keys):
                weights = []
                for n, roles in enumerate(PAIRS.roles):
                    at = {**roles, "answer position": PAIRS.positions[n]}
                    row = seen.pattern[head][n, at[query]]
                    rest = sum(float(w) for place, w in enumerate(row) if place not in at.values())
                    weights.append(rest if key == "other" else float(row[at[key]]))
                wanted = torch.tensor(weights, dtype=torch.float64)
                assert float(means.mean[h, i, j]) == pytest.approx(float(wanted.mean()), abs=1e-6)
                assert float(means.stderr[h, i, j]) == pytest.approx(float(wanted.std()) / 3**0.5, abs=1e-6)
    assert seen.by_span(["a"]).keys == ("a", "other")
    assert len(seen.to_pandas()) == 2 * 3 * 4


def test_figures_and_refusals():
    seen = attention(tiny("gpt2"), PAIRS, "a0.h1")
    assert plot(seen, head="a0.h1", pair=1).data[0].z[1][2] == 0
    assert seen.plot().layout.title.text.startswith("a0.h1")
    with pytest.raises(InputError, match="there is no pair 9"):
        seen.plot(pair=9)
    with pytest.raises(InputError, match="there is no head"):
        seen.plot("a9.h9")
    with pytest.raises(InputError, match="expected heads"):
        attention(tiny("gpt2"), PAIRS, ["m0"])
