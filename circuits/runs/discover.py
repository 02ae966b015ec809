"""From a model and pairs to scored edges and a tested circuit, or to scored nodes: what `circuits discover` does.

The command line only parses and prints, so a notebook can do the same in one call. Options of another method are refused, never
ignored. What follows a method depends on its result: scores of edges, scores of nodes, or a circuit.
"""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from circuits.dictionaries.insert import with_dictionaries
from circuits.dictionaries.named import named_dictionaries
from circuits.errors import AttributionWarning, InputError
from circuits.evaluation.faithfulness import Faithfulness, faithfulness_of
from circuits.graph.graph import Graph
from circuits.methods.catalogue import USUAL, check_divided, check_noise, check_reference
from circuits.methods.catalogue import method as find_method
from circuits.methods.method import OF_PIPELINE, Declared, Method
from circuits.methods.options import CHOICE, DICTIONARY, RANDOM_CIRCUITS, Kind
from circuits.methods.refine import refine_of
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import StageProgress, StageReport, silent
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import Ablation, AblationLike, Gaussian, Optimal, OverReference, Resample, get_ablation
from circuits.question.answers import watched
from circuits.question.doubts import about_answers, collected, doubt, same_up_to_answer
from circuits.question.places import EACH, SPANS, covering_axis
from circuits.question.question import Question, look
from circuits.results.choice import check_choice
from circuits.results.circuit import Circuit
from circuits.results.edge_scores import EdgeScores
from circuits.runs.features import found_features
from circuits.runs.result import Discovery, NodeDiscovery
from circuits.viewer.prompts import shown_prompts
from circuits.workers.workers import Workers

MOST_EDGES = 200
"""Edges that are chosen or refined by default; in a smaller graph, all."""
PAST_THE_MODEL = 1.1
"""A circuit with more faithfulness than this is reported as better than the model."""


@on_model
def discover(
    model: Model,
    pairs: PromptPairs,
    *,
    method: str = USUAL,
    metric: str | None = None,
    ablation: AblationLike | None = None,
    noise_tokens: Sequence[str] | None = None,
    reference: PromptPairs | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    stage: StageProgress = silent,
    workers: Workers | None = None,
    test: bool = True,
    store: str | Path | None = None,
    **options: Any,
) -> Discovery | NodeDiscovery:
    """Scores all edges, chooses a circuit and tests it; or scores nodes.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        method: one of `circuits.methods.catalogue.METHODS`.
        metric: None: the one that the task prefers.
        ablation: what replaces an ablated value; None: the method's default (`interchange` for most).
        noise_tokens: roles whose embeddings `gaussian` ablation disturbs; None: the tokens that differ.
        reference: pairs whose clean prompts make the means of `mean`, `mean_positional` and `optimal`; None: `pairs`.
        seed: random seed, for random circuits, noise, resampling and the method itself.
        batch_size: pairs per batch; None: chosen by size.
        stage: progress reporting.
        workers: processes that measure, for methods that can be divided; None: this process.
        test: whether to test the circuit; without, its faithfulness is NaN.
        store: a directory for the record of a method that keeps one; a killed run with the same store is resumed.
        options: options of the method, see `docs/options.md`.

    Raises:
        InputError: an option cannot be used, or belongs to another method.

    Warns:
        PairsWarning: the model does not do the task, or the pairs tell little; also in `warnings` of the result.
    """
    chosen = _method(method, options, workers, store)
    replacement = choose_ablation(ablation or chosen.ablation, noise_tokens, seed, reference)
    with collected() as about_pairs, watched(len(pairs), model.d_vocab) as answers:
        model, given = _given(model, chosen, options)
        question = Question.ask(model, pairs, metric, replacement, batch_size)
        result = _PIPELINES[chosen.gives](_Job(question, chosen, given, seed, stage, test, workers, store))
        if test:
            look(question)
            doubt(about_answers(model, pairs, answers))
    doubt(about_pairs)
    if test and isinstance(result, Discovery):
        result = replace(result, prompts=shown_prompts(model, pairs, [result.circuit]))
    ready = question.ablation
    return replace(
        result, answers=answers if answers.complete else None, warnings=tuple(about_pairs), pairs_differ=_differ(question),
        reference=replacement.reference if isinstance(replacement, OverReference) else None,
        constants=ready.constants if isinstance(ready, Optimal) else None,
    )  # fmt: skip


def _method(name: str, options: Mapping[str, Any], workers: Workers | None, store: str | Path | None) -> Method:
    """The method of that name; refuses options, workers and a store that it cannot use."""
    chosen = find_method(name)
    chosen.check(options)
    if workers is not None:
        check_divided(name)
    if store is not None and not chosen.keeps_record(options):
        raise InputError(f"method {name} keeps no record with these options; leave store out")
    return chosen


