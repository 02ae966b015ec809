"""Activation patching: the effect of a node, measured by replacing its value with its value from another run.

There are two directions (Zhang & Nanda 2024, 2309.16042). *Denoising* runs the corrupted prompt and restores a node's clean value:

    effect = metric(corrupted, node <- clean) - metric(corrupted)

*Noising* runs the clean prompt with a node's corrupted value:

    effect = metric(clean) - metric(clean, node <- corrupted)

Positive = the node helps. Normalised on dataset means: effect / (metric(clean) - metric(corrupted)), which for denoising is
(patched - corrupted) / (clean - corrupted). With `window`, nodes of neighbouring layers are patched together (Meng et al.
2022). Such effects are larger and cannot be attributed to a single layer. A window includes the nodes of neighbouring layers even
if these were not selected.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.insert import with_dictionaries
from circuits.engine.hooks import inference_state
from circuits.engine.patch import Patch
from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.graph.nodes import Site, in_layer
from circuits.measure.chosen_sites import chosen_sites
from circuits.measure.divided import Measurement, MeasurementRequest, measure_pieces
from circuits.measure.node_effects import BatchEffects, node_effects, other_run
from circuits.measure.patch_runs import PatchRuns
from circuits.measure.store import Pieces, question_of
from circuits.methods.method import Method
from circuits.methods.options import FEATURES, NODES, POSITIONS, Kind, Option
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike, RunAblation
from circuits.question.metrics import MetricLike
from circuits.question.positions import position_axis, tokens_at
from circuits.question.question import Batch, Question
from circuits.results.node_scores import NodeScores
from circuits.results.provenance import provenance
from circuits.workers.workers import UNITS_PER_WORKER, Workers

DIRECTIONS = ("denoising", "noising")


@on_model
def activation_patching(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "heads+mlps",
    positions: str | Sequence[str] | None = None,
    direction: str = "denoising",
    window: int = 1,
    dictionaries: Sequence[Dictionary] = (),
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    store: str | Path | None = None,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Patches each node and measures the metric.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        nodes: names, or groups joined by `+`: `heads`, `mlps`, `input`, `q`, `k`, `v`, `neurons`, `features`.
        positions: None: a node at all positions at once; `each`: every position separately (prompts of equal length);
            `spans`: every span; `roles`: the task's named positions; or names of roles or spans.
        direction: `denoising` or `noising`.
        window: number of neighbouring layers patched together. A node's score is that of the window centred on it (an even
            window extends one layer further up), which includes the same node of each layer, selected or not. Windows end
            at the first and the last layer; `input` and parts of dictionaries have no neighbours.
        dictionaries: sparse dictionaries, whose features, errors and skips then are nodes too (`circuits.dictionaries`).
        metric: None: the task's preferred metric.
        ablation: the source of corrupted values: `interchange` (the corrupted prompt), `gaussian` (noise on the
            embedding), or `resample`.
        batch_size: pairs at a time; results do not depend on it.
        store: a directory for finished results; a call with the same question continues from it.
        workers: processes that divide the layers of a batch; None: this process. Results do not depend on it.
        progress: called with (pairs done, in total); with workers, (pieces done, in total).

    Returns:
        Effects by node (and position) and prompt.

    Raises:
        InputError: an unknown option or node, or an ablation without a run of its own.
        PairsError: the pairs lack these positions.
    """
    return activation_patching_of(
        Question.ask(with_dictionaries(model, dictionaries), pairs, metric, ablation, batch_size), nodes=nodes, positions=positions, direction=direction,
        window=window, store=store, workers=workers, progress=progress,
    )  # fmt: skip


def activation_patching_of(
    question: Question, *, nodes: str | Sequence[str] = "heads+mlps", positions: str | Sequence[str] | None = None,
    direction: str = "denoising", window: int = 1, store: str | Path | None = None, workers: Workers | None = None,
    progress: Progress | None = None,
) -> NodeScores:  # fmt: skip
    """`activation_patching` of a question."""
    options: dict[str, Any] = {"nodes": nodes, "positions": positions, "direction": direction, "window": window}
    patching = _Patching.for_question(question, **options, store=store, in_memory=workers is not None)
    sweep = patching.sweep
    if workers is not None:
        cuts = [(batch, layers) for batch in range(question.n_batches)
                for layers in _cut(sweep.layers, workers, question.n_batches)]  # fmt: skip
        units = {unit: [_key(unit[0], layer) for layer in unit[1]] for unit in cuts}
        measure_pieces(
            workers, patching.pieces, MeasurementRequest.for_question(_Patching, question, **options), units, progress
        )
        progress = None
    numbers = iter(range(question.n_batches))
    return node_effects(
        question, "activation_patching", patching.options, [site.name for site in sweep.sites], sweep.positions,
        lambda batch: patching.effects(batch, next(numbers)), progress,
    )  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """The interventions of a sweep: sites × positions.

    Attributes:
        sites: the nodes.
        positions: labels of the positions; None: all positions together.
        graph: the model's graph, for windows over its layers.
        window: number of layers patched together.
    """

    sites: tuple[Site, ...]
    positions: tuple[str, ...] | None
    graph: Graph
    window: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of the scores."""
        return (len(self.sites),) if self.positions is None else (len(self.sites), len(self.positions))

    @property
    def patched(self) -> tuple[Site, ...]:
        """All sites that an intervention patches: the selected ones, then their neighbours."""
        return tuple(dict.fromkeys([*self.sites, *(other for site in self.sites for other in self._around(site))]))

    @property
    def layers(self) -> tuple[int, ...]:
        """The first layers of the interventions."""
        return tuple(sorted({self.first(site) for site in self.sites}))

    def first(self, site: Site) -> int:
        """The first layer of a site's intervention."""
        return min(other.layer for other in self._around(site))

    def of_layer(self, layer: int) -> list[int]:
        """Numbers of the sites whose interventions begin at this layer."""
        return [i for i, site in enumerate(self.sites) if self.first(site) == layer]

    def interventions(self, batch: Batch, pairs: PromptPairs, sites: Sequence[int] | None = None) -> list[list[Patch]]:
        """Interventions in the order of the scores (positions change fastest), for all sites or those with these numbers."""
        places: list[Tensor | None] = [None]
        if self.positions is not None:
            places = [tokens_at(label, batch, pairs) for label in self.positions]
        chosen = self.sites if sites is None else [self.sites[i] for i in sites]
        return [[Patch(s, place) for s in self._around(site)] for site in chosen for place in places]

    def _around(self, site: Site) -> list[Site]:
        first = site.layer - (self.window - 1) // 2
        reached = [in_layer(site, layer, self.graph) for layer in range(first, first + self.window)]
        return [other for other in reached if other is not None]


