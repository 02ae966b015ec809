"""`circuits compare` for runs with dictionaries: faithfulness at equal numbers of nodes (`circuits.compare_features`)."""

from collections.abc import Sequence

from circuits.errors import InputError
from circuits.evaluation.feature_comparison import BUDGETS, FeatureComparison, compared
from circuits.model import Model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Question
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.runs.again import asked_about, own_scores
from circuits.runs.feature_source import model_of_run
from circuits.runs.read import Run


def compare_feature_runs(
    runs: Sequence[Run],
    model: Model,
    pairs: PromptPairs,
    budgets: Sequence[int] = BUDGETS,
    progress: Progress | None = None,
) -> FeatureComparison:
    """Compares runs at equal numbers of nodes.

    Args:
        runs: of one model on the same prompts.
        model: their model, without dictionaries.
        pairs: the prompts.
        budgets: numbers of nodes; those that no run has are left out.
        progress: called after each run.

    Raises:
        InputError: a run has no scores of nodes or edges without positions.
    """
    metric, ablation = asked_about(runs[0])
    questions = {run.name: Question.ask(model_of_run(model, run), pairs, metric, ablation) for run in runs}
    return compared(questions, {run.name: _node_scores(run) for run in runs}, budgets, progress)


def _node_scores(run: Run) -> NodeScores:
    """The scores of a run's nodes; of a run with scores of edges the sums over the edges out of each node."""
    for scores in own_scores(run):
        if isinstance(scores, EdgeScores):
            return scores.to_nodes()
        if scores.positions is None:
            return scores
    raise InputError(
        f"{run.path} has no scores of nodes or edges (without positions) by which its nodes could be ranked"
    )