def _given(model: Model, chosen: Method, options: Mapping[str, Any]) -> tuple[Model, dict[str, Any]]:
    """The model with its dictionaries, and all options of a method. With dictionaries, the nodes are their features unless others
    are named."""
    names = options.get(DICTIONARY.name)
    given: dict[str, Any] = {name: option.default for name, option in chosen.options.items()}
    given |= ({"nodes": "features"} if names else {}) | dict(options)
    return with_dictionaries(model, named_dictionaries(names or ())), given


def _differ(question: Question) -> bool:
    """Whether the prompts of some pair differ, or the ablation does not need that."""
    pairs = question.pairs
    return not question.ablation.needs_difference or len(same_up_to_answer(pairs)) < len(pairs)


def choose_ablation(
    ablation: AblationLike,
    noise_tokens: Sequence[str] | None = None,
    seed: int = 0,
    reference: PromptPairs | None = None,
) -> Ablation:
    """The ablation of that name, with its options.

    Raises:
        InputError: there is no such ablation, or it makes no noise and `noise_tokens` are given, or it is no mean and a
            `reference` is given.
    """
    chosen = get_ablation(ablation)
    check_reference(chosen.name, reference)
    if reference is not None:
        chosen = Ablation(chosen.name, reference=reference)
    if chosen is ablation and noise_tokens is None:
        return chosen
    check_noise(chosen.name, noise_tokens, seed)
    if isinstance(chosen, Gaussian):
        return Gaussian(tuple(noise_tokens or ()), chosen.scale, seed)
    if isinstance(chosen, Optimal):
        return replace(chosen, seed=seed)
    return Resample(seed) if isinstance(chosen, Resample) else chosen


@dataclass(frozen=True, eq=False)
class _Job:
    """A method, its question and its options.

    Attributes:
        question: model, pairs, metric and ablation, validated.
        method: the method.
        options: its options by name, defaults included.
        seed: the random seed.
        stage: progress reporting.
        test, workers, store: see `discover`.
        seconds: wall time per stage, filled in as the stages end.
    """

    question: Question
    method: Method
    options: Mapping[str, Any]
    seed: int
    stage: StageProgress
    test: bool
    workers: Workers | None
    store: str | Path | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str, stage: str) -> Iterator[StageReport]:
        start = time.perf_counter()
        with self.stage(stage) as progress:
            yield progress
        self.seconds[name] = round(time.perf_counter() - start, 3)

    @property
    def recorded(self) -> dict[str, Any]:
        """The options of the run, as JSON values."""
        options = {name: _plain(value) for name, value in self.options.items()}
        return {"method": self.method.name, **self.method.fixed, **options, "seed": self.seed}

    def call(self) -> tuple[Any, tuple[str, ...]]:
        """The method's result, and its warnings."""
        method, accepts = self.method, self.method.accepts
        given = {name: value for name, value in self.options.items() if name not in OF_PIPELINE[method.gives]}
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if method.options[name].kind is Kind.POSITIONS and given[name] == "all":
                given[name] = None
        offered = {"seed": self.seed, "store": self.store, "workers": self.workers, "timed": self.timed}
        with _warned() as notes, contextlib.ExitStack() as stage:
            if "timed" not in accepts:
                offered["progress"] = stage.enter_context(self.timed(*method.stage))
            given |= {**method.fixed} | {name: value for name, value in offered.items() if name in accepts}
            result = method.function(self.question, **given)
        return result, tuple(notes)


def _edges(job: _Job) -> Discovery:
    """Scores edges, chooses and tests a circuit."""
    question, how, top = job.question, job.options.get("refine"), job.options.get("refine_top")
    positions, destinations = job.options.get("positions"), bool(job.options.get("destinations"))
    covering = destinations or positions in (SPANS, EACH)
    axis = covering_axis(question.model.graph, question.pairs, positions, destinations) if covering else None
    choice = _Choice(question.model.graph if axis is None else axis.graph, job.options)
    scores, notes = job.call()
    scores = scores if axis is None or how is None else scores.over_places()
    if how is not None:
        top = MOST_EDGES if top is None else top
        with job.timed("refinement", "refining edges") as progress:
            scores = refine_of(job.question, scores, top=top, how=how, progress=progress)
    circuit = choice.circuit(scores if axis is None else scores.over_places())
    faith, accuracy = _tested(job, circuit)
    options = job.recorded | choice.recorded | ({} if how is None else {"refine_top": top})
    return Discovery(scores, circuit, faith, accuracy, options, job.seconds, remarks=notes)


