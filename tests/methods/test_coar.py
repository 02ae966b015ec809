"""COAR: additive functions, enumerated masks, the store, and what a fit says of itself."""

import itertools
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import circuits
from circuits import InputError
from circuits.engine.hooks import inference_state
from circuits.errors import DamageWarning
from circuits.evaluation.counterfactual import Counterfactuals
from circuits.measure import component_samples
from circuits.measure.component_runs import ComponentRuns, Replacements
from circuits.measure.component_samples import BLOCK, Sampler, Samples, draw_block, in_blocks
from circuits.methods.coar import fit_samples
from circuits.question.question import Question
from circuits.results.node_scores import NodeScores, node_scores
from circuits.results.provenance import frozen
from circuits.stats.correlation import correlation
from circuits.stats.linear_fit import fit_linear
from tests.tiny_models import random_pairs, tiny

NODES = tuple("abcdefgh")


def some_samples(function, kept, prompts=3):
    outcomes = torch.stack([function(kept.double(), p) for p in range(prompts)], 1)
    clean = torch.stack([function(torch.ones(1, kept.shape[1]).double(), p)[0] for p in range(prompts)])
    return Samples(NODES[: kept.shape[1]], ~kept, outcomes, clean, frozen({"options": {}}))


def every_mask(d):
    return torch.tensor(list(itertools.product([False, True], repeat=d)))


def test_an_additive_function_is_recovered_exactly():
    weights = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()
    kept = ~torch.cat([draw_block(8, block, 0.3, 0) for block in range(4)])
    result = fit_samples(some_samples(lambda k, p: 2.5 + k @ weights[:, p], kept))
    torch.testing.assert_close(result.per_prompt, weights)
    torch.testing.assert_close(result.bias, torch.full((3,), 2.5).double())
    torch.testing.assert_close(result.predict(kept.double()), 2.5 + kept.double() @ weights)
    assert result.fit["held_out"] == pytest.approx(1.0)
    assert result.statement is None


@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_least_squares_over_all_masks_is_the_biased_banzhaf_value(alpha):
    d = 6
    kept, generator = every_mask(d), torch.Generator().manual_seed(1)
    table = torch.randn(2**d, 2, generator=generator).double()
    share = torch.where(kept, 1 - alpha, alpha).double().prod(1)
    # Weighted least squares by repeating rows in proportion to their probability: k/10 each, so whole numbers.
    times = (share * 10**d).round().long()
    rows = torch.arange(2**d).repeat_interleave(times // times.min() if alpha == 0.5 else times)
    result = fit_linear(kept[rows].double(), table[rows])
    codes = kept.long() @ (2 ** torch.arange(d - 1, -1, -1))
    assert torch.equal(codes, torch.arange(2**d))
    for j in range(d):
        bit = 2 ** (d - 1 - j)
        without = torch.arange(2**d)[~kept[:, j]]
        weight = share[without] / alpha
        banzhaf = (weight[:, None] * (table[without + bit] - table[without])).sum(0)
        torch.testing.assert_close(result.weights[j], banzhaf)


def test_leave_one_out_masks_give_leave_one_out():
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5]).double()
    kept = torch.cat([torch.ones(1, 4), 1 - torch.eye(4)]).bool()

    def function(k, p):
        return k @ weights + (p + 1) * k[:, 0] * k[:, 1]

    result = fit_samples(some_samples(function, kept))
    clean = function(torch.ones(1, 4).double(), 0)
    for j in range(4):
        assert result.per_prompt[j, 0] == pytest.approx(float(clean[0] - function(kept[1 + j : 2 + j].double(), 0)[0]))


def test_fixed_size_masks_are_rank_deficient_and_bernoulli_masks_are_not():
    generator = torch.Generator().manual_seed(0)
    fixed = torch.rand(100, 8, generator=generator).argsort(1) >= 2
    fitted = fit_samples(some_samples(lambda k, p: k.sum(1), fixed))
    assert fitted.fit["rank"] == 7
    assert "do not determine" in fitted.statement
    bernoulli = ~torch.cat([draw_block(8, block, 0.25, 0) for block in range(7)])
    assert fit_samples(some_samples(lambda k, p: k.sum(1), bernoulli)).fit["rank"] == 8


