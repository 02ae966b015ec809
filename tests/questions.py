"""A small question to every method, and where the layers of a tiny Llama are: for models on pretended devices."""

import torch

import circuits
from circuits import Circuit, edge_attribution
from tests.tiny_models import random_subset

LAYERS = {
    "model.embed_tokens": "cpu:1",
    "model.rotary_emb": "cpu:1",
    "model.layers.0": "cpu:1",
    "model.layers.1": "cpu:2",
    "model.layers.2": "cpu:3",
    "model.norm": "cpu:3",
    "lm_head": "cpu:3",
}
QUESTIONS = {
    "EAP": lambda m, p: edge_attribution(m, p, gradient="clean", positions="each", check_sign=True).by_position,
    "IG": lambda m, p: edge_attribution(m, p, gradient="ig", steps=2).values,
    "IG over activations": lambda m, p: edge_attribution(m, p, gradient="ig-activations", steps=1).values,
    "RelP": lambda m, p: edge_attribution(m, p, gradient="relp").values,
    "GIM": lambda m, p: edge_attribution(m, p, gradient="gim").values,
    "circuits": lambda m, p: circuits.circuit_metrics(m, p, [Circuit.full(m.graph), random_subset(m, 0.3)]),
    "circuits, mean": lambda m, p: circuits.circuit_metrics(m, p, [random_subset(m, 0.3)], ablation="mean"),
    "circuits, gaussian": lambda m, p: circuits.circuit_metrics(m, p, [random_subset(m, 0.3)], ablation="gaussian"),
    "patching": lambda m, p: circuits.activation_patching(m, p, nodes="mlps+q", positions="each").per_prompt,
    "AtP": lambda m, p: circuits.attribution_patching(m, p, nodes="heads+mlps+q+k+v+input").per_prompt,
    "AtP*": lambda m, p: circuits.atp_star(m, p).per_prompt,
    "AtP*, each position": lambda m, p: circuits.atp_star(m, p, positions="each").per_prompt,
    "COAR": lambda m, p: circuits.coar(m, p, samples=30).values,
    "path patching": lambda m, p: circuits.path_patching(m, p, ["logits"]).per_prompt,
    "exact effects": lambda m, p: circuits.exact_edge_effects(m, p, m.graph.edges[::29]).per_prompt,
    "ACDC": lambda m, p: circuits.acdc(m, p, threshold=1.0, metric="logit_difference").mask.double(),
    "edge pruning": lambda m, p: circuits.edge_pruning(m, p, edges=40, steps=2).mask.double(),
    "information flow": lambda m, p: circuits.information_flow(m, p).values,
    "refined": lambda m, p: circuits.refine(m, p, edge_attribution(m, p), top=3).values,
    "mediation": lambda m, p: torch.as_tensor(circuits.causal_mediation(m, p, ["a1.h0"]).total),
    "gradient times parameter": lambda m, p: circuits.gradient_times_parameter(m, p).values,
    "neuron conductance": lambda m, p: circuits.neuron_conductance(m, p, steps=1).values,
    "internal influence": lambda m, p: circuits.internal_influence(m, p, steps=1).values,
}