def _nodes(job: _Job) -> NodeDiscovery:
    """Scores nodes; with dictionaries, also chooses and tests a circuit of them."""
    scores, notes = job.call()
    features = None
    if job.test and job.options.get(DICTIONARY.name):
        with job.timed("evaluation", "testing the circuit"):
            features = found_features(job.question, scores, job.options)
    notes += () if features is None else features.notes
    tokens = _tokens(job.question, scores.positions)
    return NodeDiscovery(scores, job.recorded, job.seconds, tokens, notes=notes, features=features)


def _circuit(job: _Job) -> Discovery:
    """Searches for a circuit and tests it."""
    circuit, notes = job.call()
    faith, accuracy = _tested(job, circuit)
    method = job.method
    notes += _past_the_model(faith, method) + (() if method.notes is None else method.notes(circuit))
    kept = None if job.store is None or method.keeps is None else Path(job.store) / method.keeps
    return Discovery(None, circuit, faith, accuracy, job.recorded, job.seconds, kept, notes)


_PIPELINES: dict[str, Callable[[_Job], Discovery | NodeDiscovery]] = {
    "edges": _edges,
    "nodes": _nodes,
    "circuit": _circuit,
}


class _Choice:
    """How scores become a circuit; refuses impossible choices before anything is computed.

    Attributes:
        recorded: what the run's record says of it.
    """

    def __init__(self, graph: Graph, options: Mapping[str, Any]) -> None:
        asked = {option.name: options.get(option.name, option.default) for option in CHOICE}
        self._rule = check_choice(**asked)
        self._edges, self._threshold, self._select = (asked[name] for name in ("edges", "threshold", "select"))
        if self._threshold is None:
            self._edges = min(MOST_EDGES, graph.n_edges) if self._edges is None else self._edges
            self._select = self._select or "top"
            if not 1 <= self._edges <= graph.n_edges:
                raise InputError(f"edges must be between 1 and the graph's {graph.n_edges}, got {self._edges}")
        self.recorded = {"edges": self._edges, "select": self._select}

    def circuit(self, scores: EdgeScores) -> Circuit:
        if self._threshold is not None:
            return scores.threshold(self._threshold, **self._rule)
        return scores.select(self._edges, self._select, **self._rule)


def _tested(job: _Job, circuit: Circuit) -> tuple[Faithfulness, float | None]:
    """A circuit's faithfulness, and the model's accuracy if pairs have distractors; nothing is measured without `test`."""
    if not job.test:
        unknown = torch.full((len(job.question.pairs),), torch.nan, dtype=torch.float64)
        names = job.question.metric.name, job.question.ablation.label
        return Faithfulness(
            math.nan, unknown, unknown, unknown, unknown[:0], len(circuit), *names, unit=circuit.unit
        ), None
    n_random = job.options[RANDOM_CIRCUITS.name]
    with job.timed("evaluation", "testing the circuit") as progress:
        faith = faithfulness_of(job.question, circuit, n_random=n_random, seed=job.seed, progress=progress)
    return faith, None if faith.answers is None else faith.answers.accuracy


def _past_the_model(faith: Faithfulness, method: Declared) -> tuple[str, ...]:
    if not faith.value > PAST_THE_MODEL:
        return ()
    return (
        f"the circuit's {faith.metric} ({float(faith.circuit.mean()):.4g}) is past the model's own "
        f"({float(faith.clean.mean()):.4g}): edges that hurt the metric were removed with the others. Such a circuit is "
        f"improved, not faithful{f'; {method.remedy}' if method.remedy else ''}",
    )


@contextlib.contextmanager
def _warned() -> Iterator[list[str]]:
    """A method's warnings about its scores, as text; other warnings are passed on."""
    notes: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AttributionWarning)
            yield notes
    finally:
        for warning in caught:
            if issubclass(warning.category, AttributionWarning):
                notes.append(str(warning.message))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _plain(value: Any) -> Any:
    """An option as a JSON value."""
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _tokens(question: Question, positions: Sequence[str] | None) -> tuple[str, ...] | None:
    """Labels of positions: the token if it is the same in all prompts, and its role."""
    if positions is None or not all(place.isdecimal() for place in positions):
        return None
    pairs, tokenizer = question.pairs, question.model.tokenizer
    labels = []
    for i in map(int, positions):
        ids = {prompt[i] for prompt in pairs.clean}
        roles = [role for role in pairs.roles[0] if all(r.get(role) == i for r in pairs.roles)]
        token = str(i) if len(ids) > 1 or tokenizer is None else tokenizer.decode(list(ids)).strip() or repr(" ")
        labels.append(f"{token} ({', '.join(roles)})" if roles else token)
    return tuple(labels)
