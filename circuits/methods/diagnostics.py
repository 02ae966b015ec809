"""Diagnostics: the largest effect that may be left among nodes that were not patched (2403.00745, "Diagnostics").

Random subsets of those nodes are patched jointly; each node is in a subset with probability p = `share`. For each node, the outcomes
with it are compared with those without it. Joint sets, which hold all, half or a quarter of the nodes, estimate how much effects
depend on combinations that were not sampled. The largest upper limit bounds the largest effect still missed. The bound applies to a
node's effect averaged over random ablations of the others, not to its effect alone; `circuits.methods.diagnosis` has the
assumptions.

For additive effects, the standard error of an estimate is about (Σ effect²)^½ / samples^½ for every p, so strong nodes make it large.
They are also the nodes whose effects are least additive. So patch them one by one, and exclude them here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.measure.placed_nodes import placed_nodes
from circuits.measure.subsets import SetRuns, chosen_sets, draw_subsets, whole_share
from circuits.methods.diagnosis import Diagnosis, check_sampling
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.provenance import provenance


@on_model
def diagnose(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] | None = None,
    excluding: Sequence[str] = (),
    positions: str | Sequence[str] | None = None,
    samples: int = 256,
    share: float = 0.0625,
    confidence: float = 0.95,
    size: str = "mean",
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Patches random subsets of nodes jointly.

    Args:
        model, metric, ablation, batch_size: see `circuits.activation_patching`.
        pairs: the prompts to explain. Intervals are for effects on these pairs; they do not cover the choice of pairs.
        nodes: names (`a0.h1`, or at one position `a0.h1@3`), or groups joined by `+`: see `circuits.graph.nodes`. None: queries,
            keys, values, heads and MLPs.
        excluding: names of nodes to leave out, such as nodes already patched.
        positions: None: a node at all positions together; `each`, `spans`, `roles` or names of these: each separately.
        samples: number of random subsets. Each costs a forward pass over the pairs; 51 more runs are made for joint sets.
        share: probability that a node is in a subset, to the nearest 1/32. Small values estimate effects alone more closely;
            but `samples · share` should be at least 8, since a node in few subsets has a loose bound.
        confidence: confidence of intervals and bounds.
        size: `mean` or `contribution`, see `circuits.methods.diagnosis`.
        seed: random seed of the subsets.
        store: a directory for finished samples; a call with the same question continues from it, even with more samples.
        progress: called with (subsets × prompts done, in total).

    Raises:
        InputError: an unknown node or option, an ablation without a run of its own, or a store of another question.
        PairsError: the pairs lack these positions.
    """
    check_sampling(confidence, size, samples)
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    left_out = {node.name for node in placed_nodes(model, pairs, excluding, positions)} if excluding else set()
    every = placed_nodes(model, pairs, all_nodes(model) if nodes is None else nodes, positions)
    chosen = [node for node in every if node.name not in left_out]
    if not chosen:
        raise InputError(f"all {len(every)} nodes are excluded, so none is left to diagnose")
    included = draw_subsets(len(chosen), samples, share, seed)
    options: dict[str, Any] = {"nodes": len(chosen), "share": whole_share(share), "subsets_seed": seed,
               "batch_size": question.batch_size}  # fmt: skip
    runs = SetRuns.for_method(question, "a diagnosis", provenance(question, "diagnose", options), chosen, store)
    outcomes, _ = runs.outcomes("subsets", chosen_sets(chosen, included), progress)
    options |= {"samples": samples, "confidence": confidence, "size": size, "excluded": len(left_out)}
    origin = provenance(question, "diagnose", options)
    return Diagnosis(tuple(node.name for node in chosen), included, outcomes, confidence, size, origin)


def all_nodes(model: Model) -> str:
    """Queries, keys, values, heads, and MLPs if there are any."""
    return "q+k+v+heads+mlps" if any(model.graph.mlps) else "q+k+v+heads"
