"""Optimal ablation: its hooks against circuits with whole nodes ablated, its training, and its constants in runs."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import circuits
from circuits import Ablation, Circuit, InputError, circuit_metrics
from circuits.engine.capture import Writes
from circuits.engine.hooks import TokenBatch, inference_state
from circuits.engine.hooks import run as run_model
from circuits.question.ablations import Mean, Optimal
from circuits.question.optimal_constants import Constants, _named, ablating, divergence, draw_kept
from circuits.question.question import Question
from circuits.runs.again import asked_about
from circuits.runs.directory import RunDirectory
from circuits.runs.discover import choose_ablation, discover
from circuits.runs.evaluate import evaluate_run
from circuits.runs.read import read_run
from tests.tiny_models import FEW, atol, random_pairs, tiny

PAIRS = random_pairs(n=6)
QUICK = {"edges": 12, "random_circuits": 0}


def named(writes):
    return dict(_named(writes))


def same(a, b):
    return named(a).keys() == named(b).keys() and all(torch.equal(x, named(b)[name]) for name, x in named(a).items())


def without(graph, kept):
    """The circuit without the edges out of writers that are not kept."""
    return Circuit(graph, graph.edge_mask & kept[:, None])


@pytest.mark.parametrize("name", [*FEW, "granite"])
def test_a_node_at_its_constant_is_a_node_whose_edges_are_all_ablated(name):
    model = tiny(name)
    generator = torch.Generator().manual_seed(0)
    pairs, graph = random_pairs(n=3), model.graph
    ablation = Question.ask(model, pairs, None, Optimal(steps=3)).ablation
    batch = next(pairs.batches(3))
    tokens = TokenBatch(batch.clean, batch.position)
    for kept in (*draw_kept(graph.n_writers, 3, generator), torch.zeros(graph.n_writers, dtype=torch.bool)):
        with inference_state(model.bridge), torch.no_grad():
            clean = run_model(model.architecture, tokens).log_softmax(-1)
            got = divergence(model.architecture, tokens, clean, ablation.means, kept.expand(3, -1))
        wanted = circuit_metrics(model, pairs, [without(graph, kept)], metric="kl_divergence", ablation=ablation)[0]
        torch.testing.assert_close(got.double(), wanted.double(), rtol=1e-4, atol=max(1e-9, atol(name)))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_training_changes_the_model_less_than_the_means_do(name):
    model = tiny(name)
    trained = Optimal(steps=30).prepared(model, PAIRS, 4)
    assert trained.constants.loss < 0.95 * trained.constants.mean_loss
    # On sets of nodes that training did not draw, and by another path through the code.
    sets = draw_kept(model.graph.n_writers, 6, torch.Generator().manual_seed(99))
    removed = [without(model.graph, kept) for kept in sets]
    losses = [
        float(circuit_metrics(model, PAIRS, removed, metric="kl_divergence", ablation=one).mean())
        for one in (trained, "mean")
    ]
    assert losses[0] < losses[1]


def test_every_kind_of_node_gets_a_constant_that_training_moved():
    model = tiny("llama")
    trained, mean = Optimal(steps=30).prepared(model, PAIRS, 4), Mean().prepared(model, PAIRS, 4)
    for name, constant in named(trained.means).items():
        assert constant.shape == named(mean.means)[name].shape
        assert not torch.allclose(constant, named(mean.means)[name])


def test_constants_depend_on_the_seed_and_not_on_the_batch_size():
    model = tiny("gpt2")
    one, two, other = (
        Optimal(steps=4, seed=seed).prepared(model, PAIRS, size) for seed, size in ((0, 1), (0, 6), (1, 6))
    )
    for name, constant in named(one.means).items():
        torch.testing.assert_close(constant, named(two.means)[name])
        assert not torch.allclose(constant, named(other.means)[name])


def test_other_pairs_can_be_the_reference_and_pairs_may_have_several_lengths():
    model, reference = tiny("gpt2"), random_pairs(n=4, length=5, seed=3)
    over = Ablation("optimal", reference=reference, steps=4)
    mixed = circuits.PromptPairs.from_tokens(
        [*PAIRS.clean, *reference.clean], [*PAIRS.corrupted, *reference.corrupted], [*PAIRS.answers, *reference.answers],
        [*PAIRS.distractors, *reference.distractors],
    )  # fmt: skip
    own = Optimal(steps=4).prepared(model, reference, 4)
    assert same(over.prepared(model, mixed, 4).means, own.means)
    assert over.label == f"optimal(steps=4, seed=0, over {reference.source})"
    values = circuit_metrics(model, mixed, [Circuit.empty(model.graph)], ablation=Optimal(steps=4))
    assert bool(values.isfinite().all())


METHODS = {
    "edge attribution": circuits.edge_attribution,
    "GIM": partial(circuits.edge_attribution, gradient="gim"),
    "exact edges": lambda m, p, **o: circuits.exact_edge_effects(m, p, m.graph.edges[:9], **o),
    "ACDC": partial(circuits.acdc, threshold=0.5),
    "edge pruning": partial(circuits.edge_pruning, edges=9, steps=2),
    "UGS": partial(circuits.uniform_gradient_sampling, edges=9, steps=2),
    "COAR": partial(circuits.coar, samples=48),
    "faithfulness": lambda m, p, **o: circuits.faithfulness(m, p, Circuit.full(m.graph), **o),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_that_takes_the_mean_takes_it(method):
    model = tiny("gpt2")
    ready = Optimal(steps=2).prepared(model, PAIRS, 4)
    method(model, PAIRS, ablation="mean")
    method(model, PAIRS, ablation=ready)


def test_a_run_keeps_its_constants_and_uses_them_on_other_pairs(tmp_path):
    model = tiny("gpt2")
    result = discover(model, PAIRS, method="eap", ablation=Optimal(steps=5), seed=7, **QUICK)
    out = RunDirectory(tmp_path / "run")
    out.write(result, PAIRS)
    run = read_run(out.path)
    kept = Constants.load(out.path / "constants.safetensors")
    assert same(kept.values, result.constants.values)
    ablation = asked_about(run)[1]
    assert isinstance(ablation, Optimal)
    assert ablation.label == result.provenance["ablation"] == "optimal(steps=5, seed=0)"
    other = random_pairs(n=4, seed=9)
    assert same(ablation.prepared(model, other, 4).means, kept.values)
    assert run.provenance["constants"] == {"loss": kept.loss, "loss_of_means": kept.mean_loss}
    evaluation = evaluate_run(run, model, other, fresh=True, parts=["faithfulness"], ablations=None, n_random=2)
    assert "optimal(steps=5, seed=0)" in evaluation.to_dict()["faithfulness"]


def test_by_name_it_takes_the_runs_seed():
    assert choose_ablation("optimal", seed=3).label == "optimal(steps=100, seed=3)"
    assert discover(tiny("gpt2"), PAIRS, method="eap", **QUICK).constants is None


def test_constants_of_another_model_and_wrong_options_are_refused(tmp_path):
    trained = Optimal(steps=2).prepared(tiny("gpt2"), PAIRS, 4)
    with pytest.raises(InputError, match="another model"):
        Optimal(constants=trained.constants).prepared(tiny("llama"), PAIRS, 4)
    with pytest.raises(InputError, match="steps must be at least 1, got 0"):
        Optimal(steps=0).prepared(tiny("gpt2"), PAIRS, 4)
    circuits.edge_attribution(tiny("gpt2"), PAIRS).save(tmp_path / "scores.safetensors")
    with pytest.raises(InputError, match="not a file of constants"):
        Constants.load(tmp_path / "scores.safetensors")


def test_a_model_in_half_precision_has_constants_in_its_own_dtype():
    model = tiny("llama", torch.bfloat16)
    trained = Optimal(steps=3).prepared(model, PAIRS, 4)
    assert {constant.dtype for constant in named(trained.means).values()} == {torch.bfloat16}
    values = circuit_metrics(model, PAIRS, [Circuit.empty(model.graph)], ablation=trained)
    assert bool(values.isfinite().all())


def test_losses_and_gradients_are_the_authors():
    """Every component alone at a constant. The authors' code leaves the first position as it is."""
    golden = Path(__file__).parents[1] / "golden"
    case = json.loads((golden / "optimal_ablation" / "values.json").read_text())["losses"]
    gim = json.loads((golden / "gim" / "gpt2.json").read_text())
    hf_model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**gim["config"])).eval()
    hf_model.load_state_dict(load_file(golden / "gim" / "gpt2.safetensors"), strict=False)
    model = circuits.load_model(hf_model.double())
    graph, tokens, last = model.graph, torch.tensor(case["tokens"]), torch.tensor(case["last"])
    heads, mlps = (torch.tensor(case[name], dtype=torch.float64).requires_grad_() for name in ("attention", "mlp"))
    embedding = torch.zeros(1, 1, mlps.shape[-1], dtype=torch.float64)
    constants = Writes(embedding, tuple(one[None, None] for one in heads), tuple(one[None, None] for one in mlps))
    layers = range(graph.n_layers)
    order = [*(w for layer in layers for w in range(*graph.head_writers(layer).indices(graph.n_writers)))]
    order += [graph.mlp_writer(layer) for layer in layers]

    def later(hook):
        return lambda x: x if (y := hook(x)) is None else torch.cat([x[:, :1], y[:, 1:]], 1)

    batch, losses = TokenBatch(tokens, last), []
    with inference_state(model.bridge):
        clean = run_model(model.architecture, batch).log_softmax(-1).detach()
        for writer in order:
            kept = torch.ones(len(tokens), graph.n_writers, dtype=torch.bool)
            kept[:, writer] = False
            hooks = [(point, later(hook)) for point, hook in ablating(model.architecture, constants, kept)]
            with torch.enable_grad():
                log_p = run_model(model.architecture, batch, hooks).log_softmax(-1)
                losses.append((clean.exp() * (clean - log_p)).sum(-1))
        with torch.enable_grad():
            gradients = torch.autograd.grad(torch.stack(losses).mean(), [heads, mlps])
    torch.testing.assert_close(torch.stack(losses).tolist(), case["losses"], rtol=1e-6, atol=1e-10)
    for got, wanted in zip(gradients, case["gradients"], strict=True):
        torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-10)
