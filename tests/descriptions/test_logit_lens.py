"""The logit lens against the model's own norm and unembedding on each layer's stream, one prompt at a time."""

import pytest
import torch

from circuits import InputError, logit_lens
from tests.tiny_models import atol, awkward_pairs, tiny


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "olmo2", "native"])
def test_each_stage_is_the_models_own_end_on_that_stream(name):
    model, pairs = tiny(name), awkward_pairs()
    lens = logit_lens(model, pairs, top=3)
    assert lens.stages == ("input", *(f"layer {i}" for i in range(model.graph.n_layers)))
    for i, pair in enumerate(pairs):
        with torch.no_grad():
            logits, cache = model.bridge.run_with_cache(torch.tensor([pair.clean]))
            for stage in range(len(lens.stages)):
                last = stage == model.graph.n_layers
                point = "ln_final.hook_in" if last else f"blocks.{stage}.hook_in"
                row = model.bridge.unembed(model.bridge.ln_final(cache[point]))[0, pair.position]
                if last:
                    torch.testing.assert_close(row, logits[0, pair.position], rtol=1e-4, atol=1e-6)
                size = max(1.0, float(row.abs().max()))
                answers, distractors = row[list(pair.answers)], row[list(pair.distractors)]
                assert float(lens.answer[stage, i]) == pytest.approx(float(answers.mean()), abs=atol(name) * size)
                assert float(lens.metric[stage, i]) == pytest.approx(
                    float(answers.mean() - distractors.mean()), abs=2 * atol(name) * size
                )
                assert int(lens.rank[stage, i]) == 1 + int((row > answers.max()).sum())
                assert lens.top[stage, i].tolist() == row.topk(3).indices.tolist()


@pytest.mark.parametrize("name", ["cohere", "granite", "gemma2"])
def test_factors_and_caps_of_the_logits_are_those_of_the_model(name):
    model, pairs = tiny(name), awkward_pairs()
    lens = logit_lens(model, pairs)
    for i, pair in enumerate(pairs):
        with torch.no_grad():
            row = model.bridge(torch.tensor([pair.clean]))[0, pair.position]
        assert float(lens.answer[-1, i]) == pytest.approx(float(row[list(pair.answers)].mean()), abs=1e-5)


def test_table_plot_and_refusals():
    lens = logit_lens(tiny("gpt2"), awkward_pairs())
    assert len(lens.to_pandas()) == 4
    assert len(lens.plot().data) == 2
    with pytest.raises(InputError, match="top must be between 1 and 40"):
        logit_lens(tiny("gpt2"), awkward_pairs(), top=41)
