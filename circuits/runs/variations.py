"""How stable a run is: its method is run again, with one thing changed at a time.

| what | changed to |
|---|---|
| `pairs` | as many pairs, drawn with two other seeds from the run's task |
| `seed` | two other seeds, if the method or the ablation draws random numbers |
| a method's option | as its declaration says: for integrated gradients twice the `steps`, for COAR half and twice the `alpha` |
| `ablation` | each other ablation that the method takes |
| `metric` | each other metric that the pairs support: of logits, probabilities and KL (edge pruning: the objective) |

All results are compared with each other (`circuits.stability`). Each costs a run of the method; rows of this table that would take
too long are left out and reported.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from circuits.errors import InputError
from circuits.evaluation.randomisation import MethodResult
from circuits.evaluation.stability import Stability, stability
from circuits.methods.catalogue import method as find_method
from circuits.methods.method import Declared
from circuits.methods.options import Kind
from circuits.model import Model
from circuits.plugins import load_task
from circuits.progress import StageProgress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import Gaussian, Resample
from circuits.results.provenance import finite
from circuits.runs.again import RunRequest

ABLATIONS = ("interchange", "zero", "mean", "mean_positional", "resample")
METRICS = ("logit_difference", "probability", "log_probability", "probability_difference", "kl_divergence")
"""Without duplicates and counts: cross entropy is minus the log probability; ranks and accuracy are counts."""
OTHER_SEEDS = 2
OWN = "as it was run"


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        name: the new value, in words.
        given: arguments of `RunRequest.again`.
        cost: cost in runs of the method.
        pairs_seed: seed of other pairs; None: the run's own pairs.
    """

    name: str
    given: Mapping[str, Any]
    cost: float = 1.0
    pairs_seed: int | None = None


@dataclass(frozen=True, eq=False)
class Variations:
    """The result of the method in each case.

    Attributes:
        k: how many of the strongest are compared; None for circuits.
        results: results by name, the run's own first.
        changed: for each other result, what was changed.
    """

    k: int | None
    results: dict[str, MethodResult]
    changed: dict[str, str] = field(default_factory=dict)

    def compared(self, axis: str | None = None) -> Stability:
        """Stability over all results, or over the run's own and those with this change."""
        chosen = [name for name in self.results if name == OWN or axis in (None, self.changed[name])]
        return stability({name: self.results[name] for name in chosen}, self.k)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        every = self.compared()
        axes = list(dict.fromkeys(self.changed.values()))
        return {
            "k": self.k, "of": every.unit, "runs": list(every.runs), "always": list(every.always),
            "jaccard": every.jaccard.tolist(), "rank": [[finite(x) for x in row] for row in every.rank.tolist()],
            "by": {axis: _axis(self.compared(axis)) for axis in axes},
        }  # fmt: skip


def _axis(some: Stability) -> dict[str, Any]:
    always, rank = len(some.always), finite(some.mean_rank)
    return {"runs": len(some.runs), "jaccard": some.mean_jaccard, "rank": rank, "always": always}


def changes(asked: RunRequest) -> dict[str, list[Change]]:
    """All changes that can be made, by axis."""
    method, made = find_method(asked.method), dict[str, list[Change]]()
    made["pairs"] = [Change(f"other pairs, {i}", {}, pairs_seed=i) for i in range(1, OTHER_SEEDS + 1)]
    if method.draws or asked.ablation.name in ("gaussian", "resample"):
        made["seed"] = [_seed(asked, asked.seed + i) for i in range(1, OTHER_SEEDS + 1)]
    options = {name: option.default for name, option in method.options.items()} | {**method.fixed, **asked.options}
    for name, option in method.options.items():
        if option.vary is not None:
            varied = option.vary.values(options, name)
            made[name] = [Change(shown, {name: value}, cost) for shown, value, cost in varied]
    if "ablation" not in method.unasked:
        made["ablation"] = [Change(name, {"ablation": name}) for name in ABLATIONS if name != asked.ablation.name]
    if "metric" not in method.unasked:
        made["metric"] = _metrics(asked, method)
    return {axis: some for axis, some in made.items() if some}


