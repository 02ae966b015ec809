"""Diagnostics: how large an effect may still be among nodes that were not patched (2403.00745, "Diagnostics").

Random subsets of those nodes are patched as one, each node in a subset with probability p = `share`. Per node the outcomes
with it are compared with those without it; joint sets, which hold all, half or a quarter of the nodes, say how much effects may
depend on company that no subset had. The largest upper limit bounds the largest effect still missed. What is bounded is a
node's effect averaged over random company, not its effect alone; what is assumed stands in `circuits.methods.diagnosis`.

Where effects add up, an estimate's standard error is about (Σ effect²)^½ / samples^½ for every p: the strong nodes make it
wide. They are also those whose effects do not add up. So patch them one by one, and exclude them here.
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
    """Patches random subsets of nodes together.

    Args:
        model: a loaded model.
        pairs: the prompts to explain. Effects are those on these pairs; that others may differ is not part of any interval.
        nodes: names (`a0.h1`, or at one position `a0.h1@3`), or groups joined by `+`: see `circuits.graph.nodes`. None: queries,
            keys, values, heads and MLPs.
        excluding: names of nodes to leave out: those patched already.
        positions: None: a node at all positions together; `each`, `roles` or names of roles: each by itself.
        samples: how many subsets, besides the joint sets. Each costs a forward pass over the pairs; 51 more are made.
        share: with which probability a node is in a subset, to the nearest 1/32. The smaller, the nearer to effects
            alone; but have `samples · share` at least 8: a node that is in few subsets is bounded loosely.
        confidence: of intervals and bounds.
        size: what counts as an effect's size: `mean` or `contribution`; see `circuits.methods.diagnosis`.
        metric: None: the task's preferred metric.
        ablation: the source of corrupted values: `interchange`, `gaussian` or `resample`.
        batch_size: pairs at a time; results do not depend on it.
        seed: random seed of the subsets.
        store: a directory for finished samples; a call that asks the same continues from it, also with more samples.
        progress: called with (subsets × prompts done, in total).

    Raises:
        InputError: an unknown node or option, an ablation without a run of its own, or a store of another question.
        PairsError: positions that the pairs do not have.
    """
    check_sampling(confidence, size, samples)
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    left_out = {node.name for node in placed_nodes(model, pairs, excluding, positions)} if excluding else set()
    every = placed_nodes(model, pairs, all_nodes(model) if nodes is None else nodes, positions)
    chosen = [node for node in every if node.name not in left_out]
    if not chosen:
        raise InputError(f"all {len(every)} nodes are excluded, so there is nothing to diagnose")
    included = draw_subsets(len(chosen), samples, share, seed)
    options: dict[str, Any] = {"nodes": len(chosen), "share": whole_share(share), "subsets_seed": seed,
               "batch_size": question.batch_size}  # fmt: skip
    runs = SetRuns.of(question, "a diagnosis", provenance(question, "diagnose", options), chosen, store)
    outcomes, _ = runs.outcomes("subsets", chosen_sets(chosen, included), progress)
    options |= {"samples": samples, "confidence": confidence, "size": size, "excluded": len(left_out)}
    origin = provenance(question, "diagnose", options)
    return Diagnosis(tuple(node.name for node in chosen), included, outcomes, confidence, size, origin)


def all_nodes(model: Model) -> str:
    """Queries, keys, values, heads, and MLPs if there are any."""
    return "q+k+v+heads+mlps" if any(model.graph.mlps) else "q+k+v+heads"
