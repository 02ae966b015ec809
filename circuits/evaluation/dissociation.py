"""Specificity: does a circuit serve its own task only?

Each circuit is ablated in the model (all other edges are kept), and every task is measured without it, beside random circuits of
equal size and layers. Circuits of different tasks share edges, often the strongest ones, so the same is measured for each circuit
without the *core*: the edges that are in all circuits, or in a share of them. `circuits.evaluation.dissociation_statistics` defines
the effects and the test of double dissociations (Shallice 1988; for circuits we know of no published one).

*Places.* A circuit over places is ablated at its places on prompts that have these spans, and at all tokens on other prompts. So a
task with other spans loses at least the same edges, which does not favour the circuit's own task. The core of circuits with
different places consists of edges without places; it is taken out of a circuit wherever it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import InputError
from circuits.evaluation.dissociation_statistics import Effects, Measured, effects, least_prompts
from circuits.evaluation.faithfulness import measure_circuits
from circuits.measure.circuit_logits import resolved
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.provenance import finite
from circuits.results.random_circuits import distinct_rivals
from circuits.shown import Shown
from circuits.stats.bootstrap import check_level


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Dissociation(Shown):
    """The cost of ablating each circuit (row) for each task (column).

    Attributes:
        names: the tasks, each with its circuit.
        whole: effects of ablating whole circuits.
        specific: effects of ablating circuits without the core; None if there is no core.
        core: the edges in at least `core_share` of the circuits; without places if the circuits have different ones.
        core_share: that share.
        sizes: number of edges of each circuit; over places, of (edge, place) pairs.
        n_prompts: number of prompts of each task.
        undefined: why a task cannot be measured, by name: its metric has no range to divide by.
        margin, level: of the test of double dissociations.
        random_kind: how random circuits were drawn, see `circuits.results.random_circuits`.
        few_prompts: why no double dissociation can be shown; None if it can.
    """

    names: tuple[str, ...]
    whole: Effects
    specific: Effects | None
    core: Circuit
    core_share: float
    sizes: tuple[int, ...]
    n_prompts: tuple[int, ...]
    undefined: dict[str, str]
    margin: float
    level: float
    random_kind: str
    few_prompts: str | None

    @property
    def effect(self) -> Float[Tensor, "circuit task"]:
        """Share of each task that is lost without each circuit."""
        return self.whole.effect

    @property
    def low(self) -> Float[Tensor, "circuit task"]:
        """Lower end of the interval of `effect`."""
        return self.whole.low

    @property
    def high(self) -> Float[Tensor, "circuit task"]:
        """Upper end of the interval of `effect`."""
        return self.whole.high

    @property
    def chance(self) -> Float[Tensor, "circuit task"]:
        """Mean effect of random circuits of the size of each circuit."""
        return self.whole.chance

    @property
    def double(self) -> tuple[tuple[str, str], ...]:
        """Doubly dissociated tasks: each suffers more from the loss of its own circuit than from the loss of the other."""
        return self._named(self.whole)

    @property
    def double_without_core(self) -> tuple[tuple[str, str], ...]:
        """The same for circuits without the core; empty if there is no core."""
        return () if self.specific is None else self._named(self.specific)

    def _named(self, losses: Effects) -> tuple[tuple[str, str], ...]:
        return tuple((self.names[i], self.names[j]) for i, j in losses.double)

    def rows(self) -> list[dict[str, Any]]:
        """One row per circuit and task."""
        rows = []
        for part, losses in (("whole", self.whole), ("without the core", self.specific)):
            for i, circuit in enumerate(self.names if losses is not None else ()):
                assert losses is not None
                for j, task in enumerate(self.names):
                    at = {
                        name: finite(float(getattr(losses, name)[i, j]))
                        for name in ("effect", "low", "high", "chance", "chance_p", "double_p")
                    }
                    rows.append({"circuit": circuit, "part": part, "task": task, **at})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "names": list(self.names), "sizes": list(self.sizes), "n_prompts": list(self.n_prompts), "margin": self.margin,
            "level": self.level, "random_circuits": self.random_kind, "core": list(self.core.edges), "core_share": self.core_share,
            "double": [list(pair) for pair in self.double],
            "double_without_core": [list(pair) for pair in self.double_without_core],
            "undefined": dict(self.undefined), "few_prompts": self.few_prompts, "effects": self.rows(),
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"Dissociation({self})"

    def __str__(self) -> str:
        pairs = len(self.names) * (len(self.names) - 1) // 2
        few = f"; {self.few_prompts}" if self.few_prompts else ""
        without = (
            f"; {len(self.double_without_core)} without the core of {len(self.core)} edges" if self.specific else ""
        )
        return f"{len(self.names)} tasks: {len(self.double)} of {pairs} pairs doubly dissociated{without}{few}"


@on_model
def dissociate(
    tasks: Mapping[str, tuple[PromptPairs, Circuit]],
    model: Model,
    *,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    core: float = 1.0,
    n_random: int = 20,
    random_kind: str = "same_layers",
    margin: float = 0.1,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Dissociation:
    """Ablates each task's circuit and measures every task.

    Args:
        tasks: name -> pairs and circuit; all of one model. Use pairs on which the circuits were not found.
        model: a loaded model.
        metric: of all tasks; None: each task's own.
        ablation: what replaces the values of a circuit's edges.
        core: share of the circuits that an edge must be in to belong to the core (1: all of them, at least two).
        n_random: random circuits for each circuit; 0: none.
        random_kind: how they are drawn: `same_layers` (the circuit with the heads of each layer exchanged) or `connected`.
        margin: share of a task by which its own circuit must cost more than another one.
        level: of the intervals, and 1 - the probability of naming any double dissociation that is not there.
        resamples: of the intervals over prompts.
        seed: of the random circuits and of the intervals.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (evaluations done, in total).

    Raises:
        InputError: fewer than two tasks, a circuit of another graph or without edges, or a number out of range.
    """
    check_tasks({name: circuit for name, (_, circuit) in tasks.items()}, model)
    questions = {
        name: (Question.ask(model, pairs, metric, ablation, batch_size), circuit)
        for name, (pairs, circuit) in tasks.items()
    }
    plan = Plan.draw([circuit for _, circuit in tasks.values()], core, n_random, random_kind, seed)
    total, done, measured = sum(len(pairs) for pairs, _ in tasks.values()), 0, []
    for question, _ in questions.values():

        def moved(answered: int, among: int, before: int = done, n: int = len(question.pairs)) -> None:
            if progress is not None:
                progress(before + n * answered // among, total)

        measured.append(plan.measure(question, moved))
        done += len(question.pairs)
    return judged(plan, tuple(tasks), measured, margin, level, resamples, seed)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is measured on each task.

    Attributes:
        circuits: the circuits.
        core, core_share: see `Dissociation`.
        rest: the circuits without the core; empty if there is no core.
        rivals, rest_rivals: random circuits of each circuit, and of each rest.
        random_kind: how they were drawn.
    """

    circuits: tuple[Circuit, ...]
    core: Circuit
    core_share: float
    rest: tuple[Circuit, ...]
    rivals: tuple[tuple[Circuit, ...], ...]
    rest_rivals: tuple[tuple[Circuit, ...], ...]
    random_kind: str

    @classmethod
    def draw(cls, circuits: Sequence[Circuit], core_share: float, n_random: int, random_kind: str, seed: int) -> "Plan":
        """Draws the random circuits.

        Raises:
            InputError: a share that is not above 0, an unknown kind, or a negative number.
        """
        core = shared_core(circuits, core_share)
        rest = tuple(circuit - core for circuit in circuits) if len(core) else ()
        drawn = [
            tuple(tuple(distinct_rivals(one, n_random, random_kind, seed, ablated=True)) for one in part)
            for part in (circuits, rest)
        ]
        return cls(tuple(circuits), core, core_share, rest, drawn[0], drawn[1], random_kind)

    @property
    def ablated(self) -> Iterator[Circuit]:
        """All circuits that are ablated, in order."""
        yield from self.circuits
        yield from self.rest
        for drawn in (*self.rivals, *self.rest_rivals):
            yield from drawn

    def measure(self, question: Question, progress: Progress | None = None) -> dict[str, Tensor]:
        """The metric of one task with everything, with nothing, and without each circuit, as tensors that can be stored."""
        graph = question.model.graph
        kept = [
            Circuit.full(graph),
            Circuit.empty(graph),
            *(all_but(circuit, question.pairs) for circuit in self.ablated),
        ]
        measured = measure_circuits(question, kept, progress)
        whole = 2 + len(self.circuits) + len(self.rest)
        return {
            "values": measured.values[:whole].clone(), "random": measured.values[whole:].mean(1), "rounding": measured.rounding
        }  # fmt: skip

    def parts(self, stored: Mapping[str, Tensor]) -> tuple[Measured, Measured | None]:
        """What `measure` gave, of whole circuits and of their rests."""
        clean, ablated, *without = stored["values"]
        n = len(self.circuits)
        sizes = [len(drawn) for drawn in (*self.rivals, *self.rest_rivals)]
        random = stored["random"].split(sizes)
        made = [
            Measured(clean, ablated, torch.stack(part), drawn, stored["rounding"])
            for part, drawn in ((without[:n], random[:n]), (without[n:], random[n:])) if part
        ]  # fmt: skip
        return made[0], made[1] if len(made) > 1 else None


