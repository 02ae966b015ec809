"""Predictions of COAR's linear model for circuits, beside the measured metric.

COAR is fitted to runs in which few components are ablated, but a circuit ablates most of them. The prediction

    bias + Σ weights of the circuit's nodes

is therefore an extrapolation. It is shown beside two measurements: the metric with exactly these nodes kept (which the linear model
estimates), and with exactly the circuit's edges kept (as in `circuits.faithfulness`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.evaluation.faithfulness import measure_circuits
from circuits.measure.component_samples import Sampler, in_blocks
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.node_scores import LinearAttribution
from circuits.shown import Shown


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class CircuitPrediction(Shown):
    """Prediction and measurements of one circuit; metrics are per prompt and signed like the behaviour.

    Attributes:
        circuit: its name.
        n_edges, n_nodes: its size; only nodes of the linear model count.
        predicted: prediction of the linear model.
        nodes_kept: measured with these nodes kept and all others ablated, as in the linear model's samples.
        edges_kept: measured with its edges kept and all others ablated by `ablation`.
        node_ablation, ablation: the ablations of nodes and of edges.
    """

    circuit: str
    n_edges: int
    n_nodes: int
    predicted: Float[Tensor, " prompt"]
    nodes_kept: Float[Tensor, " prompt"]
    edges_kept: Float[Tensor, " prompt"]
    node_ablation: str
    ablation: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values: means over the prompts."""
        means = {name: float(getattr(self, name).mean()) for name in ("predicted", "nodes_kept", "edges_kept")}
        sizes = {"circuit": self.circuit, "edges": self.n_edges, "nodes": self.n_nodes}
        return {**sizes, **means, "node_ablation": self.node_ablation, "ablation": self.ablation}


@on_model
def predict_circuits(
    model: Model,
    pairs: PromptPairs,
    linear: LinearAttribution,
    circuits: Mapping[str, Circuit],
    *,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[CircuitPrediction, ...]:
    """Predicts and measures several circuits.

    Args:
        model: a loaded model.
        pairs: the prompts that the linear model was fitted on.
        linear: from `circuits.coar`, of whole heads and MLPs.
        circuits: name -> circuit.
        metric: None: the task's preferred metric.
        ablation: for edges outside the circuit; nodes are ablated as in the linear model's samples.
        batch_size, progress: see `circuits.coar`.

    Raises:
        InputError: the linear model was fitted on other prompts, or a circuit has another graph.
    """
    if linear.n_prompts != len(pairs):
        raise InputError(f"the linear model is of {linear.n_prompts} prompts, but there are {len(pairs)} pairs")
    if linear.positions is not None:
        raise InputError("the linear model is of components at positions; fit one without positions")
    node_ablation = str(linear.provenance.get("ablation", "zero"))
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    edges = measure_circuits(question, list(circuits.values())).values
    sampler = Sampler.for_question(question.again(ablation=node_ablation), list(linear.nodes))
    kept = torch.tensor([[node in set(circuit.nodes) for node in sampler.nodes] for circuit in circuits.values()])
    kept = kept.reshape(len(circuits), len(sampler.nodes))
    measured = sampler.measured("circuits", in_blocks(~kept), progress).outcomes
    sign = question.metric.sign
    order = [sampler.nodes.index(node) for node in linear.nodes]
    predicted = linear.predict(kept[:, order].double())
    sizes = [(len(circuit), int(nodes.sum())) for circuit, nodes in zip(circuits.values(), kept, strict=True)]
    names = node_ablation, question.ablation.label
    return tuple(
        CircuitPrediction(name, *sizes[i], predicted[i], measured[i], edges[i] * sign, *names)
        for i, name in enumerate(circuits)
    )
