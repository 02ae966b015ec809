"""Self-repair: the parts of each total effect sum, totals are those of patching, and compiled models repair as they were compiled."""

import pytest
import torch

import circuits
import tasks
from circuits import InputError, activation_patching, direct_effects, self_repair
from circuits.descriptions.self_repair import SelfRepair
from tests.tiny_models import FEW, atol, awkward_pairs, tiny


@pytest.mark.parametrize("name", FEW)
def test_totals_are_those_of_patching_and_the_parts_sum(name):
    model, pairs = tiny(name), awkward_pairs()
    nodes = ["a0.h1", "a1.h0", "a2.h2"]
    repair = self_repair(model, pairs, nodes)
    patched = activation_patching(model, pairs, nodes=nodes, direction="noising")
    size = max(1.0, float(patched.per_prompt.abs().max()))
    torch.testing.assert_close(repair.total, patched.per_prompt, rtol=0, atol=10 * atol(name) * size)
    torch.testing.assert_close(repair.total, repair.direct - repair.response.sum(1) + repair.rest)
    if model.architecture.final_norm.kind == "identity":
        assert float(repair.rest.abs().max()) < 1e-8 * size
    for i, node in enumerate(nodes):
        earlier = repair.response[i, : model.graph.writer_index(node) + 1]
        assert (
            float(earlier.abs().max()) < 10 * atol(name) * size or name == "gemma2"
        )  # its post-norm couples heads of a layer
    last = direct_effects(model, pairs, nodes=["a2.h2"])
    swapped = circuits.PromptPairs.from_tokens(
        pairs.corrupted, pairs.clean, pairs.answers, pairs.distractors, pairs.positions
    )
    if name == "native-attention-only":  # without a norm both directions are the same
        other = direct_effects(model, swapped, nodes=["a2.h2"])
        torch.testing.assert_close(repair.direct[2], last.per_prompt[0] - other.per_prompt[0])


def test_the_or_gate_is_redundant_and_no_single_head_matters():
    model = circuits.load_model("compiled/or-gate")
    repair = self_repair(model, tasks.load("compiled/or-gate").pairs(model, n=6), ["a0.h0", "a0.h2"])
    assert float(repair.total.abs().max()) < 1e-9
    assert float(repair.joint.mean()) > 5
    assert repair.redundancy == pytest.approx(float(repair.joint.mean()))
    torch.testing.assert_close(repair.pairs["a0.h0", "a0.h2"], repair.joint)


def test_the_negative_head_is_the_movers_backup():
    model = circuits.load_model("compiled/negative-head")
    repair = self_repair(model, tasks.load("compiled/negative-head").pairs(model, n=6), ["a0.h1", "a1.h2"])
    assert [name for name, _, _ in repair.backups("a0.h1")] == ["a1.h2"]
    # Ablated, the mover writes 10 to the wrong answer, direct effect 20. The negative head then finds no such token and looks
    # everywhere: instead of 4 it takes 4/6 from the right answer, so it makes up 10/3.
    assert repair.repaired("a0.h1") == pytest.approx(1 / 6, abs=1e-6)
    assert repair.backups("a0.h1")[0][1] == pytest.approx(10 / 3, abs=1e-6)
    assert repair.backups("a1.h2") == []
    assert repair.rows()[0]["backups"] == "a1.h2"
    with pytest.raises(InputError, match="not among the ablated"):
        repair.repaired("m0")
    with pytest.raises(InputError, match="measured for writers"):
        self_repair(model, tasks.load("compiled/negative-head").pairs(model, n=3), ["a0.h1<q>"])


def test_a_writer_is_named_by_chance_at_most_at_the_level():
    """Normal responses with mean 0: 400 results of 40 writers on 8 prompts."""
    generator = torch.Generator().manual_seed(0)
    named = 0
    for _ in range(400):
        response = torch.randn(1, 40, 8, generator=generator).double()
        one = torch.ones(1, 8).double()
        named += bool(SelfRepair(("a",), tuple(map(str, range(40))), one, one, response, one[0]).backups("a"))
    assert named / 400 < 0.05 + 2.5 * (0.05 * 0.95 / 400) ** 0.5