@dataclass(frozen=True, eq=False)
class _Patching(Measurement):
    """A sweep over a question's batches; its pieces are one layer on one batch each.

    Attributes:
        other: the ablation, source of the corrupted values.
        options: options for the provenance.
    """

    other: RunAblation
    sweep: Sweep
    direction: str
    options: dict[str, Any]

    @classmethod
    def for_question(
        cls,
        question: Question,
        *,
        nodes: str | Sequence[str] = "heads+mlps",
        positions: str | Sequence[str] | None = None,
        direction: str = "denoising",
        window: int = 1,
        store: str | Path | None = None,
        in_memory: bool = False,
    ) -> "_Patching":
        """Validates; see `activation_patching`."""
        if direction not in DIRECTIONS:
            raise InputError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
        if window < 1:
            raise InputError(f"window must be at least 1, got {window}")
        model, pairs = question.model, question.pairs
        other = other_run(question, "activation patching")
        sites = chosen_sites(question, nodes)
        sweep = Sweep(sites, position_axis(pairs, positions), model.graph, window)
        options = {"nodes": nodes if isinstance(nodes, str) else list(nodes), "positions": sweep.positions,
                   "window": window, "direction": direction}  # fmt: skip
        origin = provenance(question, "activation_patching", {**options, "batch_size": question.batch_size})
        manifest = {"schema": 1, "question": question_of(origin), "nodes": [site.name for site in sites]}
        if len(sweep.patched) > len(sites):
            manifest["patched"] = [
                site.name for site in sweep.patched
            ]  # stores written before windows extended over all layers
        return cls(question, Pieces(store, manifest, in_memory), other, sweep, direction, options)

    def effects(self, batch: Batch, number: int) -> BatchEffects:
        """Effects of all sites on one batch, from the store or measured."""
        effects = torch.zeros(*self.sweep.shape, len(batch), dtype=torch.float64)
        ends = torch.zeros(2, len(batch), dtype=torch.float64)
        for layer, piece in self.measured(batch, number, self.sweep.layers):
            ends = piece[:2]
            sites = self.sweep.of_layer(layer)
            effects[sites] = piece[2:].reshape(len(sites), *effects.shape[1:])
        return BatchEffects(effects, ends[0], ends[1])

    def measured(
        self, batch: Batch, number: int, layers: Sequence[int]
    ) -> Iterator[tuple[int, Float[Tensor, "row batch"]]]:
        """Yields (layer, rows): the clean and the corrupted metric and the effects of interventions that begin at the layer."""
        runs: PatchRuns | None = None
        for layer in layers:
            piece = self.pieces.get(_key(number, layer))
            if piece is None:
                runs = runs or PatchRuns.prepare(self.question, self.other, batch, self.sweep.patched, self.direction)
                chosen = self.sweep.of_layer(layer)
                metrics = runs.metrics(self.sweep.interventions(batch, self.question.pairs, chosen))
                effects = metrics - runs.corrupted if self.direction == "denoising" else runs.clean - metrics
                piece = torch.cat([runs.clean[None], runs.corrupted[None], effects]).to("cpu", torch.float64)
                self.pieces.put(_key(number, layer), piece)
            yield layer, piece

    def fill(self, unit: tuple[int, Sequence[int]]) -> None:
        """Measures a unit: the number of a batch, and layers."""
        number, layers = unit
        with inference_state(self.question.model.bridge):
            for batch in self.question.batches(only=number):
                for _ in self.measured(batch, number, layers):
                    pass


def _cut(layers: Sequence[int], workers: Workers, batches: int) -> list[tuple[int, ...]]:
    """Divides the layers of one batch into enough units to keep all workers busy."""
    parts = min(len(layers), max(1, -(-UNITS_PER_WORKER * workers.number // batches)))
    size = -(-len(layers) // parts)
    return [tuple(layers[i : i + size]) for i in range(0, len(layers), size)]


def _key(batch: int, layer: int) -> str:
    return f"batch-{batch:05d}-layer-{layer:05d}"


METHOD = Method(
    name="activation-patching",
    function=activation_patching_of,
    gives="nodes",
    stage=("patching", "patching nodes"),
    help="each node patched alone",
    divided=True,
    resumable=True,
    takes=(
        NODES,
        POSITIONS,
        Option(
            "direction", Kind.TEXT, "denoising", "denoising patches clean values into the corrupted run, noising the reverse.",
            choices=DIRECTIONS, label="direction",
        ),
        Option(
            "window", Kind.WHOLE, 1, "Neighbouring layers patched together.", at_least=1, label="layers patched together",
            label_if_set=True,
        ),
        *FEATURES,
    ),
)  # fmt: skip