def test_predictions_left_out_and_standard_errors_are_those_of_naive_refits():
    generator = torch.Generator().manual_seed(3)
    kept = (torch.rand(40, 5, generator=generator) > 0.3).double()
    y = (kept @ torch.randn(5, 2, generator=generator).double()) + torch.randn(40, 2, generator=generator).double()
    result = fit_linear(kept, y)
    design = torch.cat([kept, torch.ones(40, 1).double()], 1)
    for i in (0, 7, 39):
        rest = torch.arange(40) != i
        refit = torch.linalg.lstsq(design[rest], y[rest]).solution
        torch.testing.assert_close(result.left_out[i], design[i] @ refit)
    whole = torch.linalg.lstsq(design, y).solution
    variance = (y - design @ whole).square().sum(0) / (40 - 6)
    stderr = (torch.linalg.inv(design.T @ design).diagonal()[:5, None] * variance).sqrt()
    torch.testing.assert_close(result.stderr, stderr)
    mean = fit_linear(kept, y.mean(1, keepdim=True))
    torch.testing.assert_close(result.mean_stderr, mean.stderr[:, 0])


@pytest.mark.parametrize("fit", ["ridge", "lasso"])
def test_penalised_fits_come_near_where_samples_are_few(fit):
    generator = torch.Generator().manual_seed(2)
    weights = torch.zeros(30, 2).double()
    weights[:3] = torch.tensor([[2.0, 1.0], [-1.5, 0.0], [1.0, 3.0]])
    kept = (torch.rand(40, 30, generator=generator) > 0.2).double()
    y = kept @ weights + 0.05 * torch.randn(40, 2, generator=generator).double()
    result = fit_linear(kept, y, fit)
    assert len(result.strength) == 2
    assert float((result.weights - weights).abs().max()) < 0.6
    assert float(correlation(result.left_out, y).mean()) > 0.7
    assert result.stderr.isnan().all()


def test_few_samples_are_told_and_unknown_options_refused():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    with pytest.warns(circuits.AttributionWarning, match="do not determine the weights of 12 components"):
        circuits.coar(model, pairs, samples=8)
    for wrong in ({"fit": "ols"}, {"alpha": 1.0}, {"samples": 0}, {"nodes": "haeds"}):
        with pytest.raises(InputError):
            circuits.coar(model, pairs, **wrong)


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean_positional", "interchange", "resample"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_set_of_ablated_heads_and_mlps_is_the_ablation_of_all_their_edges(name, ablation):
    model, pairs = tiny(name), random_pairs(n=3, prefix=2)
    sampler = Sampler.for_question(Question.ask(model, pairs, None, ablation, 2), "heads+mlps")
    masks = draw_block(len(sampler.nodes), 0, 0.4, 0)[:4]
    got = sampler.measured("test", {0: masks})
    for mask, outcome in zip(masks, got.outcomes, strict=True):
        ablated = {node for node, gone in zip(sampler.nodes, mask.tolist(), strict=True) if gone}
        kept = [edge for edge in model.graph.edges if edge.split("->")[0] not in ablated]
        wanted = circuits.circuit_metric(
            model, pairs, circuits.Circuit.from_edges(model.graph, kept), ablation=ablation
        )
        torch.testing.assert_close(outcome, wanted.double(), rtol=1e-5, atol=1e-6)


