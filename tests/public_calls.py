"""One small call of every public function that computes something, and what comes out as plain numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

import circuits
from circuits import Circuit, InputError, Model, PromptPairs
from circuits.graph.ungrouped import shared_readers, ungrouped
from circuits.methods.coar import fit_samples
from circuits.viewer.attention import attention_patterns


def _input(prompt: Any, values: Any) -> Any:
    return prompt


DICTIONARIES = Path(__file__).parent / "golden" / "dictionaries"
COPIES = circuits.CausalModel({"x": _input}, output="x")


@dataclass(frozen=True, eq=False)
class Given:
    """A model, pairs, and results that some calls need."""

    model: Model
    pairs: PromptPairs

    @cached_property
    def edges(self) -> circuits.EdgeScores:
        return circuits.edge_attribution(self.model, self.pairs)

    @cached_property
    def importances(self) -> circuits.Importances:
        flat = ungrouped(self.model.graph)
        scores = self.edges.values[:, shared_readers(self.model.graph, flat)].double()
        return circuits.Importances(self.model.graph, scores * flat.edge_mask, torch.zeros_like(flat.edge_mask))

    @cached_property
    def nodes(self) -> circuits.NodeScores:
        return circuits.attribution_patching(self.model, self.pairs)

    @cached_property
    def circuit(self) -> Circuit:
        return self.edges.top(60)

    @cached_property
    def linear(self) -> circuits.LinearAttribution:
        return circuits.coar(self.model, self.pairs, samples=48, alpha=0.3)

    @cached_property
    def dictionary(self) -> circuits.Dictionary:
        d, draw = int(self.model.bridge.cfg.d_model), torch.Generator("cpu").manual_seed(0)
        weights = [torch.randn(shape, generator=draw, device="cpu") for shape in ((d, 8), (8,), (8, d), (d,))]
        return circuits.Dictionary.from_weights("attn_out.0", *weights)

    @cached_property
    def judge(self) -> circuits.Counterfactuals:
        return circuits.counterfactuals(self.model, self.pairs, samples=8)

    def ready(self) -> "Given":
        """With all of them computed."""
        _ = self.edges, self.importances, self.nodes, self.circuit, self.linear, self.judge, self.dictionary
        return self


CALLS: dict[str, Callable[[Given], Any]] = {
    "acdc": lambda g: circuits.acdc(g.model, g.pairs, 0.1),
    "acdc_of_size": lambda g: circuits.acdc_of_size(g.model, g.pairs, 20, rounds=2),
    "acdc_sweep": lambda g: circuits.acdc_sweep(g.model, g.pairs, [0.1, 0.5]),
    "activation_patching": lambda g: circuits.activation_patching(g.model, g.pairs),
    "apply_edit": lambda g: circuits.apply_edit(
        g.model, circuits.plan_edit(g.linear, g.linear), {"own": g.pairs}, ks=(0, 2)
    ),
    "attention": lambda g: circuits.attention(g.model, g.pairs, ["a0.h0"]),
    "atp_star": lambda g: circuits.atp_star(g.model, g.pairs),
    "attribution_patching": lambda g: circuits.attribution_patching(g.model, g.pairs),
    "banzhaf": lambda g: circuits.banzhaf(g.model, g.pairs, samples=48),
    "causal_mediation": lambda g: circuits.causal_mediation(g.model, g.pairs, ["a0.h0"]),
    "certify": lambda g: circuits.certify(g.edges, edges=20, samples=50),
    "check_pairs": lambda g: circuits.check_pairs(g.model, g.pairs),
    "circuit_metric": lambda g: circuits.circuit_metric(g.model, g.pairs, g.circuit),
    "circuit_metrics": lambda g: circuits.circuit_metrics(g.model, g.pairs, [g.circuit, Circuit.full(g.model.graph)]),
    "coar": lambda g: circuits.coar(g.model, g.pairs, samples=48, alpha=0.3),
    "compare": lambda g: circuits.compare({"a": g.edges, "b": g.nodes}, judge=g.judge, resamples=20),
    "completeness": lambda g: circuits.completeness(g.model, g.pairs, g.circuit, subsets=3),
    "complexity": lambda g: circuits.complexity(g.edges),
    "counterfactuals": lambda g: circuits.counterfactuals(g.model, g.pairs, samples=8),
    "composition_scores": lambda g: circuits.composition_scores(g.model, ["a0.h0->a1.h1<q>"]),
    "describe": lambda g: circuits.describe(g.model, g.pairs, g.circuit),
    "diagnose": lambda g: circuits.diagnose(g.model, g.pairs, samples=16),
    "dissociate": lambda g: circuits.dissociate(
        {"a": (g.pairs, g.circuit), "b": (g.pairs[:2], g.edges.top(20))}, g.model, n_random=2, resamples=20
    ),
    "direct_effects": lambda g: circuits.direct_effects(g.model, g.pairs, positions="each"),
    "draw_samples": lambda g: _in_directory(
        lambda out: fit_samples(circuits.draw_samples(g.model, g.pairs, out, samples=48, alpha=0.3))
    ),
    "edge_attribution": lambda g: circuits.edge_attribution(g.model, g.pairs, gradient="ig", steps=2),
    "edge_pruning": lambda g: circuits.edge_pruning(g.model, g.pairs, 20, steps=3),
    "ensemble": lambda g: circuits.ensemble([g.edges, g.edges.top(12)]),
    "exact_edge_effects": lambda g: circuits.exact_edge_effects(g.model, g.pairs, g.circuit.edges, context=g.circuit),
    "export_circuit": lambda g: _in_directory(
        lambda out: circuits.export_circuit(g.circuit, out / "circuit.csv").read_text()
    ),
    "faithfulness": lambda g: circuits.faithfulness(g.model, g.pairs, g.circuit),
    "curves_over_places": lambda g: circuits.curves_over_places(
        g.model,
        g.pairs,
        {"a": g.edges, "b": circuits.edge_attribution(g.model, g.pairs, positions="each")},
        fractions=(0.1,),
        resamples=20,
    )["a"],
    "faithfulness_curves": lambda g: circuits.faithfulness_curves(g.model, g.pairs, g.edges, resamples=20),
    "families": lambda g: _families(g),
    "gradient_times_parameter": lambda g: circuits.gradient_times_parameter(g.model, g.pairs),
    "head_kinds": lambda g: circuits.head_kinds(g.model, g.pairs, draws=19),
    "hypothesis_tests": lambda g: circuits.hypothesis_tests(g.model, g.pairs, g.circuit, n_random=10, permutations=20),
    "exact_feature_edges": lambda g: circuits.exact_feature_edges(
        g.model, g.pairs, ["f:a0.1->logits"], dictionaries=[g.dictionary]
    ),
    "feature_edges": lambda g: circuits.feature_edges(
        g.model, g.pairs, ["f:a0.1", "e:a0"], dictionaries=[g.dictionary]
    ),
    "feature_faithfulness": lambda g: circuits.feature_faithfulness(
        g.model, g.pairs, ["f:a0.1"], dictionaries=[g.dictionary]
    ),
    "compare_features": lambda g: circuits.compare_features(
        g.model,
        g.pairs,
        {"nodes": circuits.attribution_patching(g.model, g.pairs, nodes="heads+mlps+input")},
        dictionaries=[g.dictionary],
        budgets=[2],
    ),
    "feature_facts": lambda g: circuits.feature_facts(g.model, g.pairs, ["f:a0.1"], dictionaries=[g.dictionary]),
    "feature_metric": lambda g: circuits.feature_metric(g.model, g.pairs, ["e:a0"], dictionaries=[g.dictionary]),
    "features": lambda g: circuits.attribution_patching(
        g.model, g.pairs, nodes="features", dictionaries=[g.dictionary]
    ),
    "information_flow": lambda g: circuits.information_flow(g.model, g.pairs),
    "interchange_interventions": lambda g: _interchanged(g),
    "internal_influence": lambda g: circuits.internal_influence(g.model, g.pairs, steps=2),
    "leave_one_out": lambda g: circuits.leave_one_out(g.model, g.pairs),
    "read_attribution_graph": lambda g: _in_directory(lambda out: _read_graph(g, out / "graph.json")),
    "write_attribution_graph": lambda g: _in_directory(lambda out: _read_graph(g, out / "graph.json")),
    "load_dictionary": lambda g: circuits.load_dictionary(DICTIONARIES / "saelens_topk").encode(
        torch.ones(6, device="cpu")
    ),
    "train_dictionary": lambda g: _in_directory(lambda out: _trained(g, out / "dictionaries")),
    "logit_lens": lambda g: circuits.logit_lens(g.model, g.pairs),
    "mib_curves": lambda g: _unless_grouped(
        g, lambda: circuits.mib_curves(g.model, g.pairs, g.importances, resamples=20)
    ),
    "mib_importances": lambda g: _unless_grouped(
        g, lambda: circuits.mib_importances(g.model, g.pairs, method="eap", level="neuron")
    ),
    "minimality": lambda g: circuits.minimality(g.model, g.pairs, g.edges.top(40)),
    "neuron_conductance": lambda g: circuits.neuron_conductance(g.model, g.pairs, steps=2),
    "ov_scores": lambda g: circuits.ov_scores(g.model, ["a0.h0"], tokens=10),
    "path_patching": lambda g: circuits.path_patching(g.model, g.pairs, ["logits"]),
    "plan_edit": lambda g: circuits.plan_edit(g.linear, g.linear),
    "predict_circuits": lambda g: circuits.predict_circuits(
        g.model, g.pairs, g.linear, {"one": g.circuit}, ablation="zero"
    ),
    "prompt_stability": lambda g: circuits.prompt_stability(g.edges, 5, resamples=10),
    "query_key_terms": lambda g: circuits.query_key_terms(g.model, g.pairs, "a1.h0", key="0"),
    "random_circuit": lambda g: circuits.random_circuit(g.model.graph, 10, torch.Generator("cpu").manual_seed(0)),
    "randomisation": lambda g: circuits.randomisation(
        g.model, lambda model: circuits.edge_attribution(model, g.pairs), layers=[1]
    ),
    "read_circuits": lambda g: _in_directory(lambda out: circuits.read_circuits(_cell(g, out, True)[0])),
    "read_importances": lambda g: _in_directory(
        lambda out: circuits.read_importances(_cell(g, out)[0] / "importances.json")
    ),
    "check_submission": lambda g: _in_directory(lambda out: len(circuits.check_submission(_cell(g, out)).problems)),
    "write_cell": lambda g: _in_directory(lambda out: [place.name for place in _cell(g, out)]),
    "write_importances": lambda g: _in_directory(
        lambda out: circuits.write_importances(g.importances, out / "a.safetensors")
    ),
    "recovery": lambda g: circuits.recovery(g.edges, g.circuit),
    "refine": lambda g: circuits.refine(g.model, g.pairs, g.edges, top=5),
    "self_repair": lambda g: circuits.self_repair(g.model, g.pairs, ["a0.h0"]),
    "sensitivity": lambda g: circuits.sensitivity(g.edges),
    "sharing": lambda g: circuits.sharing({"a": g.circuit, "b": g.edges.top(20)}, draws=5),
    "shapley": lambda g: circuits.shapley(g.model, g.pairs, orders=2),
    "sobol": lambda g: circuits.sobol(g.model, g.pairs, samples=4),
    "stability": lambda g: circuits.stability({"a": g.edges, "b": circuits.information_flow(g.model, g.pairs)}, k=5),
    "transfer": lambda g: circuits.transfer(
        g.circuit, g.model, g.pairs, model_a=g.model, scores_a=g.edges, scores_b=g.edges, n_random=1, permutations=20
    ),
    "top_neurons": lambda g: circuits.top_neurons(g.model, g.pairs, ["m0"], by="effect"),
    "uniform_gradient_sampling": lambda g: circuits.uniform_gradient_sampling(g.model, g.pairs, 20, steps=3),
    "verify": lambda g: circuits.verify(g.model, g.pairs, g.nodes, below=0.1, samples=16),
    "attention patterns": lambda g: attention_patterns(g.model, g.pairs, ["a0.h0"])[1],
    "methods of scores": lambda g: _of_scores(g.edges),
    "methods of circuits": lambda g: _of_circuits(Circuit.from_edges(g.model.graph, g.circuit.edges), g.circuit),
}
NOT_CALLED = {"check_task", "load_model", "load_task", "memory_need", "mib_pairs"}
"""Public functions that need a task, a name, or a tokenizer."""


def _trained(g: Given, out: Path) -> Any:
    done = circuits.train_dictionary(
        g.model,
        ["attn_out.0"],
        out,
        features=8,
        k=2,
        tokens=64,
        context=5,
        batch_size=8,
        buffer=64,
        step=16,
        held_out=2,
    )
    return done.dictionaries[0].W_dec


def _unless_grouped(g: Given, call: Callable[[], Any]) -> Any:
    """What MIB's functions give; their refusal of a model with grouped key/value heads, which they take only ungrouped."""
    if not g.model.graph.grouped:
        return call()
    with pytest.raises(InputError, match="ungrouped=True") as refusal:
        call()
    return str(refusal.value)


