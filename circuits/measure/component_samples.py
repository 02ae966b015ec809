"""Outcomes of ablating sets of components, stored as they are measured.

Sets are drawn in blocks of 16. The store has one piece for the masks of a block, and one for its outcomes on each batch
of prompts. A killed run therefore continues after the last finished piece, samples can be added later, and several
processes can share the blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.hooks import inference_state
from circuits.errors import InputError
from circuits.graph.nodes import Site
from circuits.measure.chosen_sites import chosen_sites
from circuits.measure.component_runs import ComponentRuns, Replacements
from circuits.measure.divided import Measurement, MeasurementRequest, measure_pieces
from circuits.measure.store import Pieces, question_of
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.question.positions import position_axis
from circuits.question.question import Question
from circuits.results.provenance import Provenance, frozen, provenance
from circuits.workers.workers import Workers, in_units

BLOCK = 16
"""Sets per block."""


def draw_block(n_nodes: int, block: int, alpha: float, seed: int) -> Bool[Tensor, "sample node"]:
    """The masks of one block: each component is ablated with probability alpha, independently of the others.

    They depend on these arguments alone, not on how the work is divided.
    """
    generator = torch.Generator().manual_seed(Random(f"{seed} {alpha!r} {block}").getrandbits(63))
    return torch.rand(BLOCK, n_nodes, generator=generator, dtype=torch.float64) < alpha


def check_samples(samples: int, alpha: float) -> None:
    """Raises InputError unless `samples` is at least 1 and alpha lies between 0 and 1."""
    if samples < 1:
        raise InputError(f"samples must be at least 1, got {samples}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha must be between 0 and 1, got {alpha}")


@plain_methods
@dataclass(frozen=True, eq=False)
class Samples:
    """Sets of ablated components, and the metric under each.

    Attributes:
        nodes: names of the components.
        ablated: the components that each sample ablates.
        outcomes: the metric on each prompt, signed: higher = more of the behaviour.
        clean: the same with nothing ablated.
        origin: provenance of the question.
        positions: the positions at which each node is a component; the nodes are then `a5.h2@S2`, all positions of a node together.
    """

    nodes: tuple[str, ...]
    ablated: Bool[Tensor, "sample node"]
    outcomes: Float[Tensor, "sample prompt"]
    clean: Float[Tensor, " prompt"]
    origin: Provenance
    positions: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ablated)

    @property
    def kept(self) -> Float[Tensor, "sample node"]:
        """1 where a component is kept, else 0."""
        return (~self.ablated).double()

    @property
    def whole_nodes(self) -> tuple[str, ...]:
        """Names of the nodes without positions: the labels of the scores' first axis."""
        if self.positions is None:
            return self.nodes
        return tuple(name.rpartition("@")[0] for name in self.nodes[:: len(self.positions)])

    def by_position(self, values: Float[Tensor, "component *prompt"]) -> Float[Tensor, "node *axes"]:
        """Values of components with an axis of positions, if there are any."""
        return values if self.positions is None else values.unflatten(0, (-1, len(self.positions)))


