"""GIM against the authors' package (golden), against its rules written out node by node, and against EAP where the rules are off."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import circuits
from circuits import GimRules, InputError, ModelError, PromptPairs, edge_attribution
from circuits.engine.gim_rules import interaction_modified
from circuits.methods.catalogue import METHODS
from circuits.question.question import Question
from circuits.results.recorded import quantity_of
from tests.clean_gradients import gradients_of
from tests.naive_edges import GimGPT2, GimLlama, edge_gradients, mean_products
from tests.tiny_models import FEW, atol, random_hf_model, random_pairs, tiny

GOLDEN = Path(__file__).parents[1] / "golden" / "gim"
OFF = GimRules(False, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
OTHERS = GimRules(True, 3.0, 0.5, 0.4, 0.3, 0.7, 0.2)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_scores_are_those_of_the_authors_package(name):
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    kind = case["kind"]
    config = getattr(transformers, kind.removesuffix("LMHeadModel").removesuffix("ForCausalLM") + "Config")
    hf_model = getattr(transformers, kind)(config(**case["config"])).eval()
    hf_model.load_state_dict(load_file(GOLDEN / f"{name}.safetensors"), strict=False)
    model = circuits.load_model(hf_model.double())
    sides = [[pair[side] for pair in case["pairs"]] for side in ("clean", "corrupted", "answer", "distractor")]
    pairs = PromptPairs.from_tokens(*sides)
    for variant, rules in {"defaults": None, "others": GimRules(**case["rules"])}.items():
        got = edge_attribution(model, pairs, gradient="gim", gim=rules, metric="logit_difference").to_dict()
        largest = max(map(abs, case[variant].values()))
        # Hugging Face computes RMSNorm and the softmax of Llama and Gemma in float32.
        assert got == pytest.approx(case[variant], abs=(1e-9 if name == "gpt2" else 1e-5) * largest)


@pytest.mark.parametrize("rules", [GimRules(), OTHERS])
@pytest.mark.parametrize(("name", "naive"), [("gpt2", GimGPT2), ("llama", GimLlama)])
def test_scores_are_the_rules_written_out(name, naive, rules):
    model, pairs = tiny(name), random_pairs(n=2)
    oracle = naive(random_hf_model(name), rules)

    def terms(pair):
        with torch.no_grad():
            clean, corrupted = (oracle.logits(torch.tensor(side), {})[1] for side in (pair.clean, pair.corrupted))
        differences = {writer: clean[writer] - corrupted[writer] for writer in clean}
        yield differences, edge_gradients(oracle, model.graph.edges, pair), None

    wanted = mean_products(model.graph.edges, pairs, terms)
    got = edge_attribution(model, pairs, gradient="gim", gim=rules).to_dict()
    assert got == pytest.approx(wanted, abs=1e-9 if name == "gpt2" else 1e-5)


@pytest.mark.parametrize("name", [*FEW, "qwen3", "phi3", "falcon", "gpt-neo", "gemma3", "mpt"])
def test_without_its_rules_gim_is_eap(name):
    model, pairs = tiny(name), random_pairs(n=2)
    eap = edge_attribution(model, pairs, gradient="clean", check_sign=False).values
    off = edge_attribution(model, pairs, gradient="gim", gim=OFF).values
    torch.testing.assert_close(off, eap, rtol=1e-6, atol=atol(name) * 1e-2)
    assert not torch.allclose(edge_attribution(model, pairs, gradient="gim").values, eap, rtol=1e-2)


def test_each_rule_alone_changes_what_it_is_about():
    model, pairs = tiny("llama"), random_pairs(n=2)
    off = edge_attribution(model, pairs, gradient="gim", gim=OFF).to_dict()
    last = model.graph.n_layers - 1
    for option, readers in {
        "q_scale": f"a{last}.h0<q>", "k_scale": f"a{last}.kv0<k>", "v_scale": f"a{last}.kv0<v>",
    }.items():  # fmt: skip
        rules = GimRules(
            False,
            1.0,
            **{**dict.fromkeys(("q_scale", "k_scale", "v_scale", "gate_scale", "up_scale"), 1.0), option: 0.3},
        )
        got = edge_attribution(model, pairs, gradient="gim", gim=rules).to_dict()
        edge = f"input->{readers}"
        assert got[edge] == pytest.approx(0.3 * off[edge], rel=1e-5)
        assert got["input->logits"] == pytest.approx(off["input->logits"], rel=1e-9)


@pytest.mark.parametrize("name", FEW)
def test_the_rules_leave_the_forward_pass_and_the_model_as_they_are(name):
    model, batch = tiny(name), next(iter(random_pairs(n=2).batches(2)))

    plain = gradients_of(model, batch)
    with interaction_modified(model.architecture, GimRules()) as run:
        ruled = run.at_readers(gradients_of(model, batch, run.hooks))
    torch.testing.assert_close(ruled.logits, plain.logits, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(ruled.q[1], plain.q[1], rtol=1e-2)
    again = gradients_of(model, batch)
    assert torch.equal(again.logits, plain.logits)
    assert torch.equal(again.q[1], plain.q[1])


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_scores_do_not_depend_on_batch_size_order_prefix_or_place(name):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    reference = edge_attribution(model, pairs, gradient="gim", batch_size=3)
    for other, size in ((pairs[[2, 0, 1]], 2), (pairs[[0, 0, 1, 1, 2, 2]], 4)):
        got = edge_attribution(model, other, gradient="gim", batch_size=size).values
        torch.testing.assert_close(got, reference.values, rtol=1e-5, atol=max(1e-7, atol(name)))
    placed = edge_attribution(model, pairs, gradient="gim", positions="each", destinations=True)
    torch.testing.assert_close(placed.values, reference.values, rtol=1e-4, atol=max(1e-7, atol(name)))


def test_identical_prompts_score_exactly_zero():
    pairs = random_pairs(n=2)
    same = PromptPairs.from_tokens(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    for name in ("gpt2", "llama"):
        assert not edge_attribution(tiny(name), same, gradient="gim").values.any()


def test_the_method_of_the_command_line_takes_the_authors_defaults_and_records_its_options():
    model, pairs = tiny("llama"), random_pairs(n=2)
    method = METHODS["gim"]
    question = Question.ask(model, pairs)
    scores = method.function(question, q_scale=0.5)
    wanted = edge_attribution(model, pairs, gradient="gim", gim=GimRules(q_scale=0.5))
    assert torch.equal(scores.values, wanted.values)
    assert quantity_of(scores.provenance).label == "weighed effect"  # by factors, so not in the metric's unit
    assert scores.provenance["options"] == {
        "gradient": "gim", "freeze_norm": True, "softmax_temperature": 2.0, "q_scale": 0.5, "k_scale": 0.25, "v_scale": 0.5,
        "gate_scale": 0.5, "up_scale": 0.5,
    }  # fmt: skip
    defaults = {name: method.options[name].default for name in scores.provenance["options"] if name != "gradient"}
    assert GimRules(**defaults) == GimRules()


def test_unknown_layers_and_wrong_options_are_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=1)
    with pytest.raises(ModelError, match="layer 0: its MLP is a MoEBridge"):
        edge_attribution(tiny("mixtral"), pairs, gradient="gim")
    with pytest.raises(InputError, match=r"softmax_temperature must be a positive number, got 0\.0"):
        GimRules(softmax_temperature=0.0)
    with pytest.raises(InputError, match=r"q_scale must be a finite number of at least 0, got -1\.0"):
        GimRules(q_scale=-1.0)
    with pytest.raises(InputError, match="gradient='clean'"):
        edge_attribution(model, pairs, gradient="clean", gim=GimRules())
    with pytest.raises(InputError, match="minimum"):
        edge_attribution(model, pairs, gradient="gim", metric="kl_divergence")
