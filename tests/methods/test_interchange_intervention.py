"""Interchange interventions on a model made by hand, whose variables are known to be in its two heads."""

from functools import cache
from itertools import product

import pytest
import torch
from scipy.stats import binomtest
from transformer_lens import TransformerBridge, TransformerBridgeConfig

import circuits
from circuits import CausalModel, InputError, PairsError, PromptPairs, interchange_interventions
from circuits.graph.nodes import find_site
from tests.tiny_models import FEW, random_pairs, tiny

END, FIRST_OUTPUT = 2, 3
BITS = list(product((0, 1), repeat=2))
HYPOTHESIS = CausalModel(
    {
        "x": lambda bits, values: bits[0],
        "y": lambda bits, values: bits[1],
        "pair": lambda bits, values: (values["x"], values["y"]),
    },
    output="pair",
)
RIGHT = {"x": "a0.h0", "y": "a0.h1"}


def token_of(pair):
    return FIRST_OUTPUT + 2 * pair[0] + pair[1]


def weight(bridge, name):
    return dict(bridge.named_parameters())[name.replace("/", "._original_component.") + "._original_component.weight"]


@cache
def copying_model():
    """Reads `x y =` (bits x and y) and predicts one of four tokens, (x, y). Head 0 carries x to `=`, head 1 carries y.

    The residual stream holds [bit: 2 | position: 3 | x: 2 | y: 2], each one-hot.
    """
    config = TransformerBridgeConfig(
        d_model=9, d_head=2, n_heads=2, n_layers=1, n_ctx=3, d_vocab=7, seed=0, act_fn="relu", normalization_type=None,
        attn_only=True,
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(config).double()
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.zero_()
        weight(bridge, "tok_embed")[[0, 1], [0, 1]] = 1
        weight(bridge, "pos")[[0, 1, 2], [2, 3, 4]] = 1
        attention = "layers.0/attn/"
        for head in (0, 1):
            rows = slice(2 * head, 2 * head + 2)
            weight(bridge, attention + "q")[2 * head, 4] = 100  # `=` looks
            weight(bridge, attention + "k")[2 * head, 2 + head] = 1  # for the position of its bit
            weight(bridge, attention + "v")[rows, 0:2] = torch.eye(2, dtype=torch.float64)
            weight(bridge, attention + "o")[5 + 2 * head : 7 + 2 * head, rows] = torch.eye(2, dtype=torch.float64)
        for x, y in BITS:
            weight(bridge, "head")[token_of((x, y)), [5 + x, 7 + y]] = 1
    return circuits.load_model(bridge)


def all_pairs():
    """Every base with every source."""
    inputs = list(product(BITS, repeat=2))
    roles = [{"x": 0, "y": 1, "end": 2}] * len(inputs)
    prompts = [[[*bits, END] for bits in column] for column in zip(*inputs, strict=True)]
    answers = [token_of(base) for base, _ in inputs]
    return PromptPairs.from_tokens(*prompts, answers, roles=roles), inputs


def ask(alignment, **options):
    pairs, inputs = all_pairs()
    options = {"token_of": token_of, **options}
    return interchange_interventions(copying_model(), pairs, HYPOTHESIS, inputs, alignment, **options)


@pytest.mark.parametrize(
    "alignment",
    [
        RIGHT,
        {"x": ["a0.h0"], "y": ["a0.h1"]},
        {"x": "a0.h0@end", "y": "a0.h1@2"},
        {"x": ["a0.h0<v>@0"], "y": ["a0.h1<v>@y"]},
        {"x": "input@x", "y": "input@1"},
    ],
)
def test_the_right_alignment_has_accuracy_one(alignment):
    result = ask(alignment, variables=["x", "y", ["x", "y"]])
    assert result.to_dict() == {"x": 1.0, "y": 1.0, "x+y": 1.0}
    assert result.behaviour == 1.0
    assert result.informative_values.tolist() == [1.0, 1.0, 1.0]
    assert result.n_informative.tolist() == [8, 8, 12]


def test_heads_taken_for_each_other_are_wrong_on_every_informative_pair():
    result = ask({"x": "a0.h1", "y": "a0.h0"}, variables=["x", "y", ("x", "y")])
    assert result.informative_values[:2].tolist() == [0, 0]
    assert result["x"] == result["y"] == 0.25  # where neither bit differs
    assert result["x+y"] == 1.0  # together they are the same intervention


def test_nodes_that_do_nothing_are_right_on_the_uninformative_pairs_alone():
    result = ask({"x": "a0.h0@x", "y": "a0.h1<q>"})
    assert result.to_dict() == {"x": 0.5, "y": 0.5}
    assert result.informative_values.tolist() == [0, 0]


def test_a_causal_model_that_does_not_predict_the_behaviour_is_found_out():
    exclusive = CausalModel({"x": lambda bits, _: bits[0], "out": lambda bits, v: (v["x"], 1 - bits[1])}, output="out")
    pairs, inputs = all_pairs()
    result = interchange_interventions(copying_model(), pairs, exclusive, inputs, {"x": "a0.h0"}, token_of=token_of)
    assert result.behaviour == 0
    assert result["x"] == 0


def test_predictions_are_made_among_the_candidates():
    biased = ask(RIGHT, candidates=[3, 4, 5, 6])
    assert biased.to_dict() == {"x": 1.0, "y": 1.0}
    # Outputs renamed so that the model's own token is no candidate where y = 1: the best of the others is predicted.
    pairs, inputs = all_pairs()
    only_x = CausalModel({"x": lambda bits, _: bits[0]}, output="x")
    lists = [[FIRST_OUTPUT, FIRST_OUTPUT + 2]] * len(pairs)
    for candidates, wanted in ((lists, 1.0), (lists[0], 1.0), (None, 0.5)):
        result = interchange_interventions(
            copying_model(), pairs, only_x, inputs, {"x": "a0.h0"},
            token_of=lambda x: FIRST_OUTPUT + 2 * x, candidates=candidates,
        )  # fmt: skip
        assert result["x"] == result.behaviour == wanted


def naive_predictions(model, pairs, site):
    """One whole forward pass a pair through the bridge's public face."""
    point = getattr(model.architecture.blocks[site.layer], site.point).name
    tokens = []
    for clean, corrupted in zip(pairs.clean, pairs.corrupted, strict=True):
        stored = {}

        def keep(x, hook, stored=stored):
            stored["value"] = x.clone()

        def patch(x, hook, stored=stored):
            x = x.clone()
            x[:, :, site.index] = stored["value"][:, :, site.index]
            return x

        with torch.no_grad():
            model.bridge.run_with_hooks(torch.tensor([corrupted]), fwd_hooks=[(point, keep)])
            logits = model.bridge.run_with_hooks(torch.tensor([clean]), fwd_hooks=[(point, patch)])
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


@pytest.mark.parametrize("name", FEW)
def test_the_models_side_is_one_patched_forward_pass(name):
    model, pairs = tiny(name), random_pairs(n=6, prefix=1)
    identity = CausalModel({"seen": lambda token, _: token}, output="seen")
    inputs = [(0, 1)] * len(pairs)
    result = {
        size: interchange_interventions(
            model, pairs, identity, inputs, {"seen": "a1.h1"}, token_of=lambda token: token, batch_size=size
        )
        for size in (1, 4)
    }
    assert result[4].predicted[0].tolist() == naive_predictions(model, pairs, find_site(model.graph, "a1.h1"))
    assert torch.equal(result[1].predicted, result[4].predicted)
    with torch.no_grad():
        for row, tokens in zip(result[4].predicted_alone, (pairs.clean, pairs.corrupted), strict=True):
            assert row.tolist() == model.bridge(torch.tensor(tokens))[:, -1].argmax(-1).tolist()


def test_prompts_of_different_lengths_take_the_positions_of_their_roles():
    rows = [random_pairs(n=1, length=length, seed=length) for length in (7, 5, 6)]
    clean, corrupted = [[row.clean[0] for row in rows], [row.corrupted[0] for row in rows]]
    pairs = PromptPairs.from_tokens(clean, corrupted, [3] * 3, roles=[{"end": len(tokens) - 1} for tokens in clean])
    identity = CausalModel({"seen": lambda token, _: token}, output="seen")
    # The last block's whole output at the end is all that the end's logits see of it besides the stream before.
    alignment = {"seen": ["input@end", *(f"a{layer}.h{h}@end" for layer in range(3) for h in range(3)),
                          *(f"m{layer}@end" for layer in range(3))]}  # fmt: skip
    result = interchange_interventions(
        tiny("gpt2"), pairs, identity, [(0, 1)] * 3, alignment, token_of=lambda token: token
    )
    assert torch.equal(result.predicted[0], result.predicted_alone[1])


def test_intervals_are_wilsons_and_contain_the_accuracy():
    result = ask({"x": "a0.h0@x", "y": "a0.h1"})
    low, high = result.interval(0.9)
    wanted = binomtest(8, 16).proportion_ci(0.9, method="wilson")
    assert (float(low[0]), float(high[0])) == (wanted.low, wanted.high)
    assert low[1] < 1 == high[1]
    low, high = result.interval(informative=True)
    assert low[0] == 0 < high[0]
    with pytest.raises(InputError, match="level"):
        result.interval(1.5)


def test_the_result_says_what_was_asked():
    result, calls = ask({"x": "a0.h0@end"}, batch_size=5), []
    ask(RIGHT, batch_size=7, progress=lambda *done: calls.append(done))
    assert calls == [(7, 16), (14, 16), (16, 16)]
    assert result.provenance["options"]["alignment"] == {"x": ["a0.h0@end"]}
    assert result.provenance["metric"] == "interchange_accuracy"
    assert "x: 1.000" in str(result)
    assert "1.000 on 8 informative pairs" in str(result)
    with pytest.raises(InputError, match="nothing was measured for 'z'"):
        result["z"]


def test_without_an_informative_pair_there_is_no_informative_accuracy():
    pairs, inputs = all_pairs()
    same = [i for i, (base, source) in enumerate(inputs) if base == source]
    result = interchange_interventions(
        copying_model(), pairs[same], HYPOTHESIS, [inputs[i] for i in same], RIGHT, token_of=token_of
    )
    assert result.to_dict() == {"x": 1.0, "y": 1.0}
    assert bool(result.informative_values.isnan().all())
    assert bool(result.interval(informative=True)[0].isnan().all())


@pytest.mark.parametrize(
    ("alignment", "options", "error", "message"),
    [
        ({"z": "a0.h0"}, {}, InputError, "no variable 'z' .its variables: x, y, pair"),
        ({"x": "a0.h7"}, {}, InputError, "nearest"),
        ({"x": []}, {}, InputError, "no node"),
        ({}, {}, InputError, "alignment is empty"),
        ({"x": "a0.h0@S2"}, {}, PairsError, "pair 0: 'a0.h0@S2' names position 'S2'.*its roles: x, y, end"),
        ({"x": "a0.h0@3"}, {}, PairsError, "3 tokens"),
        ({"x": "a0.h0@"}, {}, PairsError, "position ''"),
        ({"x": "a0.h0", "y": "a0.h0@2"}, {}, InputError, "already aligned, as 'a0.h0' of 'x'"),
        ({"x": ["a0.h0@2", "a0.h0@2"]}, {}, InputError, "already aligned"),
        (RIGHT, {"variables": ["pair"]}, InputError, "'pair' is not aligned .aligned: x, y"),
        (RIGHT, {"variables": [[]]}, InputError, "variables is empty"),
        (RIGHT, {"token_of": lambda value: "A"}, InputError, "pair 0: token_of.*gave 'A'.*from 0 to 6"),
        (RIGHT, {"token_of": lambda value: 99}, InputError, "gave 99"),
        (RIGHT, {"candidates": [3, 4]}, InputError, "expects token 5, which is not among"),
        (RIGHT, {"candidates": [3, 4, 5, 6, 7]}, InputError, "candidate 7 is not a token id"),
        (RIGHT, {"candidates": [[3, 4, 5, 6]]}, InputError, "1 lists, and there are 16 pairs"),
    ],
)
def test_what_cannot_be_asked_is_refused(alignment, options, error, message):
    with pytest.raises(error, match=message):
        ask(alignment, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda inputs: inputs[1:], "15 pairs"), (lambda inputs: [(0, 1, 2), *inputs[1:]], "inputs.0.")],
)
def test_inputs_that_do_not_fit_the_pairs_are_refused(change, message):
    pairs, inputs = all_pairs()
    with pytest.raises(InputError, match=message):
        interchange_interventions(copying_model(), pairs, HYPOTHESIS, change(inputs), RIGHT, token_of=token_of)


def test_a_causal_model_sets_variables_instead_of_computing_them():
    calls = []
    chain = CausalModel({"a": lambda n, v: calls.append(n) or n, "b": lambda n, v: 10 * v["a"]}, output="b")
    assert chain.run(2) == {"a": 2, "b": 20}
    assert chain.run(2, {"a": 3}) == {"a": 3, "b": 30}
    assert chain.run(2, {"b": 1}) == {"a": 2, "b": 1}
    assert calls == [2, 2]


def test_causal_models_that_cannot_run_say_why():
    with pytest.raises(InputError, match="output: the causal model has no variable 'c'"):
        CausalModel({"a": lambda n, v: n}, output="c")
    late = CausalModel({"a": lambda n, v: v["b"], "b": lambda n, v: n}, output="a")
    with pytest.raises(InputError, match=r"'a' reads 'b'.*causal order"):
        late.run(1)
    with pytest.raises(InputError, match="no variable 'q'"):
        late.run(1, {"q": 0})