@dataclass(frozen=True, eq=False)
class Sampler(Measurement):
    """Measures a question's metric under sets of ablated components.

    Attributes:
        sites: the nodes whose components are ablated.
        positions: the positions of each node, each a component; None: the nodes are the components.
        replacements: their replacement values.
        origin: provenance of the question.
        asked: the measurement in the form that is sent to `workers`; None: this process measures.
        workers: where to measure.
    """

    sites: tuple[Site, ...]
    replacements: Replacements
    origin: Provenance
    positions: tuple[str, ...] | None = None
    asked: MeasurementRequest | None = None
    workers: Workers | None = None

    @classmethod
    def for_question(
        cls,
        question: Question,
        nodes: str | Sequence[str],
        store: str | Path | None = None,
        workers: Workers | None = None,
        in_memory: bool = False,
        positions: str | Sequence[str] | None = None,
    ) -> "Sampler":
        """Validates the components and opens the store.

        Args:
            question: model, pairs, metric and ablation.
            nodes: the components; see `circuits.graph.nodes.select_sites`.
            store: a directory for finished pieces.
            workers: where to measure; None: this process.
            in_memory: without a store, keep finished pieces in memory.
            positions: ablate each node at one position at a time; see `circuits.question.positions`.

        Raises:
            InputError: an unknown component, a user-defined ablation, or a store of another question.
            PairsError: the pairs lack these positions.
        """
        model = question.model
        sites = chosen_sites(question, nodes)
        _check_apart(sites)
        labels = position_axis(question.pairs, positions)
        options: dict[str, Any] = {"nodes": nodes if isinstance(nodes, str) else list(nodes)}
        options |= {"batch_size": question.batch_size} | ({} if labels is None else {"positions": list(labels)})
        origin = provenance(question, "ablation samples", options)
        names = list(_components(sites, labels))
        manifest = {"schema": 1, "question": question_of(origin), "components": names}
        pieces = Pieces(store, manifest, in_memory or workers is not None)
        with inference_state(model.bridge):
            replacements = Replacements.prepare(question, sites)
        asked = (
            None
            if workers is None
            else MeasurementRequest.for_question(cls, question, nodes=nodes, positions=positions)
        )
        return cls(question, pieces, sites, replacements, origin, labels, asked, workers)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of the components."""
        return _components(self.sites, self.positions)

    def bernoulli(
        self, samples: int, alpha: float, seed: int, progress: Progress | None = None, share: tuple[int, int] = (0, 1)
    ) -> Samples:
        """Random sets with their outcomes, from the store or measured now.

        Args:
            samples: how many sets.
            alpha: ablation probability per component.
            seed: random seed of the sets.
            progress: called with (samples × prompts done, total).
            share: (i, n): only the i-th of n shares of the blocks; n processes can then fill one store.
        """
        check_samples(samples, alpha)
        mine, shares = share
        if not 0 <= mine < shares:
            raise InputError(f"share must be (i, n) with 0 <= i < n, got {share}")
        name = f"alpha-{alpha:g}-seed-{seed}"
        blocks = range(mine, -(-samples // BLOCK), shares)
        masks = {block: self._masks(name, block, alpha, seed) for block in blocks}
        drawn = self.measured(name, masks, progress)
        n = min(len(drawn), samples) if shares == 1 else len(drawn)
        return replace(drawn, ablated=drawn.ablated[:n], outcomes=drawn.outcomes[:n], origin=self._origin(alpha, seed))

    def _origin(self, alpha: float, seed: int) -> Provenance:
        options = {**self.origin["options"], "alpha": alpha, "seed": seed}
        return frozen({**self.origin, "options": options})

    def _masks(self, name: str, block: int, alpha: float, seed: int) -> Bool[Tensor, "sample node"]:
        """The masks of a block. Stored masks take precedence: another version of torch might draw different ones."""
        key = f"{name}-block-{block:06d}-masks"
        stored = self.pieces.get(key)
        if stored is not None and stored.shape == (BLOCK, len(self.nodes)):
            return stored.bool()
        drawn = draw_block(len(self.nodes), block, alpha, seed)
        self.pieces.put(key, drawn.to(torch.uint8))
        return drawn

    def measured(
        self, name: str, masks: dict[int, Bool[Tensor, "sample node"]], progress: Progress | None = None
    ) -> Samples:
        """Outcomes of blocks of sets, from the store or measured now.

        Args:
            name: the name of these sets in the store; the same name and block number must mean the same block.
            masks: the blocks, by number.
            progress: called with (samples × prompts done, total).
        """
        if self.workers is not None:
            self._share(name, masks, progress)
            progress = None
        question, n = self.question, len(self.question.pairs)
        starts: dict[int, int] = {}
        total = 0
        for block, mask in masks.items():
            starts[block] = total
            total += len(mask)
        outcomes, clean = torch.zeros(total, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        done = 0
        with inference_state(question.model.bridge):
            for number, batch in enumerate(question.batches()):
                index = batch.index
                runs = None
                for block, mask in masks.items():
                    key = _key(name, block, number)
                    piece = self.pieces.get(key)
                    if piece is None or piece.shape != (1 + len(mask), len(index)):
                        runs = runs or ComponentRuns.prepare(question, batch, self.replacements, self.positions)
                        piece = torch.cat([runs.clean[None], runs.metrics(mask)]).to("cpu", torch.float64)
                        self.pieces.put(key, piece)
                    clean[index] = piece[0]
                    outcomes[starts[block] : starts[block] + len(mask), index] = piece[1:]
                    done += len(mask) * len(index)
                    if progress is not None:
                        progress(done, total * n)
        sign = question.metric.sign
        ablated = torch.cat(list(masks.values())) if masks else torch.zeros(0, len(self.nodes), dtype=torch.bool)
        return Samples(self.nodes, ablated, outcomes * sign, clean * sign, self.origin, self.positions)

    def _share(
        self, name: str, masks: dict[int, Bool[Tensor, "sample node"]], progress: Progress | None = None
    ) -> None:
        """Lets the workers measure the blocks."""
        assert self.workers is not None
        assert self.asked is not None
        batches = range(self.question.n_batches)
        units = {
            _Blocks(name, tuple((block, masks[block]) for block in blocks)): [
                _key(name, block, batch) for block in blocks for batch in batches
            ]
            for blocks in in_units(list(masks), self.workers)
        }
        measure_pieces(self.workers, self.pieces, self.asked, units, progress)

    def fill(self, unit: "_Blocks") -> None:
        """Measures a unit: some blocks of sets."""
        self.measured(unit.name, dict(unit.masks))


@dataclass(frozen=True, eq=False)
class _Blocks:
    """A worker's unit of work."""

    name: str
    masks: tuple[tuple[int, Tensor], ...]


def _components(sites: Sequence[Site], positions: tuple[str, ...] | None) -> tuple[str, ...]:
    """Names of components: `a5.h2`, or `a5.h2@S2` at every position."""
    return tuple(f"{site.name}@{label}" if positions else site.name for site in sites for label in positions or ("",))


def _check_apart(sites: Sequence[Site]) -> None:
    """Refuses a node together with parts of it: ablating both has no meaning."""
    whole = {"mlp_out": "m", "attn_out": "a", "z": "az"}
    names = {f"{kind}{site.layer}": site.name for site in sites for kind in whole.get(site.point, "")}
    for site in sites:
        place = site.point.rpartition(":")[2]
        if ":" in site.point and place in names:
            raise InputError(
                f"{names[place]} and {site.name}, a part of it, cannot both be components; choose one of the two"
            )


def _key(name: str, block: int, batch: int) -> str:
    return f"{name}-block-{block:06d}-batch-{batch:05d}"


def in_blocks(masks: Bool[Tensor, "sample node"]) -> dict[int, Bool[Tensor, "block node"]]:
    """Given sets, cut into blocks."""
    return dict(enumerate(masks.split(BLOCK)))
