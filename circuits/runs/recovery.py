"""Does a run find the circuit that is known? For tasks that know theirs (`circuits.plugins.KnowsCircuits`)."""

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
    """How well scores and a circuit find what is true.

    Attributes:
        truths: the known circuits, by what "true" means; two that are the same are one.
        scores, circuit: by truth and level.
    """

    truths: dict[str, Circuit]
    scores: dict[tuple[str, str], Recovery] = field(default_factory=dict)
    circuit: dict[tuple[str, str], Recovery] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: the areas, what the strongest of as many as are true hold, and the corners of the curve."""
        scored = [
            {"truth": truth, "level": level, "ranked": len(of), "true": (n := int(of.true.sum())), "auroc": of.auroc,
             "average_precision": of.average_precision, "at_true_size": float(of.precision[n - 1]), "roc": _corners(of)}
            for (truth, level), of in self.scores.items()
        ]  # fmt: skip
        chosen = [
            {"truth": truth, "level": level, "ranked": len(of), "true": int(of.true.sum()), **_of_circuit(of)}
            for (truth, level), of in self.circuit.items()
        ]  # fmt: skip
        edges = {name: list(circuit.edges) for name, circuit in self.truths.items()}
        return {"truths": edges, "scores": scored, "circuit": chosen}


def _of_circuit(of: Recovery) -> dict[str, float | int]:
    """A circuit ranks what it has above what it has not."""
    has = of.scores > 0
    hits, n, true = int((has & of.true).sum()), int(has.sum()), int(of.true.sum())
    return {
        "has": n, "precision": hits / n if n else 0.0, "recall": hits / true,
        "false_positive_rate": (n - hits) / (len(of) - true),
    }  # fmt: skip


def _corners(of: Recovery) -> list[list[float]]:
    """The ROC curve without the points that lie straight between two others."""
    points = torch.stack([of.false_positive_rate, of.true_positive_rate], 1)
    step = points.diff(dim=0)
    turns = (step[1:, 0] * step[:-1, 1] - step[1:, 1] * step[:-1, 0]).abs() > 1e-12
    kept = torch.cat([torch.tensor([True]), turns, torch.tensor([True])])
    return points[kept].tolist()


def known_circuits(
    task: str, model: Model, pairs: PromptPairs, ablation: Ablation, metric: str
) -> Mapping[str, Circuit]:
    """What the task of that name knows; nothing where it is no task, or one that knows none. Equal ones are one.

    Raises:
        InputError: the task cannot tell for this question.
    """
    try:
        found = load_task(task)
    except InputError:
        return {}
    if not isinstance(found, KnowsCircuits):
        return {}
    known: dict[str, Circuit] = {}
    for name, circuit in found.known_circuits(model, pairs, ablation=ablation, metric=metric).items():
        same = next((other for other, of in known.items() if torch.equal(of.mask, circuit.mask)), None)
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
    """Compares what was found with what is true, at each level; None where nothing is known.

    Args:
        truths: the known circuits.
        scores: of edges or nodes; a node with positions counts by its largest effect.
        circuit: that was found.
        skipped: filled in with what cannot be compared, and why.
    """
    if not truths:
        return None
    told = Recovered(dict(truths))
    whole = _whole(scores) if isinstance(scores, NodeScores) else scores
    for name, truth in truths.items():
        for found, levels, into in (
            (whole, ("nodes",) if isinstance(scores, NodeScores) else LEVELS, told.scores),
            (circuit, LEVELS, told.circuit),
        ):
            for level in levels if found is not None else ():
                assert found is not None
                try:
                    into[name, level] = recovery(found, truth, level=level, negligible=NEGLIGIBLE)
                except InputError as reason:
                    skipped[f"recovery of what is {name}, {level}"] = str(reason)
    return told if told.scores or told.circuit else None


def _whole(scores: NodeScores) -> NodeScores:
    """Without positions: the largest effect of each node."""
    if scores.positions is None:
        return scores
    return NodeScores(scores.nodes, scores.values.abs().amax(-1, keepdim=True))
