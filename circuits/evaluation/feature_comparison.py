"""Circuits of features beside circuits of heads and MLPs: faithfulness at equal numbers of nodes.

    faithfulness(k) = (m(the k strongest nodes) - m(∅)) / (m(all) - m(∅))

Every run keeps its own k strongest nodes. All other parts of the run's groups are ablated at all positions, and what is in no group runs as
it is. Runs of other groups therefore answer different questions: score `features+heads+mlps+input` in the one and `heads+mlps+input` in the
other, so that all that the model writes is a part in both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.insert import with_dictionaries
from circuits.errors import InputError
from circuits.evaluation.feature_faithfulness import FeatureFaithfulness, feature_faithfulness_of
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.feature_circuit import kind_of
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import finite
from circuits.shown import Shown

BUDGETS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class FeatureComparison(Shown):
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

    def table(self) -> list[list[str]]:
        """A row for each budget: faithfulness with the run's own errors, with all errors, and without errors."""

        def cell(of: Sequence[FeatureFaithfulness], i: int) -> str:
            if i >= len(of):
                return "–"
            own, every, none = (finite(x) for x in (of[i].value, of[i].with_errors, of[i].without_errors))
            if own is None or every is None or none is None:
                return "undefined"
            return f"{own:.2f} ({every:.2f}, {none:.2f})" if "features" in of[i].among else f"{own:.2f}"

        return [[str(n), *(cell(of, i) for of in self.results.values())] for i, n in enumerate(self.budgets)]

    def rows(self) -> list[dict[str, Any]]:
        """One row for each run and budget."""
        return [
            {"scores": name, "among": self.among[name], "nodes": len(one.kept), "faithfulness": one.value,
             "with errors": one.with_errors, "without errors": one.without_errors}
            for name, results in self.results.items() for one in results
        ]  # fmt: skip

    def __repr__(self) -> str:
        return f"FeatureComparison({', '.join(self.results)}; {', '.join(map(str, self.budgets))} nodes)"


@on_model
def compare_features(
    model: Model,
    pairs: PromptPairs,
    scores: Mapping[str, NodeScores],
    *,
    dictionaries: Sequence[Dictionary],
    budgets: Sequence[int] = BUDGETS,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    progress: Progress | None = None,
) -> FeatureComparison:
    """Faithfulness of the strongest nodes of several scores, at equal numbers of nodes.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        scores: by name; of features, heads, MLPs, `input`, without positions.
        dictionaries: of the scores that have features; scores without any are tested in the model without dictionaries.
        budgets: numbers of nodes; those that no scores have are left out.
        metric: None: the task's preferred metric.
        ablation: what replaces the value of an ablated part.
        progress: called after each of the scores.

    Raises:
        InputError: no scores, scores with positions or of other nodes, or a dictionary that does not fit the model.
    """
    inserted = with_dictionaries(model, dictionaries)
    questions = {
        name: Question.ask(inserted if _has_parts(one) else model, pairs, metric, ablation)
        for name, one in scores.items()
    }
    return compared(questions, scores, budgets, progress)


def compared(
    questions: Mapping[str, Question],
    scores: Mapping[str, NodeScores],
    budgets: Sequence[int],
    progress: Progress | None = None,
) -> FeatureComparison:
    """`compare_features`, each of the scores with a question of its own."""
    if not scores:
        raise InputError("a comparison needs scores")
    among = {name: groups_of(questions[name].model, one) for name, one in scores.items()}
    if empty := [name for name, groups in among.items() if not groups]:
        raise InputError(f"{empty[0]} has no scores of features, heads, MLPs or input")
    ranked = {
        name: [node for node, *_ in parts_of(questions[name].model, one).strongest(max(budgets))]
        for name, one in scores.items()
    }
    most = max(len(nodes) for nodes in ranked.values())
    kept = tuple(n for n in budgets if n <= most)
    results: dict[str, tuple[FeatureFaithfulness, ...]] = {}
    for i, (name, nodes) in enumerate(ranked.items()):
        sets = [nodes[:n] for n in kept if n <= len(nodes)]
        results[name] = tuple(feature_faithfulness_of(questions[name], chosen, among[name]) for chosen in sets)
        if progress is not None:
            progress(i + 1, len(ranked))
    question = next(iter(questions.values()))
    return FeatureComparison(kept, among, results, question.metric.name, question.ablation.label)


def _has_parts(scores: NodeScores) -> bool:
    return any(":" in node for node in scores.nodes)


def groups_of(model: Model, scores: NodeScores) -> str:
    """The groups of parts among which the scored nodes are: those that are ablated unless they are kept."""
    kinds = {kind for node in scores.nodes if (kind := _kind(node)) is not None}
    described = {place.name[0] for place in model.places}
    heads = "head" in kinds and not described & {"a", "z"}
    chosen = [("features", bool(model.places)), ("heads", heads), ("mlps", "mlp" in kinds), ("input", "input" in kinds)]
    return "+".join(group for group, there in chosen if there)


def _kind(node: str) -> str | None:
    try:
        return kind_of(node)[0]
    except InputError:
        return None


def parts_of(model: Model, scores: NodeScores) -> NodeScores:
    """The scores of nodes that can be parts of a circuit: of an MLP with a dictionary only its features and errors."""
    if scores.positions is not None:
        raise InputError("circuits of features need scores without positions")
    groups, places = groups_of(model, scores), {place.name for place in model.places}
    kinds = {"feature", "error", "skip", *({"head"} if "heads" in groups else ())}
    kinds |= {"mlp"} if "mlps" in groups else set()
    kinds |= {"input"} if "input" in groups else set()
    chosen = [i for i, node in enumerate(scores.nodes) if _kind(node) in kinds and node not in places]
    # Scores of other classes, such as COAR's, have more columns, which are not needed here.
    kept = tuple(scores.nodes[i] for i in chosen)
    return NodeScores(kept, scores.per_prompt[chosen], None, scores.clean, scores.corrupted, scores.provenance)