def judged(
    plan: Plan,
    names: tuple[str, ...],
    measured: Sequence[Mapping[str, Tensor]],
    margin: float,
    level: float,
    resamples: int = 1000,
    seed: int = 0,
) -> Dissociation:
    """The result of what was measured on each task."""
    check_level(level)
    if not 0 <= margin < 1:
        raise InputError(f"margin is a share of a task, at least 0 and below 1; got {margin}")
    parts = [plan.parts(stored) for stored in measured]
    wholes = [whole for whole, _ in parts]
    whole = effects(wholes, margin, level, resamples, seed)
    rest = [rest for _, rest in parts if rest is not None]
    sizes = tuple(len(task.clean) for task in wholes)
    needed = least_prompts(len(names), level)
    few = f"{min(sizes)} prompts of a task are too few to show a double dissociation; at least {needed} are needed"
    return Dissociation(
        names, whole, effects(rest, margin, level, resamples, seed) if rest else None, plan.core, plan.core_share,
        tuple(map(len, plan.circuits)), sizes,
        {name: why for name, (task, _) in zip(names, parts, strict=True) if (why := task.metric_range.undefined) is not None},
        margin, level, plan.random_kind, few if min(sizes) < needed else None,
    )  # fmt: skip


def all_but(circuit: Circuit, pairs: PromptPairs) -> Circuit:
    """Everything outside a circuit: at its places if the prompts have them, otherwise without its edges at any token."""
    try:
        resolved(~circuit, pairs)
    except InputError:  # these prompts have other spans
        return ~circuit.without_places()
    return ~circuit


