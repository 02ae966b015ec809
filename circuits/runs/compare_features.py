"""Circuits of features beside circuits of heads and MLPs: faithfulness at equal numbers of nodes.

    faithfulness(k) = (m(the k strongest nodes) - m(∅)) / (m(all) - m(∅))

Every run keeps its own k strongest nodes. All other parts of the run's groups are ablated at all positions, and what is in no group runs as
it is. Runs of other groups therefore answer different questions: score `features+heads+mlps+input` in the one and `heads+mlps+input` in the
other, so that all that the model writes is a part in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from circuits.errors import InputError
from circuits.evaluation.feature_faithfulness import FeatureFaithfulness, feature_faithfulness_of
from circuits.model import Model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Question
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import finite
from circuits.runs.again import asked_about, own_scores
from circuits.runs.feature_source import model_of_run
from circuits.runs.features import groups_of, parts_of
from circuits.runs.read import Run

BUDGETS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True, eq=False)
class FeatureComparison:
    """Faithfulness of several runs at equal numbers of nodes.

    Attributes:
        budgets: numbers of nodes.
        among: the groups of parts of each run.
        results: of each run at each budget; fewer if the run has fewer nodes.
        metric, ablation: names.
    """

    budgets: tuple[int, ...]
    among: dict[str, str]
    results: dict[str, tuple[FeatureFaithfulness, ...]]
    metric: str
    ablation: str

    @property
    def caution(self) -> str | None:
        """What makes the runs unequal; None: nothing."""
        others = {frozenset(groups.split("+")) - {"features"} for groups in self.among.values()}
        if len(others) == 1:
            return None
        each = "; ".join(f"{name}: {groups}" for name, groups in self.among.items())
        return (
            f"the runs have parts of different groups ({each}), so equal numbers of nodes are not equal budgets; score "
            "features+heads+mlps+input in one and heads+mlps+input in the other"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        keys = ("faithfulness", "with_errors", "without_errors", "clean", "ablated")
        return {
            "budgets": list(self.budgets), "metric": self.metric, "ablation": self.ablation, "caution": self.caution,
            "runs": {
                name: {"among": self.among[name], "at": [{"nodes": len(one.kept), **{key: one.to_dict()[key] for key in keys}}
                       for one in of]}
                for name, of in self.results.items()
            },
        }  # fmt: skip

    def rows(self) -> list[list[str]]:
        """A row for each budget: faithfulness with the run's own errors, with all errors, and without errors."""

        def cell(of: Sequence[FeatureFaithfulness], i: int) -> str:
            if i >= len(of):
                return "–"
            own, every, none = (finite(x) for x in (of[i].value, of[i].with_errors, of[i].without_errors))
            if own is None or every is None or none is None:
                return "undefined"
            return f"{own:.2f} ({every:.2f}, {none:.2f})" if "features" in of[i].among else f"{own:.2f}"

        return [[str(n), *(cell(of, i) for of in self.results.values())] for i, n in enumerate(self.budgets)]


def compare_features(
    runs: Sequence[Run],
    model: Model,
    pairs: PromptPairs,
    budgets: Sequence[int] = BUDGETS,
    progress: Progress | None = None,
) -> FeatureComparison:
    """Compares runs at equal numbers of nodes.

    Args:
        runs: of one model on the same prompts; at least one with dictionaries.
        model: their model, without dictionaries.
        pairs: the prompts.
        budgets: numbers of nodes; those that no run has are left out.
        progress: called after each run.

    Raises:
        InputError: a run has no scores of nodes or edges without positions.
    """
    metric, ablation = asked_about(runs[0])
    results: dict[str, tuple[FeatureFaithfulness, ...]] = {}
    among: dict[str, str] = {}
    ranked: dict[str, list[str]] = {}
    questions: dict[str, Question] = {}
    for run in runs:
        own = model_of_run(model, run)
        scores = _node_scores(run)
        groups = groups_of(own, scores) if own.places else _plain_groups(scores)
        questions[run.name], among[run.name] = Question.ask(own, pairs, metric, ablation), groups
        ranked[run.name] = [name for name, *_ in parts_of(own, scores).strongest(max(budgets))]
    most = max(len(nodes) for nodes in ranked.values())
    kept = tuple(n for n in budgets if n <= most)
    for i, (name, nodes) in enumerate(ranked.items()):
        sets = [nodes[:n] for n in kept if n <= len(nodes)]
        results[name] = tuple(feature_faithfulness_of(questions[name], chosen, among[name]) for chosen in sets)
        if progress is not None:
            progress(i + 1, len(ranked))
    return FeatureComparison(kept, among, results, metric, questions[runs[0].name].ablation.label)


def _plain_groups(scores: NodeScores) -> str:
    found = {"heads": "a", "mlps": "m", "input": "i"}
    return "+".join(group for group, letter in found.items() if any(node[0] == letter for node in scores.nodes))


def _node_scores(run: Run) -> NodeScores:
    """The scores of a run's nodes; of a run with scores of edges the sum of the sizes of each node's edges."""
    for scores in own_scores(run):
        if isinstance(scores, NodeScores) and scores.positions is None:
            return scores
        if isinstance(scores, EdgeScores):
            sizes = (scores.values.abs() * scores.graph.edge_mask).sum(1, dtype=torch.float64)
            return NodeScores(scores.graph.writer_names, sizes[:, None], provenance=scores.provenance)
    raise InputError(
        f"{run.path} has no scores of nodes or edges (without positions) by which its nodes could be ranked"
    )
