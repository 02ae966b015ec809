"""Composition scores against whole matrices, and their size for random weights."""

import pytest
import torch

import circuits
from circuits import InputError, composition_scores
from tests.tiny_models import tiny


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "native-attention-only"])
def test_scores_are_those_of_the_whole_matrices(name):
    model = tiny(name)
    kv = "kv1" if model.graph.grouped else "h1"
    scores = composition_scores(model, ["a0.h1->a1.h2<q>", f"a0.h1->a2.{kv}<k>", f"a1.h0->a2.{kv}<v>"])
    group = model.graph.group_size

    def before(block):
        norm = block.attn_norm
        weight = torch.eye(24, dtype=torch.float64) if norm.weight is None else torch.diag(norm.weight)
        return (torch.eye(24, dtype=torch.float64) - 1 / 24) @ weight if norm.kind == "layer" else weight

    def ov(layer, head):
        block = model.architecture.blocks[layer]
        out = block.output_projection[head]
        out = out if block.post_norm is None else out * block.post_norm.weight
        return before(block) @ block.projection("v")[head // group] @ out

    def qk(layer, head):
        block = model.architecture.blocks[layer]
        return before(block) @ block.projection("q")[head] @ block.projection("k")[head // group].T @ before(block).T

    shared = range(group, 2 * group)
    right = [qk(1, 2), torch.cat([qk(2, head).T for head in shared], 1), torch.cat([ov(2, head) for head in shared], 1)]
    with torch.no_grad():
        for got, left, matrix in zip(scores.score.tolist(), (ov(0, 1), ov(0, 1), ov(1, 0)), right, strict=True):
            assert got == pytest.approx(float((left @ matrix).norm() / (left.norm() * matrix.norm())), abs=1e-9)


def test_the_compiled_path_stands_out_and_chance_is_that_of_random_weights():
    model = circuits.load_model("compiled/induction")
    scores = composition_scores(model, ["a0.h1->a1.h2<k>", "a0.h1->a1.h2<v>"])
    assert scores.score[0] > 2 * scores.chance > scores.score[1]
    random = tiny("native-attention-only")
    edges = [f"a0.h{i}->a1.h{j}<{part}>" for i in range(3) for j in range(3) for part in "qkv"]
    mean = float(composition_scores(random, edges).score.square().mean().sqrt())
    assert mean == pytest.approx(random.bridge.cfg.d_model**-0.5, rel=0.1)
    assert len(scores.to_pandas()) == 2
    with pytest.raises(InputError, match="not between heads"):
        composition_scores(random, ["input->a1.h0<q>"])
    with pytest.raises(InputError, match="must be a list"):
        composition_scores(random, "a0.h1->a1.h2<k>")
