"""Importances of edges, nodes and neurons by any method that scores them, for MIB.

A node's score is the sum over its outgoing edges, or that of a method of nodes. A neuron is a coordinate d of a writer's output
(`circuits.engine.ablate_mixed`); its score is by attribution,

    Σ_positions (clean_{u,d} - corrupted_{u,d}) · mean over the path of ∂metric/∂u_d

summed over the reading positions and averaged over prompts: at the clean run (`eap`), or along the path of the embedding by the
midpoint rule (`eap-ig`). The neurons of a node sum to the node's own score if no norm follows attention. Positive = helps.

EAP-IG's own scores of nodes differ for MLPs: its code takes their gradient at the MLP's input.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.ablate_mixed import capture_plain, coordinates
from circuits.engine.capture import Writes
from circuits.engine.hooks import inference_state
from circuits.engine.live_run import Key
from circuits.errors import InputError
from circuits.methods.catalogue import method as find_method
from circuits.mib.checks import check_method
from circuits.mib.files import Importances
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress, StageProgress, silent
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Batch, Question
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import frozen, provenance
from circuits.runs.discover import discover

STEPS = 5
"""Gradients along the path, by default."""


@on_model
def mib_importances(
    model: Model,
    pairs: PromptPairs,
    *,
    method: str = "eap-ig",
    level: str = "edge",
    seed: int = 0,
    batch_size: int | None = None,
    stage: StageProgress = silent,
    **options: Any,
) -> Importances:
    """Scores the edges, nodes or neurons of a model for MIB: the logit difference under interchange ablation.

    Args:
        model: loaded with `ungrouped=True` if it has grouped key/value heads.
        pairs: of `circuits.mib_pairs`.
        method: of edges; at the level of nodes also of nodes; at that of neurons `eap` or `eap-ig`.
        level: `edge`, `node` or `neuron`.
        seed, batch_size, stage: see `circuits.discover`.
        options: of the method.

    Raises:
        InputError: a method that has no scores at this level, an option that it does not take, or a model with grouped heads.
    """
    check_method(method, level)
    if model.graph.grouped:
        raise InputError(f"{model.name} has grouped key/value heads; load it with ungrouped=True")
    shape = model.graph.edge_mask.shape
    empty = Importances(model.graph, torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool))
    if level == "neuron":
        question = Question.ask(model, pairs, "logit_difference", "interchange", batch_size)
        with stage("scoring neurons") as progress:
            steps = _steps(method, options)
            origin = provenance(question, method, {"level": level, **({"steps": steps} if steps else {})})
            return replace(empty, neurons=_neurons(question, steps, progress), provenance=origin)
    if level == "node" and find_method(method).gives == "nodes" and "nodes" in find_method(method).options:
        options = {"nodes": "heads+mlps+input", **options}
    scores = discover(
        model, pairs, method=method, metric="logit_difference", ablation="interchange", seed=seed, batch_size=batch_size,
        stage=stage, test=False, **options,
    ).scores  # fmt: skip
    assert isinstance(scores, EdgeScores | NodeScores)
    empty = replace(empty, provenance=frozen({**scores.provenance, "level": level}))
    if level == "edge":
        assert isinstance(scores, EdgeScores)
        return replace(empty, edges=scores.values.double() * scores.candidates)
    nodes = torch.full((model.graph.n_writers,), math.nan, dtype=torch.float64)
    if isinstance(scores, EdgeScores):
        return replace(empty, nodes=(scores.values.double() * scores.candidates).sum(1))
    for name, value in zip(scores.nodes, scores.values.tolist(), strict=True):
        if name in model.graph.writer_names:
            nodes[model.graph.writer_index(name)] = value
    return replace(empty, nodes=nodes)


def _steps(method: str, options: dict[str, Any]) -> int:
    """The number of gradients along the path; 0, for a method without steps: one at the clean run."""
    own = find_method(method).options.get("steps")
    known = set() if own is None else {own.name}
    if others := [name for name in options if name not in known]:
        raise InputError(f"neurons take no option but steps, of a method that has them, got {', '.join(others)}")
    return 0 if own is None else options.get(own.name) or STEPS


def _neurons(question: Question, steps: int, progress: Progress | None) -> Float[Tensor, "writer d_model"]:
    total = None
    with inference_state(question.model.bridge):
        for batch in question.batches(progress=progress):
            summed = _of_batch(question, batch, steps)
            total = summed if total is None else total + summed
    assert total is not None
    return question.metric.sign * total / len(question.pairs)


def _of_batch(question: Question, batch: Batch, steps: int) -> Float[Tensor, "writer d_model"]:
    architecture, suffix = question.model.architecture, batch.suffix
    clean = capture_plain(architecture, suffix.clean_tokens)
    other = capture_plain(architecture, suffix.corrupted_tokens).map(suffix.on_clean)
    difference = coordinates(architecture, clean.minus(other))
    points = [None] if steps == 0 else [(k + 0.5) / steps for k in range(steps)]
    gradient = sum(_gradients(question, batch, clean, other, point) for point in points)
    assert isinstance(gradient, Tensor)
    return torch.einsum("bwpd,bwpd->wd", difference.double(), gradient.double()).cpu() / len(points)


def _gradients(
    question: Question, batch: Batch, clean: Writes, other: Writes, point: float | None
) -> Float[Tensor, "batch writer pos d_model"]:
    """The gradient at every writer's output, with the embedding at this point of the path; None: at the clean run."""
    architecture = question.model.architecture
    graph, blocks = architecture.graph, architecture.blocks
    keys: list[Key] = [(0, "resid_pre"), *((block.layer, "attn_projected") for block in blocks)]
    keys += [(block.layer, "mlp_out") for block in blocks if block.mlp_out is not None]
    embedding = None if point is None else torch.lerp(other.embedding, clean.embedding, point)
    gradients, _ = question.live_run(batch, keys, embedding=embedding).gradients(keys)
    size, pos, d_model = clean.embedding.shape
    made = clean.embedding.new_zeros(size, graph.n_writers, pos, d_model)
    made[:, 0] = gradients[0, "resid_pre"]
    for block in blocks:
        made[:, graph.head_writers(block.layer)] = gradients[block.layer, "attn_projected"][:, None].to(made.device)
        if block.mlp_out is not None:
            made[:, graph.mlp_writer(block.layer)] = gradients[block.layer, "mlp_out"].to(made.device)
    return made
