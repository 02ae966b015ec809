"""The inputs and outputs of each node while some edges are ablated: stored, cut to the needed tokens, and rebuilt.

All pairs are in one line of tokens, the answers last (`engine.token_line`). Values equal to the clean run's take no
extra memory: `input`, `output` and `projected` read them from there. `engine.incremental` and `engine.ablate` give the
sums of readers' inputs.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.capture import Writes, stack
from circuits.engine.differences import replaced_stream
from circuits.engine.incremental import Edge
from circuits.engine.incremental.node_functions import NodeFunctions
from circuits.graph.graph import Reader

Tokens = slice | Int[Tensor, " token"]
"""Tokens of the line: all from one on, or these."""


class NodeValues:
    """The values under one circuit.

    Attributes:
        keep: True at the edges that are not ablated.
        start: per reader the first token at which its input is stored: 0, or the first answer; the number of tokens for
            a reader of a dead node.
        need: per writer the first token at which a live reader sees it, likewise.
        inputs, outputs, projections: those that differ from the clean run's, by reader, writer, reader.
        raw: unnormalised writes that differ from the clean run's, by writer, of heads that one norm couples.
        groups: per writer the writers that are computed with it: all heads of a layer if one norm couples them, else itself.
        computed: per writer, how often (in rows) it was computed.
    """

    keep: Bool[np.ndarray, "writer reader"]

    def __init__(self, functions: NodeFunctions, replacement: Writes) -> None:
        """Starts with every edge kept.

        Args:
            functions: the model's nodes, on the recorded clean run.
            replacement: the replacement values, joined to the same line.
        """
        architecture, run, line = functions.architecture, functions.run, functions.line
        self.functions, self.run, self.graph = functions, run, architecture.graph
        self.dead, self.answers, self.n_pairs = len(line), line.answers, line.n_pairs
        graph, differences = self.graph, replacement.minus(run.writes)
        self.difference: Float[Tensor, "writer token d_model"] = stack(architecture, differences, run.final.dtype)[0]
        self.replaced = replaced_stream(architecture, replacement)
        names = {name: w for w, name in enumerate(graph.writer_names)}
        self.fed = [[names[node] for node in graph.nodes_fed_by(reader)] for reader in self.readers]
        self.readers_of: list[list[int]] = [[] for _ in names]
        for r, fed in enumerate(self.fed):
            for w in fed:
                self.readers_of[w].append(r)  # in the graph's order: q, k, v
        self.groups = [self._group(w) for w in range(graph.n_writers)]
        self.computed = [0] * graph.n_writers
        self.raw: dict[int, Tensor] = {}
        self._clean_raw: dict[int, Tensor] = {}
        self.inputs: dict[int, Tensor] = {}
        self.outputs: dict[int, Tensor] = {}
        self.projections: dict[int, Tensor] = {}
        self.restart(self.edge_mask)

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Every reader; with destinations, each key and value once for each span of queries."""
        return self.graph.reader_nodes

    @property
    def edge_mask(self) -> Bool[Tensor, "writer reader"]:
        """True where an edge exists."""
        return self.graph.edge_mask

    def reader_of(self, column: int) -> int:
        """The reader of a column of `keep`: the column itself, except over places."""
        return column

    def by_reader(self, keep: Bool[np.ndarray, "*writer column"]) -> Bool[np.ndarray, "*writer reader"]:
        """Whether an edge is kept at some token."""
        return keep

    def restart(self, keep: Bool[Tensor, "writer reader"]) -> None:
        """Keeps exactly these edges, and computes everything from the clean run."""
        self.keep = (keep & self.edge_mask).cpu().numpy().copy()
        self.inputs.clear()
        self.outputs.clear()
        self.raw.clear()
        self.projections.clear()
        self.start, self.need = self._reach(self.keep)
        self._widened = False
        self._build([int(w) for w in np.flatnonzero(self.need < self.dead)])
        self._build_input(len(self.readers) - 1)

    def input(self, r: int) -> Float[Tensor, "1 token d_model"]:
        """A live reader's input, from `start[r]` on."""
        known = self.inputs.get(r)
        return self.run.seen_by(self.readers[r])[:, self.start[r] :] if known is None else known

    def output(self, w: int) -> Float[Tensor, "1 token d_any"]:
        """A live node's output, from `need[w]` on: a write, or the z of a head that no norm couples to others."""
        return self.outputs[w] if w in self.outputs else self._clean_output(w)

    def projected(self, r: int) -> Float[Tensor, "1 *seen d_head"]:
        """A live head's query from `start[r]` on, or its keys or values, pair by pair."""
        if r not in self.projections:
            self.projections |= self.project(r, self.input)
        return self.projections[r]

    def project(self, r: int, seen: Callable[[int], Tensor]) -> dict[int, Float[Tensor, "row *seen d_head"]]:
        """The same from given inputs, of a reader and those that one norm couples with it."""
        peers = self.peers(r)
        layer, part = self.readers[r].layer, self.readers[r].part
        heads = [head for p in peers if (head := self.readers[p].head) is not None]
        ys = self.functions.projected(layer, part, heads, [seen(p) for p in peers], int(self.start[r]))
        if part != "q":
            ys = [self.functions.with_past(layer, part, head, y) for head, y in zip(heads, ys, strict=True)]
        return dict(zip(peers, ys, strict=True))

    def peers(self, r: int) -> Sequence[int]:
        """The readers whose queries or keys one norm couples, or this one."""
        reader = self.readers[r]
        if reader.head is None or not self.functions.joint_norm(reader.layer, reader.part):
            return (r,)
        first, n = r - reader.head, self.graph.n_heads if reader.part == "q" else self.graph.n_kv_heads
        return range(first, first + n)

    def compute(
        self,
        group: Sequence[int],
        changed: Callable[[int], bool],
        seen: Callable[[int], Tensor],
        projected: Callable[[int], Tensor],
        raw_of: Callable[[int], Tensor],
    ) -> tuple[dict[int, Float[Tensor, "row token d_any"]], dict[int, Float[Tensor, "row token d_model"]]]:
        """Outputs of the nodes of a group, and the unnormalised writes of those that changed, if one norm couples them.

        Args:
            group: one of `groups`.
            changed: whether a reader's input changed.
            seen, projected: inputs of readers; `projected` of heads.
            raw_of: unnormalised writes of the heads that did not change.
        """
        if len(group) == 1 and not self._coupled(group[0]):
            return {group[0]: self._alone(group[0], seen, projected)}, {}
        raw = {}
        layer = self.graph.writer_nodes[group[0]].layer
        for head, w in enumerate(group):
            if any(changed(p) for r in self.readers_of[w] for p in self.peers(r)):
                raw[w] = self.functions.head_write(layer, head, self._alone(w, seen, projected))
        writes = self.functions.normed_writes(layer, [raw[w] if w in raw else raw_of(w) for w in group])
        return dict(zip(group, writes, strict=True)), raw

    def _alone(
        self, w: int, seen: Callable[[int], Tensor], projected: Callable[[int], Tensor]
    ) -> Float[Tensor, "row token d_any"]:
        """An MLP's write or a head's z, from its readers' inputs."""
        writer, readers = self.graph.writer_nodes[w], self.readers_of[w]
        alone = writer.head is None
        output = self.functions.mlp(writer.layer, seen(readers[0])) if alone else self.mixed(w, projected)
        self.computed[w] += len(output)
        return output

    def mixed(self, w: int, projected: Callable[[int], Tensor]) -> Float[Tensor, "row token d_head"]:
        """A head's z, from its projected inputs."""
        writer = self.graph.writer_nodes[w]
        assert writer.head is not None
        return self.functions.mixed(writer.layer, writer.head, *(projected(r) for r in self.readers_of[w]))

    def _coupled(self, w: int) -> bool:
        writer = self.graph.writer_nodes[w]
        return writer.head is not None and not self.functions.architecture.blocks[writer.layer].linear_heads

    def _group(self, w: int) -> range:
        if not self._coupled(w):
            return range(w, w + 1)
        heads = self.graph.head_writers(self.graph.writer_nodes[w].layer)
        return range(heads.start, heads.stop)

    def raw_write(self, w: int) -> Float[Tensor, "1 token d_model"]:
        """The unnormalised write of a live head that one norm couples to others, from `need[w]` on."""
        if w in self.raw:
            return self.raw[w]
        if w not in self._clean_raw:
            writer = self.graph.writer_nodes[w]
            z = self.run.z[writer.layer]
            assert z is not None
            assert writer.head is not None
            self._clean_raw[w] = self.functions.head_write(writer.layer, writer.head, z[:, :, writer.head])
        return self._clean_raw[w][:, self.need[w] :]

    def written(self, w: int, output: Float[Tensor, "row token d_any"]) -> Float[Tensor, "row token d_model"]:
        """A node's write from its output; linear."""
        writer = self.graph.writer_nodes[w]
        if writer.head is None or self._coupled(w):
            return output
        return self.functions.head_write(writer.layer, writer.head, output)

    def change(self, w: int, start: int) -> Float[Tensor, "1 token d_model"] | None:
        """A live node's write minus the clean run's, from token `start` on; None if they are equal."""
        if w not in self.outputs:
            return None
        here = start - int(self.need[w])
        return self.written(w, self.outputs[w][:, here:] - self._clean_output(w)[:, here:])

    def shift(self, r: int, edges: Sequence[Edge]) -> Float[Tensor, "#row token d_model"]:
        """The change of r's input when these edges, all into r, are switched."""
        return self._shift_in(r, edges, slice(int(self.start[r]), None))

    def _shift_in(self, r: int, edges: Sequence[Edge], tokens: Tokens) -> Float[Tensor, "#row token d_model"]:
        """The same at some tokens, for edges of one column of `keep`."""
        column = edges[0][1]
        if len(edges) > 2:
            kept = self.keep[:, column].copy()
            kept[[w for w, _ in edges]] ^= True
            after = self._summed_input(r, kept, tokens)
            after = self.run.seen_by(self.readers[r])[:, tokens] if after is None else after
            return after - self._stored(self.input(r), int(self.start[r]), tokens)
        total = None
        for w, _ in edges:
            change, term = self._change_at(w, r, tokens), self.difference[None, w, tokens]
            term = term if change is None else term - change
            term = term if self.keep[w, column] else -term
            total = term if total is None else total + term
        assert total is not None
        return total

    def through(
        self, w: int, r: int, delta: Float[Tensor, "row token d_model"], rows: Mapping[Edge, int]
    ) -> Float[Tensor, "row token d_model"]:
        """The part of a writer's change that reaches a reader: zero where the edge is ablated.

        Args:
            w, r: the writer and the reader.
            delta: the change, from `start[r]` on.
            rows: switched edges, and the first row in which each is switched.
        """
        row = rows.get((w, r))
        if row is None:
            return delta
        delta = delta.clone()
        (delta[row:] if self.keep[w, r] else delta[:row]).zero_()
        return delta

    def _change_at(self, w: int, r: int, tokens: Tokens) -> Tensor | None:
        """A writer's write minus the clean run's at tokens of a reader; None if they are equal."""
        start = int(self.start[r])
        change = self.change(w, start)
        return None if change is None else self._stored(change, start, tokens)

    @staticmethod
    def _stored(values: Tensor, start: int, tokens: Tokens) -> Tensor:
        """Values that are stored from `start` on, at some tokens of the line."""
        return values if isinstance(tokens, slice) else values[:, tokens - start]

    def _clean_output(self, w: int) -> Tensor:
        writer, writes, need = self.graph.writer_nodes[w], self.run.writes, int(self.need[w])
        if writer.head is not None:
            return writes.heads[writer.layer][:, need:, writer.head]
        mlp = writes.mlps[writer.layer]
        assert mlp is not None
        return mlp[:, need:]

    # --- which nodes are needed, and from which token on --------------------------------------------------------------

    def _reach(self, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`start` and `need` under a mask."""
        dead = self.dead
        start, need = np.full(len(self.readers), dead), np.full(self.graph.n_writers, dead)
        start[-1], keep = self.answers, self.by_reader(keep)
        for w in range(self.graph.n_writers - 1, -1, -1):
            group = self.groups[w]
            need[w] = start[keep[group].any(0)].min(initial=dead)
            if w == group[0] and need[w] < dead:
                need[group] = need[w]
                for r in {r for each in group for r in self.readers_of[each] if self.is_read(r)}:
                    start[r] = 0 if self.readers[r].part in ("k", "v") else need[w]
        return start, need

    def is_read(self, r: int) -> bool:
        """Whether an output that reaches `logits` depends on a reader of a live node; over places, not on all of them."""
        return True

    def outdated(self) -> Sequence[int]:
        """Readers whose stored input is wrong at tokens that are read now and were not before; only over places."""
        return ()

    def widen(self, restored: Sequence[Edge]) -> None:
        """Adds the nodes that restoring these edges would make live; restoring is then a change like any other."""
        if restored or self._widened:
            keep = self.keep.copy()
            for edge in restored:
                keep[edge] = True
            self._set_reach(*self._reach(keep))
            self._widened = bool(restored)

    def settle(self, writers: Sequence[int]) -> None:
        """Drops values that are no longer needed, after out-edges of these writers were switched."""
        if self._widened or any(self.is_elsewhere(w) for w in writers):
            self._set_reach(*self._reach(self.keep))
            self._widened = False

    def is_elsewhere(self, w: int) -> bool:
        """Whether a writer is now needed at other tokens than `need` says."""
        read = self.by_reader(self.keep[self.groups[w]]).any(0)
        return bool(self.start[read].min(initial=self.dead) != self.need[w])

    def _set_reach(self, start: np.ndarray, need: np.ndarray) -> None:
        """Cuts values needed from a later token now, drops dead ones, and rebuilds those needed from an earlier one."""
        old_start, old_need = self.start, self.need
        self.start, self.need = start, need
        # Keys and values cover the prefix and all tokens: they are kept whole or dropped.
        whole = {r for r in self.projections if self.readers[r].part != "q"}
        for values, old, new in (
            (self.inputs, old_start, start),
            (self.projections, old_start, start),
            (self.outputs, old_need, need),
            (self.raw, old_need, need),
        ):
            for i in [i for i in values if new[i] != old[i]]:
                value = values.pop(i)
                if old[i] < new[i] < self.dead and not (values is self.projections and i in whole):
                    values[i] = value[:, new[i] - old[i] :]
        rebuilt = need < old_need
        for r in self.outdated():
            self.inputs.pop(r, None)
            for peer in self.peers(r):
                self.projections.pop(peer, None)
            rebuilt[self.fed[r]] = True
        self._build([int(w) for w in np.flatnonzero(rebuilt & (need < self.dead))])

    def _build(self, writers: Sequence[int]) -> None:
        """Computes live nodes in order, from the mask and earlier nodes; unchanged ones stay the clean run's."""
        for w in writers:
            group = self.groups[w]
            if w != group[0]:
                continue
            readers = {r for each in group for r in self.readers_of[each]}
            for r in sorted(readers):
                self._build_input(r)
            if any(r in self.inputs for r in readers):
                outputs, raw = self.compute(group, self.inputs.__contains__, self.input, self.projected, self.raw_write)
                self.outputs |= outputs
                self.raw |= raw

    def _build_input(self, r: int) -> None:
        if r not in self.inputs:
            summed = self._kept_input(r)
            if summed is not None:
                self.inputs[r] = summed

    def _kept_input(self, r: int) -> Float[Tensor, "1 token d_model"] | None:
        """A reader's input with the kept edges; None: the clean run's."""
        return self._summed_input(r, self.keep[:, r], slice(int(self.start[r]), None))

    def _summed_input(self, r: int, kept: np.ndarray, tokens: Tokens) -> Float[Tensor, "1 token d_model"] | None:
        """A reader's input with these in-edges at some tokens, by the shorter sum of `Ablated`; None: the clean run's."""
        reader = self.readers[r]
        n = reader.n_writers
        changes = [
            c for w in sorted(self.outputs) if w < n and kept[w] and (c := self._change_at(w, r, tokens)) is not None
        ]
        missing = np.flatnonzero(~kept[:n])
        if not len(missing) and not changes:
            return None
        if 2 * len(missing) <= n:
            x = self.run.seen_by(reader)[:, tokens] + self._differences(missing, tokens).sum(0)
        else:
            place = "mlp" if reader.part == "mlp" and not self.graph.parallel else "attention"
            x = self.replaced[reader.layer, place][:, tokens] - self._differences(np.flatnonzero(kept), tokens).sum(0)
        for change in changes:
            x = x + change
        return x

    def _differences(self, writers: np.ndarray, tokens: Tokens) -> Float[Tensor, "writer token d_model"]:
        if isinstance(tokens, slice):
            return self.difference[writers, tokens]
        return self.difference[torch.from_numpy(writers).to(tokens.device)[:, None], tokens]