def test_queries_and_neurons_can_be_components_and_one_alone_is_activation_patching():
    model, pairs = tiny("llama"), random_pairs(n=2)
    for nodes in ("q+k+v", "neurons", "input+heads"):
        sampler = Sampler.for_question(Question.ask(model, pairs, None, "interchange"), nodes)
        masks = torch.eye(len(sampler.nodes)).bool()[:: max(1, len(sampler.nodes) // 9)]
        got = sampler.measured("one", in_blocks(masks))
        chosen = [sampler.nodes[int(mask.nonzero())] for mask in masks]
        wanted = circuits.activation_patching(model, pairs, nodes=chosen, direction="noising")
        order = [wanted.nodes.index(node) for node in chosen]
        torch.testing.assert_close(got.clean - got.outcomes, wanted.per_prompt[order], rtol=1e-5, atol=1e-6)


def test_nothing_ablated_is_the_clean_run_and_all_the_replaced_one():
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    sampler = Sampler.for_question(Question.ask(model, pairs, None, "interchange"), "input+heads+mlps")
    question = sampler.question
    with inference_state(model.bridge):
        runs = ComponentRuns.prepare(
            question, next(iter(question.batches())), Replacements.prepare(question, sampler.sites)
        )
        everything = torch.ones(1, len(sampler.nodes), dtype=torch.bool)
        got = runs.metrics(torch.cat([~everything, everything]))
    assert torch.equal(got[0], runs.clean)
    empty = circuits.circuit_metric(model, pairs, circuits.Circuit.empty(model.graph))
    torch.testing.assert_close(got[1], empty)


def test_leave_one_out_is_activation_patching_by_noising():
    model, pairs = tiny("llama"), random_pairs(n=3)
    result = circuits.leave_one_out(model, pairs, ablation="interchange")
    wanted = circuits.activation_patching(model, pairs, direction="noising")
    assert result.nodes == wanted.nodes
    torch.testing.assert_close(result.per_prompt, wanted.per_prompt, rtol=1e-5, atol=1e-6)


# --- the store ----------------------------------------------------------------------------------------------------------


def stored(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class KilledError(Exception):
    pass


def test_a_stopped_run_ends_with_the_identical_store_and_more_samples_can_be_added(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    options = {"alpha": 0.2, "ablation": "interchange", "batch_size": 2}
    whole = circuits.coar(model, pairs, samples=5 * BLOCK, store=tmp_path / "whole", **options)

    def stop(done, total):
        if done > total / 2:
            raise KilledError

    with pytest.raises(KilledError):
        circuits.coar(model, pairs, samples=3 * BLOCK, store=tmp_path / "cut", progress=stop, **options)
    circuits.coar(model, pairs, samples=3 * BLOCK, store=tmp_path / "cut", **options)
    again = circuits.coar(model, pairs, samples=5 * BLOCK, store=tmp_path / "cut", **options)
    assert torch.equal(again.per_prompt, whole.per_prompt)
    assert stored(tmp_path / "whole") == stored(tmp_path / "cut")


def test_shares_fill_one_store_and_damaged_pieces_are_measured_again(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    options = {"samples": 4 * BLOCK, "ablation": "interchange"}
    whole = circuits.coar(model, pairs, store=tmp_path / "whole", **options)
    for i in range(3):
        circuits.draw_samples(model, pairs, tmp_path / "shares", share=(i, 3), **options)
    assert stored(tmp_path / "whole") == stored(tmp_path / "shares")
    damaged = next(path for path in (tmp_path / "shares").iterdir() if "batch" in path.name)
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.warns(DamageWarning, match=damaged.name):
        again = circuits.coar(model, pairs, store=tmp_path / "shares", **options)
    assert torch.equal(again.per_prompt, whole.per_prompt)
    assert stored(tmp_path / "whole") == stored(tmp_path / "shares")
    with pytest.raises(InputError, match="another question"):
        circuits.coar(model, pairs, store=tmp_path / "shares", samples=16, ablation="zero")


def test_a_stores_masks_count_even_if_others_would_be_drawn_now(tmp_path, monkeypatch):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    options = {"samples": 4 * BLOCK, "ablation": "interchange", "store": tmp_path / "store"}
    first = circuits.coar(model, pairs, **options)
    monkeypatch.setattr(component_samples, "draw_block", lambda n, *args: torch.zeros(BLOCK, n).bool())
    assert torch.equal(circuits.coar(model, pairs, **options).per_prompt, first.per_prompt)


def test_a_file_holds_the_whole_fit(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    result = circuits.coar(model, pairs, samples=60, ablation="interchange")
    result.save(tmp_path / "coar.safetensors")
    back = NodeScores.load(tmp_path / "coar.safetensors")
    assert isinstance(back, circuits.LinearAttribution)
    assert (back.nodes, back.fit, back.statement) == (result.nodes, result.fit, result.statement)
    for name in ("per_prompt", "bias", "weight_stderr", "mean_weight_stderr", "clean"):
        assert torch.equal(getattr(back, name), getattr(result, name))


def test_a_file_whose_parts_do_not_fit_is_refused(tmp_path):
    model, pairs = tiny("gpt2"), random_pairs(n=2)
    result = circuits.coar(model, pairs, samples=60, ablation="interchange")
    path = tmp_path / "wrong.safetensors"
    replace(result, fit={}).save(path)
    with pytest.raises(InputError, match="its fit must have"):
        NodeScores.load(path)
    result.save(path)
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for wrong, message in (
        ({"bias": torch.zeros(7).double()}, "bias is"),
        ({"bias": tensors["bias"].float()}, "bias is"),
    ):
        save_file(tensors | wrong, path, metadata=header)
        with pytest.raises(InputError, match=message):
            NodeScores.load(path)
    save_file({name: t for name, t in tensors.items() if name != "bias"}, path, metadata=header)
    with pytest.raises(InputError, match="not a file of node scores"):
        NodeScores.load(path)


# --- how well it predicts -----------------------------------------------------------------------------------------------


def test_counterfactual_correlation_is_one_for_the_truth_and_ignores_scale():
    weights = torch.tensor([[1.0, 2.0], [0.5, -1.0], [-2.0, 0.1]]).double()
    kept = ~torch.cat([draw_block(3, block, 0.4, 1) for block in range(2)])
    samples = some_samples(lambda k, p: 7 + k @ weights[:, p], kept, prompts=2)
    judge = Counterfactuals({0.4: samples})
    truth = node_scores(NODES[:3], 5 * weights, {})
    result = judge.correlations(truth)[0.4]
    torch.testing.assert_close(result.per_prompt, torch.ones(2).double())
    assert result.mean == pytest.approx(1.0)
    wrong = judge.correlations(node_scores(NODES[:3], -weights, {}), "spearman")[0.4]
    assert wrong.mean == pytest.approx(-1.0)
    partly = judge.correlations(node_scores(("c", "z"), weights[[2, 0]], {}))[0.4]
    assert 0.5 < float(partly.per_prompt[0]) < 1  # a and c carry it, and a is not scored
    for scores in (node_scores(("z",), weights[:1], {}), node_scores(NODES[:3], weights[:, :1], {})):
        with pytest.raises(InputError):
            judge.correlations(scores)


def test_correlation_is_that_of_numpy_and_scipy():
    from scipy.stats import pearsonr, spearmanr

    a, b = torch.randint(0, 5, (2, 30, 2), generator=torch.Generator().manual_seed(0)).double()
    for kind, reference in (("pearson", pearsonr), ("spearman", spearmanr)):
        wanted = [reference(a[:, i], b[:, i]).statistic for i in range(2)]
        torch.testing.assert_close(correlation(a, b, kind), torch.tensor(wanted).double())
    assert correlation(torch.ones(4, 1), a[:4, :1]).isnan().all()


def test_on_a_real_model_coar_predicts_fresh_ablations():
    model, pairs = tiny("gpt2"), random_pairs(n=3)
    result = circuits.coar(model, pairs, samples=400, alpha=0.1, ablation="interchange")
    judge = circuits.counterfactuals(model, pairs, alphas=(0.1,), samples=64, ablation="interchange")
    assert judge.correlations(result)[0.1].mean > 0.8
    samples = judge.samples[0.1]
    assert float((result.predict(samples.kept) - samples.outcomes).abs().mean()) < float(samples.outcomes.std())
