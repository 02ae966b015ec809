"""What methods that train masks share: the options, and the run of `circuits discover`. `circuits.measure.mask_training` trains."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from circuits.errors import InputError
from circuits.measure.mask_training import MaskLaw, PruningStep, train_masks
from circuits.methods.edge_attribution import GRADIENTS, edge_attribution_of
from circuits.methods.options import ABSOLUTE, DESTINATIONS, EDGES, PLACES, RANDOM_CIRCUITS, Kind, Option
from circuits.question.metrics import METRICS
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.quantity import Quantity


def discovered(
    name: str, law: MaskLaw, question: Question, *, edges: int, objective: str, steps: int, learning_rate: float, absolute: bool,
    seed: int, timed: Callable[..., Any], positions: str | None = None, destinations: bool = False, start: str | None = None,
    start_scores: str | Path | None = None,
) -> Circuit:  # fmt: skip
    """Trains masks of a law on the objective, for the method of that name; the circuit is tested with the run's own metric."""
    if start is not None and start_scores is not None:
        raise InputError("start computes the scores to start from, start_scores reads them; give only one of them")
    first = None if start_scores is None else EdgeScores.load(start_scores)
    if start is not None:
        with timed("attribution", "scoring edges") as progress:
            first = edge_attribution_of(
                question,
                gradient=start,
                check_sign=False,
                progress=progress,
                positions=positions,
                destinations=destinations,
            )
    with timed(*STAGE) as progress:

        def report(at: PruningStep) -> None:
            progress(at.done, at.steps, f"{at.expected:.0f} edges open, {objective} {at.metric:.4g}")

        again = question.again(metric=objective)
        return train_masks(
            again, name, law, edges, positions=positions, destinations=destinations, steps=steps, learning_rate=learning_rate,
            absolute=absolute, start=first, seed=seed, progress=report,
        )  # fmt: skip


STAGE = ("training", "steps")
TAKES = (
    replace(EDGES, default=200, help="Edges to choose."),
    replace(PLACES, help="spans or each: masks for each edge at each place."),
    DESTINATIONS,
    Option(
        "objective", Kind.METRIC, "kl_divergence", "Differentiable metric that the masks are trained on.",
        choices=tuple(name for name, metric in METRICS.items() if metric.differentiable),
    ),
    Option("steps", Kind.WHOLE, 300, "Steps of training.", at_least=1),
    Option("learning_rate", Kind.NUMBER, 0.2, "Learning rate of the masks' log-odds.", above=0),
    ABSOLUTE,
    Option(
        "start", Kind.TEXT, None, "Rule of edge attribution whose scores the masks start from.", choices=tuple(GRADIENTS)
    ),
    Option("start_scores", Kind.FILE, None, "A scores.safetensors that the masks start from."),
    RANDOM_CIRCUITS,
)  # fmt: skip
"""The options of methods that train masks."""
REMEDY = "masks trained on kl_divergence, or with --absolute, stay closer to the model"
LOG_ODDS = Quantity("log-odds of the mask", positive="mask open", negative="mask closed", preposition="")
"""The scores of methods that train masks."""
