"""Would the run have found the same, had it been asked a little differently? One thing is changed at a time.

| what | changed to |
|---|---|
| `pairs` | as many pairs, drawn with two other seeds from the run's task |
| `seed` | two other seeds, where the method or the ablation draws anything |
| a method's option | what its declaration says: for integrated gradients twice as many `steps`, for COAR half and twice the `alpha` |
| `ablation` | each other one that the method takes |
| `metric` | each other one that the pairs support: of logits, probabilities and KL (edge pruning: the objective) |

All results are compared with each other (`circuits.stability`). Each costs a run of the method; what would take too long is left
out, a row of this table at a time, and told.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from circuits.errors import InputError
from circuits.evaluation.randomisation import Found
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
from circuits.runs.again import Asked

ABLATIONS = ("interchange", "zero", "mean", "mean_positional", "resample")
METRICS = ("logit_difference", "probability", "log_probability", "probability_difference", "kl_divergence")
"""Those that say something of their own: cross entropy is minus the log probability; ranks and accuracy are counts."""
OTHER_SEEDS = 2
OWN = "as it was run"


@dataclass(frozen=True)
class Change:
    """One thing changed.

    Attributes:
        name: what to.
        given: what `Asked.again` is given.
        cost: in runs of the method.
        pairs_seed: other pairs, of this seed; None: the run's own.
    """

    name: str
    given: Mapping[str, Any]
    cost: float = 1.0
    pairs_seed: int | None = None


@dataclass(frozen=True, eq=False)
class Variations:
    """What the method found in each case.

    Attributes:
        k: how many of the strongest are compared; None for circuits.
        found: by name, the run's own first.
        changed: what was changed in each of the others.
    """

    k: int | None
    found: dict[str, Found]
    changed: dict[str, str] = field(default_factory=dict)

    def compared(self, axis: str | None = None) -> Stability:
        """Of all, or of the run's own and those in which one thing was changed."""
        chosen = [name for name in self.found if name == OWN or axis in (None, self.changed[name])]
        return stability({name: self.found[name] for name in chosen}, self.k)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        every = self.compared()
        axes = list(dict.fromkeys(self.changed.values()))
        return {
            "k": self.k, "of": every.of, "runs": list(every.runs), "always": list(every.always),
            "jaccard": every.jaccard.tolist(), "rank": [[finite(x) for x in row] for row in every.rank.tolist()],
            "by": {axis: _axis(self.compared(axis)) for axis in axes},
        }  # fmt: skip


def _axis(of: Stability) -> dict[str, Any]:
    return {
        "runs": len(of.runs), "jaccard": of.mean_jaccard, "rank": finite(of.mean_rank), "always": len(of.always)
    }  # fmt: skip


def changes(asked: Asked) -> dict[str, list[Change]]:
    """All that can be changed, by axis."""
    method, made = find_method(asked.method), dict[str, list[Change]]()
    made["pairs"] = [Change(f"other pairs, {i}", {}, pairs_seed=i) for i in range(1, OTHER_SEEDS + 1)]
    if method.draws or asked.ablation.name in ("gaussian", "resample"):
        made["seed"] = [_seed(asked, asked.seed + i) for i in range(1, OTHER_SEEDS + 1)]
    options = {name: option.default for name, option in method.options.items()} | {**method.fixed, **asked.options}
    for name, option in method.options.items():
        if option.vary is not None:
            made[name] = [
                Change(shown, {name: value}, cost) for shown, value, cost in option.vary.values(options, name)
            ]
    if "ablation" not in method.unasked:
        made["ablation"] = [Change(name, {"ablation": name}) for name in ABLATIONS if name != asked.ablation.name]
    if "metric" not in method.unasked:
        made["metric"] = _metrics(asked, method)
    return {axis: some for axis, some in made.items() if some}


