"""Recovery of a known circuit, for tasks that know their circuit (`circuits.plugins.KnowsCircuits`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from circuits.errors import InputError
from circuits.evaluation.recovery import LEVELS, NEGLIGIBLE, Recovery, recovery
from circuits.model import Model
from circuits.plugins import KnowsCircuits, load_task
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import Ablation
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores


@dataclass(frozen=True, eq=False)
class Recovered:
    """How well scores and a circuit recover the true edges.

    Attributes:
        truths: the known circuits, by the meaning of "true"; equal circuits are merged.
        scores, circuit: recovery, by truth and level.
    """

    truths: dict[str, Circuit]
    scores: dict[tuple[str, str], Recovery] = field(default_factory=dict)
    circuit: dict[tuple[str, str], Recovery] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: areas, precision of as many as are true, and the corners of the ROC curve."""
        scored = [
            {"truth": truth, "level": level, "ranked": len(one), "true": (n := int(one.true.sum())), "auroc": one.auroc,
             "average_precision": one.average_precision, "at_true_size": float(one.precision[n - 1]), "roc": _corners(one)}
            for (truth, level), one in self.scores.items()
        ]  # fmt: skip
        chosen = [
            {"truth": truth, "level": level, "ranked": len(one), "true": int(one.true.sum()), **_of_circuit(one)}
            for (truth, level), one in self.circuit.items()
        ]  # fmt: skip
        edges = {name: list(circuit.edges) for name, circuit in self.truths.items()}
        return {"truths": edges, "scores": scored, "circuit": chosen}


def _of_circuit(ranked: Recovery) -> dict[str, float | int]:
    """A circuit ranks its own edges above all others."""
    has = ranked.scores > 0
    hits, n, true = int((has & ranked.true).sum()), int(has.sum()), int(ranked.true.sum())
    return {
        "has": n, "precision": hits / n if n else 0.0, "recall": hits / true,
        "false_positive_rate": (n - hits) / (len(ranked) - true),
    }  # fmt: skip


def _corners(ranked: Recovery) -> list[list[float]]:
    """The ROC curve without points on a straight line between two others."""
    points = torch.stack([ranked.false_positive_rate, ranked.true_positive_rate], 1)
    step = points.diff(dim=0)
    turns = (step[1:, 0] * step[:-1, 1] - step[1:, 1] * step[:-1, 0]).abs() > 1e-12
    kept = torch.cat([torch.tensor([True]), turns, torch.tensor([True])])
    return points[kept].tolist()


def known_circuits(
    task: str, model: Model, pairs: PromptPairs, ablation: Ablation, metric: str
) -> Mapping[str, Circuit]:
    """The known circuits of a task; empty: there is no such task, or it knows none. Equal circuits are merged.

    Raises:
        InputError: the task does not know the circuit of this question.
    """
    try:
        knows = load_task(task)
    except InputError:
        return {}
    if not isinstance(knows, KnowsCircuits):
        return {}
    known: dict[str, Circuit] = {}
    for name, circuit in knows.known_circuits(model, pairs, ablation=ablation, metric=metric).items():
        same = next((name for name, other in known.items() if torch.equal(other.mask, circuit.mask)), None)
        if same is None:
            known[name] = circuit
        else:
            known[f"{same}, {name}"] = known.pop(same)
    return known


def recovered(
    truths: Mapping[str, Circuit],
    scores: EdgeScores | NodeScores | None,
    circuit: Circuit | None,
    skipped: dict[str, str],
) -> Recovered | None:
    """Compares scores and a circuit with the known circuits, at each level; None: no circuit is known.

    Args:
        truths: the known circuits.
        scores: scores of edges or nodes; a node with positions counts by its largest effect.
        circuit: the circuit of the run; over places, its edges at any place count.
        skipped: filled in with comparisons that cannot be made, and why.
    """
    if not truths:
        return None
    result = Recovered(dict(truths))
    whole = _whole(scores) if isinstance(scores, NodeScores) else scores
    for name, truth in truths.items():
        for ranked, levels, into in (
            (whole, ("nodes",) if isinstance(scores, NodeScores) else LEVELS, result.scores),
            (None if circuit is None else circuit.without_places(), LEVELS, result.circuit),
        ):
            for level in levels if ranked is not None else ():
                assert ranked is not None
                try:
                    into[name, level] = recovery(ranked, truth, level=level, negligible=NEGLIGIBLE)
                except InputError as reason:
                    skipped[f"recovery of what is {name}, {level}"] = str(reason)
    return result if result.scores or result.circuit else None


def _whole(scores: NodeScores) -> NodeScores:
    """Without positions: the largest effect of each node."""
    if scores.positions is None:
        return scores
    return NodeScores(scores.nodes, scores.values.abs().amax(-1, keepdim=True))
