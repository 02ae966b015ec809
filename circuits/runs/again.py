"""A finished run's method, run again: the same question with something changed, for its scores or its circuit alone.

What was asked is read from the run's `run.json`; the circuit is not tested again, and what chooses a circuit from scores is left
out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuits.errors import InputError
from circuits.evaluation.randomisation import Found
from circuits.evaluation.recovery import NEGLIGIBLE
from circuits.methods.catalogue import method as find_method
from circuits.methods.options import CHOICE, RANDOM_CIRCUITS, Kind
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import Ablation, AblationLike, Gaussian, Resample, get_ablation
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.runs.discover import discover
from circuits.runs.read import Run
from circuits.runs.result import NodeDiscovery


@dataclass(frozen=True, eq=False)
class Asked:
    """What `discover` was asked.

    Attributes:
        method: one of `circuits.methods.catalogue.METHODS`.
        metric: its name; the one that the circuit was tested by where the method has none or another.
        ablation: what replaced values.
        options: the method's own.
        seed: of what was drawn.
        seconds: that the method took, without testing the circuit.
    """

    method: str
    metric: str
    ablation: Ablation
    options: Mapping[str, Any]
    seed: int
    seconds: float

    def again(
        self,
        model: Model,
        pairs: PromptPairs,
        *,
        metric: str | None = None,
        ablation: AblationLike | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> Found:
        """The scores, or the circuit of a method that has no scores.

        Args:
            model: a loaded model.
            pairs: the prompts to explain.
            metric, ablation, seed: None: as the run was asked.
            batch_size: pairs at a time.
            options: the method's own, instead of the run's.

        Raises:
            InputError: the method refuses this.
        """
        found = discover(
            model, pairs, method=self.method, metric=metric or self.metric, ablation=ablation or self.ablation,
            seed=self.seed if seed is None else seed, batch_size=batch_size, test=False, **{**self.options, **options},
        )  # fmt: skip
        if isinstance(found, NodeDiscovery):
            return found.scores
        return found.circuit if found.scores is None else found.scores


def what_was_asked(run: Run) -> Asked:
    """Of a run that was read.

    Raises:
        InputError: its method is unknown here, or takes other options.
    """
    options, seconds = run.told.get("options"), run.told.get("seconds")
    if not isinstance(options, dict) or not isinstance(seconds, dict):
        raise InputError(f"{run.path} does not say how its method was asked")
    method = str(options.get("method"))
    chosen = find_method(method)
    testing = {RANDOM_CIRCUITS, *(CHOICE if chosen.gives == "edges" else ())}  # what is not done again
    known = {name: option for name, option in chosen.options.items() if option not in testing}
    given = {name: options[name] for name in options if name in known and options[name] is not None}
    for name, value in given.items():
        if isinstance(value, str) and known[name].kind is Kind.NUMBER:
            given[name] = float(value)  # infinite ones are written as text
    chosen.check(given)
    spent = [s for stage, s in seconds.items() if stage != "evaluation" and isinstance(s, int | float)]
    metric, ablation = asked_about(run)
    return Asked(method, metric, ablation, given, int(options.get("seed", 0)), math.fsum(spent))


def asked_about(run: Run) -> tuple[str, Ablation]:
    """The metric and the ablation that a run's circuit was tested by, or its nodes scored.

    Raises:
        InputError: they are not known here.
    """
    summary, origin = run.told.get("summary"), run.provenance
    said: Mapping[str, Any] = summary if isinstance(summary, dict) else {}
    metric, ablation = (said.get(name) or origin.get(name) for name in ("metric", "ablation"))
    return str(metric), ablation_called(str(ablation))


def ablation_called(label: str) -> Ablation:
    """The ablation whose label this is.

    Raises:
        InputError: there is none, or it cannot be had from its label alone.

    >>> ablation_called("resample(seed=3)")
    Resample(seed=3)
    """
    name, _, inside = label.removesuffix(")").partition("(")
    given = dict(part.split("=", 1) for part in inside.split(", ") if "=" in part)
    try:
        if name == "resample":
            return Resample(int(given.get("seed", 0)))
        if name == "gaussian" and given:
            tokens = () if given["tokens"] == "differing" else tuple(given["tokens"].split("+"))
            return Gaussian(tokens, float(given["scale"]), int(given["seed"]))
    except (KeyError, ValueError):
        raise InputError(f"there is no ablation {label!r}") from None
    return get_ablation(label)


def own_result(run: Run) -> Found | None:
    """What the run's method found: scores, or the circuit where there are none."""
    scores = next((of for of in run.results.values() if isinstance(of, EdgeScores | NodeScores)), None)
    return next((of for of in run.results.values() if isinstance(of, Circuit)), None) if scores is None else scores


def compared_at_once(found: Found, circuit: Circuit | None) -> int | None:
    """How many of the strongest are compared: as many as the circuit has (100 without one), or ten nodes.

    At most half of all, and of those that are more than rounding; None for circuits.
    """
    if isinstance(found, Circuit):
        return None
    if isinstance(found, NodeScores):
        sizes, most = found.values.abs().flatten(), 10
    else:
        sizes, most = found.values[found.graph.edge_mask].abs(), len(circuit or ()) or 100
    real = int((sizes > NEGLIGIBLE * sizes.max()).sum())
    return max(1, min(most, len(sizes) // 2, real))
