"""On compiled models the true features are known: the neurons by which the program's MLPs decide. Decoy MLPs write where nothing reads."""

import pytest
import torch

import circuits
import tasks
from circuits import Dictionary
from tasks.compiled.gates import AndGate, GreaterDigit, OrGate


def true_dictionaries(model):
    """A transcoder of every MLP, whose features are its neurons: nothing is left over."""
    result = []
    for layer, block in enumerate(model.bridge.blocks):
        weights = [getattr(block.mlp, name).detach() for name in ("W_in", "b_in", "W_out", "b_out")]
        result.append(Dictionary.from_weights(f"transcoder.{layer}", *weights, model=model.name))
    return result


def auroc(scores: dict[str, float], true: set[str]) -> float:
    """The chance that a true feature has a larger score than another one."""
    pairs = [(scores[a], scores[b]) for a in scores if a in true for b in scores if b not in true]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("program", [AndGate, OrGate, GreaterDigit])
def test_the_true_features_are_recovered_exactly(program):
    model = circuits.load_model(program.name)
    pairs = tasks.load(program.name).pairs(model, n=24, seed=0)
    dictionaries = true_dictionaries(model)
    network = program.network()
    true = {f"f:{mlp}.{i}" for mlp, does in network.mlps.items() for i in range(len(does.bias))}
    given = {"nodes": "features", "dictionaries": dictionaries}
    estimated = circuits.attribution_patching(model, pairs, **given)
    exact = circuits.activation_patching(model, pairs, direction="noising", **given)
    for scores in (estimated, exact):
        sizes = dict(zip(scores.nodes, scores.contributions.tolist(), strict=True))
        assert all(size == pytest.approx(0, abs=1e-9) for node, size in sizes.items() if node.startswith("e:"))
        assert all(
            size == pytest.approx(0, abs=1e-9)
            for node, size in sizes.items()
            if node.startswith("f:") and node not in true
        )
        assert true & sizes.keys()
        assert all(sizes[node] > 1e-6 for node in true & sizes.keys()) or scores is exact
    features = dict(zip(estimated.nodes, estimated.contributions.tolist(), strict=True))
    missing = {
        f"f:{place}.{i}": 0.0 for place in ("m0", "m1") for i in range(4)
    }  # inactive features have an effect of 0
    assert auroc(missing | features, true & features.keys()) == 1
    kept = [node for node in estimated.nodes if node in true]
    result = circuits.feature_faithfulness(model, pairs, kept, dictionaries=dictionaries)
    assert result.without_errors == pytest.approx(1, abs=1e-9)
    assert torch.allclose(result.chosen, result.clean)