def _seed(asked: Asked, seed: int) -> Change:
    """Of the method's draws, and of its ablation's."""
    given: dict[str, Any] = {"seed": seed}
    if isinstance(asked.ablation, Resample):
        given["ablation"] = Resample(seed)
    elif isinstance(asked.ablation, Gaussian):
        given["ablation"] = Gaussian(asked.ablation.tokens, asked.ablation.scale, seed)
    return Change(f"seed {seed}", given)


def _metrics(asked: Asked, method: Declared) -> list[Change]:
    """A method that has a metric of its own is asked about others by that option."""
    own_option = next((name for name, option in method.options.items() if option.kind is Kind.METRIC), None)
    option = "metric" if own_option is None else own_option
    own = asked.metric if own_option is None else str(asked.options.get(option, method.options[option].default))
    same = {"cross_entropy": "log_probability"}.get(own, own)
    return [Change(name, {option: name}) for name in METRICS if name != same]


def vary(
    asked: Asked,
    own: Found,
    model: Model,
    pairs: PromptPairs,
    *,
    k: int | None,
    at_most: float,
    skipped: dict[str, str],
    stage: StageProgress,
    batch_size: int | None = None,
) -> Iterator[Variations]:
    """Runs the method again, what is quick or matters most first; after each axis, all that is there.

    Args:
        asked: what the run was asked.
        own: what it found.
        model, pairs: the run's own.
        k: how many of the strongest are compared.
        at_most: seconds that all of it may take, by what the run itself took.
        skipped: filled in with what was not done, and why.
        stage: progress reporting.
        batch_size: pairs at a time.
    """
    found, changed, planned = {OWN: own}, {}, 0.0
    for axis, some in changes(asked).items():
        told = f"stability, other {axis if axis in ('pairs', 'steps') else f'{axis}s'}"
        cost = asked.seconds * sum(change.cost for change in some)
        why = _left_out(asked, axis, cost, planned, at_most)
        if why is not None:
            skipped[told] = why
            continue
        with stage(told) as progress:
            for done, change in enumerate(some):
                progress(done, len(some), change.name)
                try:
                    chosen = pairs if change.pairs_seed is None else _redrawn(pairs, model, change.pairs_seed)
                    result = asked.again(model, chosen, batch_size=batch_size, **change.given)
                    stability({OWN: own, change.name: result}, k)  # refuses other nodes or positions
                except InputError as reason:
                    skipped[told if axis == "pairs" else f"stability, {axis} {change.name}"] = str(reason)
                else:
                    found[change.name], changed[change.name] = result, axis
                    planned += asked.seconds * change.cost
            progress(len(some), len(some))
        if len(found) > 1:
            yield Variations(k, dict(found), dict(changed))


def _left_out(asked: Asked, axis: str, cost: float, planned: float, at_most: float) -> str | None:
    """Why an axis is not measured; None: it is."""
    if axis == "metric":
        for name, option in find_method(asked.method).options.items():
            if option.metric_units and name in asked.options:
                return f"the {option.spelled} is in the unit of the metric"
    if planned + cost > at_most:
        return too_long(cost, at_most, "stability")
    return None


def too_long(cost: float, at_most: float, part: str) -> str:
    """Why a part is left out, and how to have it."""
    return (
        f"running the method again would take about {_minutes(cost)}; unless it is asked for (--parts {part}), {part} takes no "
        f"more than {_minutes(at_most)} in all"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _redrawn(pairs: PromptPairs, model: Model, other: int) -> PromptPairs:
    """As many pairs of the run's task, of another seed.

    Raises:
        InputError: they are from no task, or from one that gives other pairs today.
    """
    if pairs.seed is not None:
        for options in ({}, {"one_length": True}):
            with suppress(InputError):
                task = load_task(pairs.source)
                if task.pairs(model, n=len(pairs), seed=pairs.seed, **options).digest() == pairs.digest():
                    return task.pairs(model, n=len(pairs), seed=pairs.seed + other, **options)
    raise InputError(f"the pairs ({pairs.source}) are not a task's as it draws them, so that no others can be drawn")