def _cell(g: Given, out: Path, as_circuits: bool = False) -> tuple[Path, ...]:
    return circuits.write_cell(g.importances, out, task="ioi", model_name="gpt2", as_circuits=as_circuits)


def _interchanged(g: Given) -> Any:
    inputs = [[3, 4]] * len(g.pairs)
    return circuits.interchange_interventions(g.model, g.pairs, COPIES, inputs, {"x": "a0.h0"}, token_of=int)


def _families(g: Given) -> Any:
    pairs = PromptPairs.from_pairs([pair for _ in range(4) for pair in g.pairs][:8])
    scores = circuits.edge_attribution(g.model, pairs)
    return circuits.families(g.model, pairs, scores, k=2, edges=20, groupings=20)


def _read_graph(g: Given, path: Path) -> Any:
    edges = circuits.feature_edges(g.model, g.pairs, ["f:a0.1", "e:a0"], dictionaries=[g.dictionary])
    scores = circuits.attribution_patching(g.model, g.pairs, nodes="features", dictionaries=[g.dictionary])
    circuits.write_attribution_graph(circuits.FeatureCircuit.from_scores(scores, 3, edges), path)
    return list(circuits.read_attribution_graph(path).edge_scores)


def _of_scores(scores: circuits.EdgeScores) -> Any:
    return [scores.top(5), scores.to_dict(), scores.to_nodes(), scores.interval(), scores.significant(),
            _in_directory(lambda out: _saved(scores, out / "scores.safetensors"))]  # fmt: skip


