"""The computational graph of a transformer: the writers and readers of the residual stream, and their indices.

Scores, circuits, pictures and files are all indexed by a `Graph`, so that a name, a row of a tensor and a line of a file mean the
same everywhere. The graph is only a description (no weights, no hooks): the same five values always give the same names in the
same order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.files.untrusted import shown
from circuits.plain_torch import plain_torch

Kind = Literal["q", "k", "v", "in"]
Part = Literal["q", "k", "v", "mlp", "logits"]

LARGEST = 40_000_000
"""Writers times readers that a file may state; a circuit's tables take up to 17 bytes for each. A model of 70B parameters has
34 million."""
LONGEST = 40
"""Characters of a name that are compared to find the nearest names; no valid name is longer."""


class Writer(NamedTuple):
    """A node that adds to the residual stream.

    Attributes:
        name: `input`, `a5.h2` or `m5`.
        kind: `input`, `head` or `mlp`.
        layer: its block; -1 for `input`.
        head: the head's index within its layer; None for `input` and MLPs.
    """

    name: str
    kind: Literal["input", "head", "mlp"]
    layer: int
    head: int | None


class Reader(NamedTuple):
    """A place that reads the residual stream.

    Attributes:
        name: `a5.h2<q>`, `a5.kv0<k>` (grouped-query attention), `m5` or `logits`.
        node: the name of its node: `a5.h2`, `a5.kv0`, `m5`, `logits`.
        kind: the key of its edges in a multigraph: `q`, `k`, `v`, or `in` for MLPs and logits.
        part: `q`, `k`, `v`, `mlp` or `logits`.
        layer: its block; the number of layers for `logits`.
        head: index of the (key/value) head; None for MLPs and logits.
        n_writers: number of writers before it, the first of `Graph.writers`.
        place: where it reads, in a graph over places (`circuits.graph.places`): `S2` or `S2=>end`; None: everywhere.
    """

    name: str
    node: str
    kind: Kind
    part: Part
    layer: int
    head: int | None
    n_writers: int
    place: str | None = None

    @property
    def key(self) -> str:
        """The key of its edges in a multigraph: the kind, with the place if it has one."""
        return self.kind if self.place is None else f"{self.kind}@{self.place}"


@dataclass(frozen=True)
class Graph:
    """Writers, readers and edges of a decoder-only transformer.

    Writers are in the order of the forward pass: `input`, then per layer its heads and its MLP. Readers likewise: per
    layer all q, all k, all v, then the MLP; `logits` last. An edge `writer->reader` exists if the writer comes before
    the reader, so the sources of a reader are the first writers.

    Attributes:
        n_layers: number of blocks.
        n_heads: query heads per layer.
        n_kv_heads: key/value heads per layer (equal to `n_heads` without grouped-query attention).
        mlps: per layer, whether it has an MLP.
        parallel: attention and MLP of a block read the same residual stream (GPT-J, Pythia, Phi, Falcon …).

    >>> graph = Graph(n_layers=2, n_heads=2, n_kv_heads=1, mlps=(True, True), parallel=False)
    >>> graph.writer_names
    ('input', 'a0.h0', 'a0.h1', 'm0', 'a1.h0', 'a1.h1', 'm1')
    >>> graph.reader_names[:5]
    ('a0.h0<q>', 'a0.h1<q>', 'a0.kv0<k>', 'a0.kv0<v>', 'm0')
    >>> graph.n_edges, graph.edges[0], graph.edges[-1]
    (36, 'input->a0.h0<q>', 'm1->logits')
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlps: tuple[bool, ...]
    parallel: bool = False

    def __post_init__(self) -> None:
        if min(self.n_layers, self.n_heads, self.n_kv_heads) < 1:
            raise InputError(f"a graph needs at least one layer and head, got {self}")
        if self.n_heads % self.n_kv_heads:
            raise InputError(f"{self.n_heads} heads cannot share {self.n_kv_heads} key/value heads evenly")
        if len(self.mlps) != self.n_layers:
            raise InputError(f"{self.n_layers} layers, but mlps names {len(self.mlps)}")

    @property
    def grouped(self) -> bool:
        """Whether several query heads share one key/value head."""
        return self.n_kv_heads != self.n_heads

    @property
    def group_size(self) -> int:
        """Query heads per key/value head."""
        return self.n_heads // self.n_kv_heads

    # --- writers and readers in order -------------------------------------------------------------------------------

    @cached_property
    def writer_nodes(self) -> tuple[Writer, ...]:
        """Every writer, in order."""
        nodes = [Writer("input", "input", -1, None)]
        for layer in range(self.n_layers):
            nodes += [Writer(f"a{layer}.h{head}", "head", layer, head) for head in range(self.n_heads)]
            if self.mlps[layer]:
                nodes.append(Writer(f"m{layer}", "mlp", layer, None))
        return tuple(nodes)

    @cached_property
    def reader_nodes(self) -> tuple[Reader, ...]:
        """Every reader, in order."""
        kv = "kv" if self.grouped else "h"
        readers: list[Reader] = []
        for layer in range(self.n_layers):
            before = self.n_writers_before_layer(layer)
            parts: tuple[tuple[Literal["q", "k", "v"], str, int], ...] = (
                ("q", "h", self.n_heads),
                ("k", kv, self.n_kv_heads),
                ("v", kv, self.n_kv_heads),
            )
            for part, letter, n in parts:
                for head in range(n):
                    node = f"a{layer}.{letter}{head}"
                    readers.append(Reader(f"{node}<{part}>", node, part, part, layer, head, before))
            if self.mlps[layer]:
                visible = before if self.parallel else before + self.n_heads
                readers.append(Reader(f"m{layer}", f"m{layer}", "in", "mlp", layer, None, visible))
        readers.append(Reader("logits", "logits", "in", "logits", self.n_layers, None, self.n_writers))
        return tuple(readers)

    def n_writers_before_layer(self, layer: int) -> int:
        """Number of writers that the attention of `layer` can read."""
        return 1 + layer * self.n_heads + sum(self.mlps[:layer])

    def head_writers(self, layer: int) -> slice:
        """The indices of the heads of `layer` among the writers."""
        start = self.n_writers_before_layer(layer)
        return slice(start, start + self.n_heads)

    def mlp_writer(self, layer: int) -> int:
        """The index of the MLP of `layer` among the writers."""
        if not self.mlps[layer]:
            raise InputError(f"layer {layer} has no MLP")
        return self.n_writers_before_layer(layer) + self.n_heads

    def readers_of(self, layer: int, part: Part) -> slice:
        """The indices of the readers of one part of a layer (for `logits`, of any layer)."""
        if part == "logits":
            return slice(self.n_readers - 1, self.n_readers)
        start = layer * (self.n_heads + 2 * self.n_kv_heads) + sum(self.mlps[:layer])
        offsets = {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_kv_heads}
        if part == "mlp":
            start += self.n_heads + 2 * self.n_kv_heads
            return slice(start, start + int(self.mlps[layer]))
        start += offsets[part]
        return slice(start, start + (self.n_heads if part == "q" else self.n_kv_heads))

    def nodes_fed_by(self, reader: Reader) -> tuple[str, ...]:
        """Names of the writers whose output depends on `reader`: one head, the heads of a group, an MLP, or none."""
        if reader.part == "logits":
            return ()
        if reader.part == "mlp" or not self.grouped or reader.part == "q":
            return (reader.node,)
        assert reader.head is not None
        first = reader.head * self.group_size
        return tuple(f"a{reader.layer}.h{head}" for head in range(first, first + self.group_size))

    def outputs_of(self, reader: Reader, coupled: bool = False) -> tuple[str, ...]:
        """Names of the outputs that depend on `reader`: of `nodes_fed_by`, or `logits`.

        Args:
            reader: a reader of this graph.
            coupled: the heads of a layer share one post-norm, so that each depends on the readers of all.
        """
        if coupled and reader.kind != "in":
            return self.writer_names[self.head_writers(reader.layer)]
        return self.nodes_fed_by(reader) or ("logits",)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what writers put out: the writers themselves, `input` first."""
        return self.writer_names

    @property
    def n_inputs(self) -> int:
        """How many of the `outputs` are the input's."""
        return 1

    def output_read(self, writer: int, reader: Reader) -> str:
        """Name of the output of a writer that `reader` reads."""
        return self.writer_names[writer]

    @cached_property
    def writers_fed(self) -> tuple[list[int], ...]:
        """For each reader the indices of the writers that depend on it; none for `logits`."""
        return tuple([self.writer_index(node) for node in self.nodes_fed_by(reader)] for reader in self.reader_nodes)

    @property
    def base(self) -> "Graph":
        """The graph without places: this one, see `circuits.graph.places`."""
        return self

    @property
    def n_writers(self) -> int:
        return len(self.writer_nodes)

    @property
    def n_readers(self) -> int:
        return len(self.reader_nodes)

    @property
    def n_edges(self) -> int:
        return sum(reader.n_writers for reader in self.reader_nodes)

    # --- names and positions ------------------------------------------------------------------------------------------

    @cached_property
    def writer_names(self) -> tuple[str, ...]:
        return tuple(writer.name for writer in self.writer_nodes)

    @cached_property
    def reader_names(self) -> tuple[str, ...]:
        return tuple(reader.name for reader in self.reader_nodes)

    @property
    def writers(self) -> tuple[str, ...]:
        """Names of the writers, in order."""
        return self.writer_names

    @property
    def readers(self) -> tuple[str, ...]:
        """Names of the readers, in order."""
        return self.reader_names

    @cached_property
    @plain_torch
    def edge_mask(self) -> Bool[Tensor, "writer reader"]:
        """True where an edge exists."""
        n_writers = torch.tensor([reader.n_writers for reader in self.reader_nodes])
        return torch.arange(self.n_writers)[:, None] < n_writers[None, :]

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """Names of all edges, `writer->reader`, in the row-major order of `edge_mask`."""
        return self.edge_names(self.edge_mask)

    def edge_names(self, mask: Bool[Tensor, "writer reader"]) -> tuple[str, ...]:
        """Names of the edges where `mask` is True, in graph order."""
        writers, readers = self.writer_names, self.reader_names
        return tuple(f"{writers[w]}->{readers[r]}" for w, r in mask.nonzero().tolist())

    @plain_torch
    def mask_of(self, names: Iterable[str]) -> Bool[Tensor, "writer reader"]:
        """True at the named edges; InputError with the nearest names if one does not exist."""
        return self.mask_at(torch.tensor([self.edge_index(name) for name in names], dtype=torch.long).reshape(-1, 2))

    @plain_torch
    def mask_at(self, edges: Int[Tensor, "edge 2"]) -> Bool[Tensor, "writer reader"]:
        """True at the edges with these (writer, reader)."""
        mask = torch.zeros(self.n_writers, self.n_readers, dtype=torch.bool)
        mask[edges[:, 0], edges[:, 1]] = True
        return mask

    @cached_property
    def _writer_positions(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.writer_names)}

    @cached_property
    def _reader_positions(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.reader_names)}

    def writer_index(self, name: str) -> int:
        """Index of a writer; InputError with the nearest names if there is none."""
        return _lookup(self._writer_positions, name, "writer")

    def reader_index(self, name: str) -> int:
        """Index of a reader; InputError with the nearest names if there is none."""
        return _lookup(self._reader_positions, name, "reader")

    def edge_index(self, name: str) -> tuple[int, int]:
        """(writer, reader) of an edge such as `a3.h0->a5.h2<q>`."""
        writer, arrow, reader = str(name).partition("->")
        if not arrow:
            expected = f"{self.writer_names[0]}->{self.reader_names[0]}"
            raise InputError(f"{_short(str(name))!r} is not an edge; expected 'writer->reader' such as {expected!r}")
        w, r = self.writer_index(writer.strip()), self.reader_index(reader.strip())
        if w >= self.reader_nodes[r].n_writers:
            raise InputError(f"there is no edge {_short(str(name))!r}: {writer} does not come before {reader}")
        return w, r

    def named(self, name: str) -> list[tuple[int, int]]:
        """(writer, reader) of all edges that a name means: one, or over places possibly several."""
        return [self.edge_index(name)]

    # --- files --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The five values that define the graph, as JSON values."""
        return asdict(self) | {"mlps": list(self.mlps)}

    @classmethod
    def from_dict(cls, data: Any) -> "Graph":
        """Inverse of `to_dict`, for untrusted input; InputError for a missing or invalid entry, or an absurd size."""
        if not isinstance(data, dict):
            raise InputError(f"a graph is described by an object, got {type(data).__name__}")
        sizes: list[Any] = [data.get(key) for key in ("n_layers", "n_heads", "n_kv_heads")]
        if any(type(size) is not int or not 1 <= size <= 10_000 for size in sizes):
            raise InputError(f"a graph needs n_layers, n_heads and n_kv_heads between 1 and 10,000, got {shown(sizes)}")
        mlps, parallel = data.get("mlps"), data.get("parallel")
        if not isinstance(mlps, Sequence) or isinstance(mlps, str) or any(type(mlp) is not bool for mlp in mlps):
            raise InputError("a graph needs 'mlps', a list with true or false per layer")
        if type(parallel) is not bool:
            raise InputError(f"a graph needs 'parallel', true or false, got {shown(parallel)}")
        n_layers, n_heads, n_kv_heads = sizes
        cells = (1 + n_layers * (n_heads + 1)) * (1 + n_layers * (n_heads + 2 * n_kv_heads + 1))
        if cells > LARGEST:
            raise InputError(f"a graph of {n_layers} layers and {n_heads} heads is too large")
        return cls(n_layers, n_heads, n_kv_heads, tuple(mlps), parallel)


def _lookup(positions: dict[str, int], name: str, what: str) -> int:
    if name in positions:
        return positions[name]
    near = get_close_matches(str(name)[:LONGEST], positions, n=3, cutoff=0.3)
    hint = f"; the nearest: {', '.join(near)}" if near else ""
    raise InputError(f"there is no {what} {_short(str(name))!r} in this graph{hint}")


def _short(name: str) -> str:
    return name if len(name) <= 2 * LONGEST else f"{name[: 2 * LONGEST]}…"
