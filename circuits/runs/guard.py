"""Has a model still the circuit of a run? For tests of people who train or compress models."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from circuits.errors import InputError
from circuits.evaluation.faithfulness import Faithfulness, faithfulness_of
from circuits.evaluation.intervals import share_interval
from circuits.evaluation.transfer import ChangedEdge, changed_edges, too_few
from circuits.model import Model
from circuits.model_calls import using
from circuits.prompts.pairs import PromptPairs
from circuits.question.question import Question
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.runs.again import asked_about, own_result, what_was_asked
from circuits.runs.directory import RunDirectory
from circuits.runs.discover import discover
from circuits.runs.files import CONFIG_FILE
from circuits.runs.read import Run, read_run
from circuits.runs.result import Discovery

SHOWN = 10
"""Changed edges in the text."""


@dataclass(frozen=True, eq=False)
class GuardReport:
    """What a guard found.

    Attributes:
        run: the run directory.
        model: the model that was checked.
        faithfulness: of the run's circuit in this model.
        low, high: its interval over prompts, see `circuits.stats.ratio`.
        before: the faithfulness that the run recorded.
        overlap: Jaccard overlap of the circuit that the run's method finds in this model with the run's; None if not requested.
        missing: named edges that this circuit lacks.
        changed: edges whose effects differ from the run's; None if they were not compared.
        failures: what does not hold, a line each; empty: the model still has the circuit.
    """

    run: Path
    model: str
    faithfulness: Faithfulness
    low: float
    high: float
    before: float | None
    overlap: float | None
    missing: tuple[str, ...]
    changed: tuple[ChangedEdge, ...] | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        before = "" if self.before is None else f" (recorded: {self.before:.3f})"
        lines = [
            f"circuit of {self.run} in {self.model}: {'passed' if self.passed else 'FAILED'}",
            f"  faithfulness {self.faithfulness.value:.3f} [{self.low:.3f}, {self.high:.3f}]{before}",
        ]
        if self.overlap is not None:
            lines.append(f"  overlap with the circuit found again: {self.overlap:.3f}")
        if self.changed is not None:
            lines.append(
                f"  {len(self.changed)} edges changed, {sum(e.in_circuit for e in self.changed)} of them in the circuit"
            )
            lines += [f"    {e.edge}: {e.before:+.4f} -> {e.after:+.4f} (p = {e.p:.3g})" for e in self.changed[:SHOWN]]
        return "\n".join([*lines, *(f"  failed: {why}" for why in self.failures)])


def check_model(
    path: str | Path,
    model: Model,
    *,
    faithfulness: float | None = None,
    overlap: float | None = None,
    edges: Collection[str] = (),
    level: float = 0.95,
    seed: int = 0,
) -> GuardReport:
    """Checks whether a model has the circuit of a run, on the run's own pairs.

    Args:
        path: the run directory; its pairs are token ids, so the model must have the vocabulary of the run's.
        model: the model to test.
        faithfulness: the lower end of the interval of the circuit's faithfulness must be at least this.
        overlap: the run's method, run again on this model, must find a circuit with at least this Jaccard overlap.
        edges: names of edges that this circuit must have.
        level: of the interval, and 1 - the probability of naming any edge as changed that is not.
        seed: of the interval and the test of edges.

    Raises:
        InputError: nothing is requested, or the run has no circuit, is damaged, or is of another graph.
    """
    if faithfulness is None and overlap is None and not edges:
        raise InputError("a guard needs something to hold: faithfulness, overlap or edges")
    for name, value in (("faithfulness", faithfulness), ("overlap", overlap)):
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{name} must be between 0 and 1, got {value}")
    run, circuit = _read(path, model)
    for edge in edges:
        circuit.graph.named(edge)  # raises for a name that no edge has
    pairs = PromptPairs.from_jsonl(run.path / "pairs.jsonl", model, trust_ids=True)
    metric, ablation = asked_about(run)
    with using(model):
        measured = faithfulness_of(Question.ask(model, pairs, metric, ablation), circuit, n_random=0)
        again = _found_again(run, model, pairs) if overlap is not None or edges else None
    ends = share_interval(measured.circuit[None], measured.clean, measured.ablated, measured.rounding, level, seed=seed)
    low, high = (float(end) for end in ends)
    shared = None if again is None else _jaccard(circuit, again.circuit)
    missing = () if again is None else tuple(edge for edge in edges if edge not in again.circuit)
    failures = []
    if faithfulness is not None and not low >= faithfulness:
        failures.append(
            f"faithfulness {measured.value:.3f} with the interval [{low:.3f}, {high:.3f}]; its lower end must be at least {faithfulness:g}"
        )
    if overlap is not None and shared is not None and shared < overlap:
        failures.append(f"overlap {shared:.3f}, must be at least {overlap:g}")
    failures += [f"edge {edge} is not in the circuit that is found now" for edge in missing]
    changed = None if again is None else _changed(run, circuit, again, level, seed)
    return GuardReport(
        run.path, model.name, measured, low, high, run.faithfulness, shared, missing, changed, tuple(failures)
    )  # fmt: skip


def update_run(path: str | Path, model: Model) -> Path:
    """Replaces a run by one of the same options and pairs on this model.

    Raises:
        InputError: see `check_model`.
    """
    directory = RunDirectory(path, overwrite=True)
    with directory.claimed():
        run, _ = _read(path, model)
        config = run.path / CONFIG_FILE
        more = {CONFIG_FILE: config.read_text(encoding="utf-8")} if config.is_file() else {}
        pairs = PromptPairs.from_jsonl(run.path / "pairs.jsonl", model, trust_ids=True)
        directory.check_free()
        return directory.write(_found_again(run, model, pairs, test=True), pairs, more)


def _read(path: str | Path, model: Model) -> tuple[Run, Circuit]:
    run = read_run(path)
    circuit = next(iter(run.circuits.values()), None)
    if circuit is None:
        raise InputError(f"{run.path} holds scores of nodes and no circuit; give a run of a method for edges")
    if circuit.graph.base != model.graph:
        raise InputError(
            f"the circuit of {run.path} belongs to another graph ({circuit.graph}) than {model.name} ({model.graph})"
        )
    return run, circuit


def _found_again(run: Run, model: Model, pairs: PromptPairs, test: bool = False) -> Discovery:
    """The run's method with all its options, on this model."""
    from circuits.methods.catalogue import method as find_method

    asked = what_was_asked(run)
    recorded: dict[str, Any] = run.record["options"]
    given = {name: recorded[name] for name in find_method(asked.method).options if recorded.get(name) is not None}
    discovery = discover(
        model, pairs, method=asked.method, metric=asked.metric, ablation=asked.ablation, seed=asked.seed, test=test,
        **{**given, **asked.options},
    )  # fmt: skip
    assert isinstance(discovery, Discovery)
    return discovery


def _jaccard(one: Circuit, other: Circuit) -> float:
    either = len(one | other)
    return len(one & other) / either if either else 1.0


def _changed(run: Run, circuit: Circuit, again: Discovery, level: float, seed: int) -> tuple[ChangedEdge, ...] | None:
    before, after = own_result(run), again.ranked
    if not isinstance(before, EdgeScores) or after is None or before.per_prompt is None or after.per_prompt is None:
        return None
    if too_few(before, after) is not None:
        return None
    with torch.no_grad():
        return changed_edges(circuit, before, after, level, 999, seed)
