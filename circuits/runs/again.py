"""The method of a finished run, run again with something changed, for its scores or its circuit alone.

The question and the options are read from `run.json`. The circuit is not tested again, and no circuit is chosen from scores.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuits.errors import InputError
from circuits.evaluation.randomisation import MethodResult
from circuits.evaluation.recovery import NEGLIGIBLE
from circuits.methods.catalogue import MEANS
from circuits.methods.catalogue import method as find_method
from circuits.methods.options import CHOICE, RANDOM_CIRCUITS, Kind
from circuits.model import Model
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import Ablation, AblationLike, Gaussian, Optimal, Resample, get_ablation
from circuits.question.optimal_constants import Constants
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.results.node_scores import NodeScores
from circuits.runs.discover import discover
from circuits.runs.files import CONSTANTS_FILE, REFERENCE_FILE
from circuits.runs.read import Run
from circuits.runs.result import NodeDiscovery


@dataclass(frozen=True, eq=False)
class RunRequest:
    """The arguments of `discover` for a run.

    Attributes:
        method: one of `circuits.methods.catalogue.METHODS`.
        metric: name of the metric that the circuit was tested by, or that the nodes were scored by.
        ablation: what replaced values.
        options: options of the method.
        seed: random seed.
        seconds: wall time of the method, without testing the circuit.
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
    ) -> MethodResult:
        """The scores, over places if circuits are chosen over places; or the circuit of a method that has no scores.

        Args:
            model: a loaded model.
            pairs: the prompts to explain.
            metric, ablation, seed: None: those of the run.
            batch_size: pairs per batch.
            options: options of the method that replace those of the run.

        Raises:
            InputError: the method refuses these arguments.
        """
        result = discover(
            model, pairs, method=self.method, metric=metric or self.metric, ablation=ablation or self.ablation,
            seed=self.seed if seed is None else seed, batch_size=batch_size, test=False, **{**self.options, **options},
        )  # fmt: skip
        if isinstance(result, NodeDiscovery):
            return result.scores
        return result.circuit if result.ranked is None else result.ranked


def what_was_asked(run: Run) -> RunRequest:
    """The arguments of `discover` for a run.

    Raises:
        InputError: its method is unknown here, or takes other options.
    """
    options, seconds = run.record.get("options"), run.record.get("seconds")
    if not isinstance(options, dict) or not isinstance(seconds, dict):
        raise InputError(f"{run.path} does not record the options of its method")
    method = str(options.get("method"))
    chosen = find_method(method)
    testing = {RANDOM_CIRCUITS, *(CHOICE if chosen.gives == "edges" else ())}  # these are not used again
    known = {name: option for name, option in chosen.options.items() if option not in testing}
    given = {name: options[name] for name in options if name in known and options[name] is not None}
    for name, value in given.items():
        if isinstance(value, str) and known[name].kind is Kind.NUMBER:
            given[name] = float(value)  # infinite numbers are stored as text
    chosen.check(given)
    spent = [s for stage, s in seconds.items() if stage != "evaluation" and isinstance(s, int | float)]
    metric, ablation = asked_about(run)
    return RunRequest(method, metric, ablation, given, int(options.get("seed", 0)), math.fsum(spent))


def asked_about(run: Run) -> tuple[str, Ablation]:
    """The metric and the ablation that a run's circuit was tested by, or its nodes were scored by.

    Raises:
        InputError: they are not known here, or the run lacks the pairs of its reference.
    """
    summary, origin = run.record.get("summary"), run.provenance
    summary = summary if isinstance(summary, dict) else {}
    metric, ablation = (summary.get(name) or origin.get(name) for name in ("metric", "ablation"))
    file = run.path / REFERENCE_FILE
    reference = PromptPairs.from_jsonl(file, trust_ids=True) if file.exists() else None
    constants = run.path / CONSTANTS_FILE
    trained = Constants.load(constants) if constants.exists() else None
    return str(metric), ablation_called(str(ablation), reference, trained)


def ablation_called(label: str, reference: PromptPairs | None = None, constants: Constants | None = None) -> Ablation:
    """The ablation with this label.

    Args:
        label: see `Ablation.label`.
        reference: the pairs of a mean over other pairs.
        constants: those of a run with the ablation `optimal`.

    Raises:
        InputError: there is none, or its label does not say enough.

    >>> ablation_called("resample(seed=3)")
    Resample(seed=3)
    """
    name, _, inside = label.removesuffix(")").partition("(")
    given = dict(part.split("=", 1) for part in inside.split(", ") if "=" in part)
    try:
        if name == "resample":
            return Resample(int(given.get("seed", 0)))
        if name == "optimal" and given:
            return Optimal(reference, steps=int(given["steps"]), seed=int(given["seed"]), constants=constants)
        if name == "gaussian" and given:
            tokens = () if given["tokens"] == "differing" else tuple(given["tokens"].split("+"))
            return Gaussian(tokens, float(given["scale"]), int(given["seed"]))
    except (KeyError, ValueError):
        raise InputError(f"there is no ablation {label!r}") from None
    if name in MEANS and inside.startswith("over "):
        if reference is None:
            raise InputError(f"there is no ablation {label!r}: the run holds no pairs for this mean")
        return Ablation(name, reference=reference)
    return get_ablation(label)


def own_result(run: Run) -> MethodResult | None:
    """The result of the run's method: scores, over places if its circuit has places; or the circuit of a method without scores."""
    own = next(iter([*own_scores(run), *run.circuits.values()]), None)
    placed = any(circuit.places is not None for circuit in run.circuits.values())
    return own.over_places() if placed and isinstance(own, EdgeScores) else own


def own_scores(run: Run) -> list[EdgeScores | NodeScores]:
    """The scores of the run's method; of edges without their places, if these are known."""
    return [result for result in run.results.values() if isinstance(result, EdgeScores | NodeScores)]


def compared_at_once(result: MethodResult, circuit: Circuit | None) -> int | None:
    """How many of the strongest edges (as many as the circuit has, or 100) or nodes (ten) are compared; None for circuits.

    At most half of all, and only those that are more than rounding errors.
    """
    if isinstance(result, Circuit):
        return None
    if isinstance(result, NodeScores):
        sizes, most = result.values.abs().flatten(), 10
    else:
        sizes, most = result.values[result.graph.edge_mask].abs(), len(circuit or ()) or 100
    real = int((sizes > NEGLIGIBLE * sizes.max()).sum())
    return max(1, min(most, len(sizes) // 2, real))