def of_one_graph(circuits: Sequence[Circuit]) -> list[Circuit]:
    """The circuits, without places unless all have the same."""
    alike = all(circuit.graph == circuits[0].graph for circuit in circuits)
    return list(circuits) if alike else [circuit.without_places() for circuit in circuits]


def shared_core(circuits: Sequence[Circuit], share: float = 1.0) -> Circuit:
    """The edges that are in at least this share of the circuits, and in at least two.

    Raises:
        InputError: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise InputError(f"core is the share of circuits that an edge must be in, above 0 and at most 1; got {share}")
    alike = of_one_graph(circuits)
    counts = torch.stack([circuit.mask for circuit in alike]).sum(0)
    return Circuit(alike[0].graph, counts >= max(2.0, share * len(circuits) - 1e-9))


def check_tasks(tasks: Mapping[str, Circuit], model: Model | None = None) -> None:
    """Refuses fewer than two circuits, circuits of several graphs, and empty ones."""
    if len(tasks) < 2:
        raise InputError(f"at least two tasks, each with its circuit, are compared; got {len(tasks)}")
    first, graph = next((name, circuit.graph) for name, circuit in tasks.items())
    for name, circuit in tasks.items():
        if model is not None and circuit.graph.base != model.graph:
            raise InputError(
                f"the circuit of {name} belongs to another graph ({circuit.graph}) than {model.name} ({model.graph})"
            )
        if circuit.graph.base != graph.base:
            raise InputError(
                f"the circuit of {name} belongs to another graph ({circuit.graph}) than that of {first} ({graph})"
            )
        if not len(circuit):
            raise InputError(f"the circuit of {name} has no edges; choose more edges")