def _seed(asked: RunRequest, seed: int) -> Change:
    """Another seed for the method and for its ablation."""
    given: dict[str, Any] = {"seed": seed}
    if isinstance(asked.ablation, Resample):
        given["ablation"] = Resample(seed)
    elif isinstance(asked.ablation, Gaussian):
        given["ablation"] = Gaussian(asked.ablation.tokens, asked.ablation.scale, seed)
    return Change(f"seed {seed}", given)


def _metrics(asked: RunRequest, method: Declared) -> list[Change]:
    """Other metrics; a method with a metric of its own takes them by that option."""
    own_option = next((name for name, option in method.options.items() if option.kind is Kind.METRIC), None)
    option = "metric" if own_option is None else own_option
    own = asked.metric if own_option is None else str(asked.options.get(option, method.options[option].default))
    same = {"cross_entropy": "log_probability"}.get(own, own)
    return [Change(name, {option: name}) for name in METRICS if name != same]


def vary(
    asked: RunRequest,
    own: MethodResult,
    model: Model,
    pairs: PromptPairs,
    *,
    k: int | None,
    at_most: float,
    skipped: dict[str, str],
    stage: StageProgress,
    batch_size: int | None = None,
) -> Iterator[Variations]:
    """Runs the method again, quick and important changes first; yields all results so far after each axis.

    Args:
        asked: the arguments of the run.
        own: the result of the run.
        model, pairs: the run's own.
        k: how many of the strongest are compared.
        at_most: seconds that all of it may take, predicted from the time of the run.
        skipped: filled in with what was not done, and why.
        stage: progress reporting.
        batch_size: pairs per batch.
    """
    results, changed, planned = {OWN: own}, {}, 0.0
    for axis, some in changes(asked).items():
        title = f"stability, other {axis if axis in ('pairs', 'steps') else f'{axis}s'}"
        cost = asked.seconds * sum(change.cost for change in some)
        why = _left_out(asked, axis, cost, planned, at_most)
        if why is not None:
            skipped[title] = why
            continue
        with stage(title) as progress:
            for done, change in enumerate(some):
                progress(done, len(some), change.name)
                try:
                    chosen = pairs if change.pairs_seed is None else _redrawn(pairs, model, change.pairs_seed)
                    result = asked.again(model, chosen, batch_size=batch_size, **change.given)
                    stability({OWN: own, change.name: result}, k)  # refuses other nodes or positions
                except InputError as reason:
                    skipped[title if axis == "pairs" else f"stability, {axis} {change.name}"] = str(reason)
                else:
                    results[change.name], changed[change.name] = result, axis
                    planned += asked.seconds * change.cost
            progress(len(some), len(some))
        if len(results) > 1:
            yield Variations(k, dict(results), dict(changed))


def _left_out(asked: RunRequest, axis: str, cost: float, planned: float, at_most: float) -> str | None:
    """Why an axis is left out; None: it is measured."""
    if axis == "metric":
        for name, option in find_method(asked.method).options.items():
            if option.metric_units and name in asked.options:
                return f"the {option.spelled} is in the unit of the metric"
    if planned + cost > at_most:
        return too_long(cost, at_most, "stability")
    return None


def too_long(cost: float, at_most: float, part: str) -> str:
    """Why a part is left out, and how to include it."""
    return (
        f"running the method again would take about {_minutes(cost)}, and by default {part} stops at {_minutes(at_most)} in all; "
        f"--parts {part} includes it"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _redrawn(pairs: PromptPairs, model: Model, other: int) -> PromptPairs:
    """As many pairs of the run's task, with another seed.

    Raises:
        InputError: the pairs are not from a task, or the task has changed since.
    """
    if pairs.seed is not None:
        for options in ({}, {"one_length": True}):
            with suppress(InputError):
                task = load_task(pairs.source)
                if task.pairs(model, n=len(pairs), seed=pairs.seed, **options).digest() == pairs.digest():
                    return task.pairs(model, n=len(pairs), seed=pairs.seed + other, **options)
    raise InputError(f"no other pairs can be drawn: no task draws the run's pairs ({pairs.source}) now")
