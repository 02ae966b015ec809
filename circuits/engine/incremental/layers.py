"""`Incremental` for architectures that cannot be computed node by node: whole layers, from the changed one on.

Everything before the first changed layer comes from the last accepted state. The rows of a trial are tiles of one
batch, each with its own circuit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.ablate import Ablated
from circuits.engine.architecture import Architecture
from circuits.engine.capture import Writes
from circuits.engine.check import tolerance
from circuits.engine.foreign_hooks import on_points
from circuits.engine.held import held
from circuits.engine.incremental import TRIAL_BYTES, Edge, Incremental, Trial, switched_rows
from circuits.engine.incremental.node_functions import NodeFunctions
from circuits.engine.incremental.node_state import NodeState
from circuits.engine.incremental.placed import PlacedNodeState, PlacedPasses
from circuits.engine.placement import devices
from circuits.engine.prefix import Suffix
from circuits.engine.recorded_run import RecordedRun, join_runs, join_writes
from circuits.engine.resume import BaseRun, base_run, resume
from circuits.engine.token_line import lay_out
from circuits.graph.places import PlacedGraph


class LayerState(Incremental):
    """`Incremental`, layer by layer."""

    by_node = False

    def rows_worth(self, reader: int) -> int:
        batch, pos, d_model = self.replacement.embedding.shape
        one = self.graph.n_writers * batch * pos * d_model * self.replacement.embedding.itemsize
        return max(1, TRIAL_BYTES // one)

    def __init__(
        self,
        architecture: Architecture,
        suffix: Suffix,
        replacement: Writes,
        tokens: Int[Tensor, " d_out"] | None = None,
        resume_exact: bool = True,
    ) -> None:
        """Starts with every edge kept.

        Args:
            architecture: the model.
            suffix: the prompts.
            replacement: the replacement values of ablated writers.
            tokens: compute the logits of these tokens only; None: all.
            resume_exact: whether passes may begin in the middle.
        """
        self.architecture, self.suffix = architecture, suffix
        self.graph, self.replacement, self.tokens = architecture.graph, replacement, tokens
        self.resume_exact = resume_exact
        self.reset(self.graph.edge_mask)

    def reset(self, keep: Bool[Tensor, "writer reader"]) -> None:
        self.keep = (keep & self.graph.edge_mask).cpu().numpy().copy()
        self._base: tuple[BaseRun, Tensor] | None = None

    def base(self) -> tuple[BaseRun, Float[Tensor, "batch writer pos d_model"]]:
        """The run of this state, and every writer's (replacement - current) in it."""
        if self._base is None:
            # Compute every node as the circuit has it: a restored edge may connect a node to `logits`.
            ablated = Ablated(self.architecture, self.replacement, torch.from_numpy(self.keep), edit="lacking")
            clean, exact = self.suffix.clean_tokens, self.resume_exact
            run = base_run(self.architecture, clean, ablated.hooks(), exact, self.tokens)
            self._base = run, ablated.difference
        return self._base

    def logits(self) -> Float[Tensor, "pair d_out"]:
        return self.base()[0].logits

    def trial(self, switches: Sequence[Sequence[Edge]]) -> Trial:
        rows = switched_rows(switches)
        base, difference = self.base()
        masks = np.repeat(self.keep[None], len(switches), axis=0)
        for (w, r), row in rows.items():
            masks[row:, w, r] ^= True
        tiles, batch = len(switches), len(base)
        layer = min(self.graph.reader_nodes[r].layer for _, r in rows) if rows else self.graph.n_layers
        layer = min(layer, self.graph.n_layers - 1)
        tiled = self.replacement.map(lambda x: x.repeat(tiles, *[1] * (x.ndim - 1)))
        ablated = Ablated(self.architecture, tiled, torch.from_numpy(masks).repeat_interleave(batch, dim=0))
        before = self.graph.n_writers_before_layer(layer)
        ablated.difference[:, :before] = difference[:, :before].repeat(tiles, 1, 1, 1)
        logits = resume(self.architecture, base, layer, ablated.hooks(), tiles, self.tokens)
        return _LayerTrial(self, logits.reshape(tiles, len(base.logits), -1), masks)


class _LayerTrial(Trial):
    """Rows of a `LayerState`."""

    def __init__(self, state: LayerState, logits: Tensor, masks: Bool[np.ndarray, "row writer reader"]) -> None:
        self.state, self._logits, self.masks = state, logits, masks

    def logits(self, rows: slice) -> Float[Tensor, "row pair d_out"]:
        return self._logits[rows]

    def accept(self, row: int) -> None:
        self.state.keep = self.masks[row].copy()
        self.state._base = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A batch of pairs with its recorded clean run and the replacement values; over places, with the span of every token."""

    suffix: Suffix
    run: RecordedRun
    replacement: Writes
    spans: Int[Tensor, "batch pos"] | None = None

    @property
    def n_tokens(self) -> int:
        return self.suffix.clean.numel()


def incremental_states(
    architecture: Architecture,
    batches: Sequence[Prepared],
    tokens: Int[Tensor, " d_out"] | None = None,
    resume_exact: bool = True,
    placed: PlacedGraph | None = None,
) -> list[Incremental]:
    """States with every edge kept: one state for all batches, node by node, if that reproduces the model on one device;
    otherwise one per batch, layer by layer, or over places by whole passes.

    Args:
        architecture: the model.
        batches: the pairs.
        tokens: compute the logits of these tokens only; None: all.
        resume_exact: whether passes may begin in the middle.
        placed: the graph over places, if edges are ablated at spans.
    """
    bridge = architecture.bridge
    # Node functions would bypass a user's own hooks.
    with held(bridge) as here:
        hooked = on_points(bridge) or bool(here.foreign_hooks)
    spread = len(devices(bridge)) > 1
    if not hooked and not spread:
        line = lay_out([batch.suffix for batch in batches])
        run = join_runs(line, [batch.run for batch in batches])
        functions = NodeFunctions(architecture, line, run, tokens)
        if functions.agrees(tolerance(run.final.dtype)):
            replacement = join_writes(line, [batch.replacement for batch in batches])
            functions, kept = functions.behind(_same(replacement, run.writes))
            replacement = replacement.map(lambda x: x.index_select(1, kept))
            if placed is None:
                return [NodeState(functions, replacement)]
            spans = line.join([batch.spans for batch in batches if batch.spans is not None])[0]
            return [PlacedNodeState(functions, replacement, placed, spans[kept])]
    if placed is not None:
        return [
            PlacedPasses(architecture, batch.suffix, batch.replacement, placed, batch.spans, tokens)
            for batch in batches
            if batch.spans is not None
        ]
    return [LayerState(architecture, batch.suffix, batch.replacement, tokens, resume_exact) for batch in batches]


def _same(replacement: Writes, clean: Writes) -> Bool[Tensor, " token"]:
    """True at the tokens of a line whose replacement equals the clean value."""
    difference = replacement.minus(clean)
    parts = [difference.embedding, *difference.heads, *(mlp for mlp in difference.mlps if mlp is not None)]
    return torch.stack([(part[0] == 0).flatten(1).all(1) for part in parts]).all(0)