def _saved(scores: circuits.EdgeScores, path: Path) -> circuits.EdgeScores:
    scores.save(path)
    return type(scores).load(path)


def _of_circuits(circuit: Circuit, other: Circuit) -> Any:
    empty, full = Circuit.empty(circuit.graph), Circuit.full(circuit.graph)
    return [full - circuit, empty | circuit, circuit & other, circuit == other, sorted(circuit.to_networkx().nodes)]


def _in_directory(work: Callable[[Path], Any]) -> Any:
    with TemporaryDirectory() as out:
        return work(Path(out))


def numbers(result: Any) -> Any:
    """A result as nested lists of numbers and text, the same for equal results; provenance aside."""
    if isinstance(result, Tensor):
        assert not result.is_inference(), "an inference tensor"
        return [str(result.dtype), result.tolist()]
    if isinstance(result, circuits.Graph | torch.Generator | PromptPairs):
        return None
    if isinstance(result, Circuit):
        return [list(result.edges), numbers(result.scores), numbers(result.stderr)]
    if is_dataclass(result):
        return {
            f.name: numbers(getattr(result, f.name)) for f in fields(result) if f.name not in ("provenance", "origin")
        }
    if isinstance(result, Mapping):
        return {key: numbers(value) for key, value in result.items()}
    if isinstance(result, Sequence) and not isinstance(result, str):
        return [numbers(value) for value in result]
    return repr(result) if isinstance(result, float) else result


def same(one: Any, other: Any) -> bool:
    """Whether two results are the same to the last bit."""
    return repr(numbers(one)) == repr(numbers(other))
