"""A circuit: a set of edges of a graph, and thereby of nodes. Everything else is ablated."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.graph.paths import live_nodes, outputs_from_input
from circuits.graph.places import PlacedGraph, Places, common_places, named_places, over, source_columns
from circuits.plain_torch import plain_methods
from circuits.results.edge_list import TABLES, EdgeList, Table
from circuits.results.edge_set import EdgeSet
from circuits.results.place_tables import taken, without_places
from circuits.results.provenance import Provenance, frozen
from circuits.shown import Shown, from_above

if TYPE_CHECKING:
    import networkx as nx


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Circuit(EdgeSet, Shown):
    """A set of edges, with the scores by which they were chosen.

    Circuits are equal if they have the same edges of the same graph. They combine with `|`, `&`, `-`, `^` and compare with `<=`;
    a combination keeps the scores of the left circuit.

    Attributes:
        graph: the graph of its edges.
        mask: True at its edges.
        scores: the score of each edge, NaN for edges without one; None if no edge has one.
        stderr: the standard errors of the scores, likewise.
        provenance: its origin.

    >>> graph = Graph(n_layers=1, n_heads=2, n_kv_heads=2, mlps=(True,))
    >>> circuit = Circuit.from_edges(graph, ["input->a0.h1<v>", "a0.h1->logits"])
    >>> len(circuit), circuit.nodes
    (2, ('input', 'a0.h1', 'logits'))
    >>> circuit <= Circuit.full(graph)
    True
    """

    graph: Graph
    mask: Bool[Tensor, "writer reader"]
    scores: Float[Tensor, "writer reader"] | None = field(default_factory=lambda: None)
    stderr: Float[Tensor, "writer reader"] | None = field(default_factory=lambda: None)
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def __post_init__(self) -> None:
        shape = self.graph.edge_mask.shape
        for name in ("mask", "scores", "stderr"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.shape != shape:
                raise InputError(
                    f"{name} has shape {tuple(tensor.shape)}; this graph has {tuple(shape)} (writer, reader)"
                )
        if bool((self.mask & ~self.graph.edge_mask).any()):
            raise InputError("the circuit holds edges that the graph does not have")

    @classmethod
    def full(cls, graph: Graph) -> "Circuit":
        """All edges: the whole model."""
        return cls(graph, graph.edge_mask.clone())

    @classmethod
    def empty(cls, graph: Graph) -> "Circuit":
        """No edges: everything ablated."""
        return cls(graph, torch.zeros_like(graph.edge_mask))

    @classmethod
    def from_edges(cls, graph: Graph, names: Iterable[str]) -> "Circuit":
        """A circuit from the names of its edges.

        Args:
            graph: a model's graph, or one over places.
            names: an edge may be named with its place, `a5.h2->a9.h9<v>@S2=>end`. One without a place is kept at all places,
                and one without `=>` for queries at all places.

        Raises:
            InputError: an edge does not exist; the message has the nearest names.
        """
        listed = [names] if isinstance(names, str) else list(names)
        places = None if isinstance(graph, PlacedGraph) else named_places(listed)
        graph = graph if places is None else over(graph, places)
        return cls(graph, graph.mask_of(listed))

    @classmethod
    def from_indices(
        cls,
        graph: Graph,
        writers: Int[Tensor, " edge"],
        readers: Int[Tensor, " edge"],
        scores: Float[Tensor, " edge"] | None = None,
        stderr: Float[Tensor, " edge"] | None = None,
        provenance: Provenance | None = None,
    ) -> "Circuit":
        """A circuit from the indices of the writers and readers of its edges, in any order; duplicates count once.

        `mask`, `scores` and `stderr` are made when they are first used. Until then a few edges of a model of 70 billion
        parameters need little memory, although it has 34 million pairs of writers and readers.

        Raises:
            InputError: an edge that the graph does not have.
        """
        listed = EdgeList.in_graph_order(graph, writers, readers, {"scores": scores, "stderr": stderr})
        circuit = object.__new__(cls)
        origin = frozen(None) if provenance is None else provenance
        vars(circuit).update(graph=graph, provenance=origin, _put_off=listed)
        return circuit

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Makes the tables of a circuit from `from_indices`."""
            listed = self._listed
            if listed is None or name not in ("mask", *TABLES):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            made = listed.mask(self.graph) if name == "mask" else listed.table(self.graph, name)
            return self.__dict__.setdefault(name, made)

    # --- places -------------------------------------------------------------------------------------------------------

    @property
    def places(self) -> tuple[str, ...] | None:
        """Names of the spans at which its edges act; None if they act at all tokens."""
        return self.graph.places.spans if isinstance(self.graph, PlacedGraph) else None

    @property
    def unit(self) -> str:
        """What its size counts: `edges`, or `(edge, place) pairs`."""
        return "edges" if self.places is None else "(edge, place) pairs"

    def without_places(self) -> "Circuit":
        """The circuit of the model's graph with every edge that is kept at some place.

        An edge's score is the sum of its scores at the places where it is kept; it has no standard error.
        """
        if not isinstance(self.graph, PlacedGraph):
            return self
        return self._collapsed(self.mask)

    def at(self, span: str) -> "Circuit":
        """The edges that act at a span, as a circuit of the model's graph; InputError if there is no such span."""
        if not isinstance(self.graph, PlacedGraph):
            raise InputError("this circuit has no places: its edges act at all tokens")
        source = self.graph.places.index(span)
        here = torch.tensor([place.source == source for _, place in self.graph.columns])
        return self._collapsed(self.mask & here)

    def over(self, places: Places) -> "Circuit":
        """The same circuit over other places: an edge is kept at a new place if it was kept at all of it.

        Raises:
            InputError: it has places that the new ones do not have.
        """
        graph = over(self.graph.base, places)
        if graph == self.graph:
            return self
        columns = source_columns(self.graph, graph)
        scores, stderr = (None if (table := getattr(self, name)) is None else taken(table, columns) for name in TABLES)
        return Circuit(graph, taken(self.mask, columns) & graph.edge_mask, scores, stderr, self.provenance)

    def _collapsed(self, mask: Tensor) -> "Circuit":
        assert isinstance(self.graph, PlacedGraph)
        return Circuit(self.graph.base, *without_places(self.graph, mask, self.scores), None, self.provenance)

    # --- contents -----------------------------------------------------------------------------------------------------

    @property
    def edges(self) -> tuple[str, ...]:
        """Names of its edges, in graph order."""
        names, ends = self.graph.writer_names, self.graph.reader_names
        return tuple(f"{names[w]}->{ends[r]}" for w, r in zip(*(i.tolist() for i in self._indices()), strict=True))

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes of its edges, in graph order, `logits` last.

        An edge into a shared key/value head belongs to the heads of the group that write an edge; if none does, to all.
        """
        outputs = self.outputs
        if not isinstance(self.graph, PlacedGraph):
            return outputs
        nodes = {output.partition("@")[0] for output in outputs}
        return tuple(name for name in (*self.graph.writer_names, "logits") if name in nodes)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of its nodes, in graph order, `logits` last: the nodes, or over places `a5.h2@end`."""
        graph, touched = self.graph, set()
        writing = {graph.output_read(w, graph.reader_nodes[r]) for w, r in self._first_of_each_output()}
        for r in self._indices()[1].unique().tolist():
            fed = set(graph.outputs_of(graph.reader_nodes[r]))
            touched |= (writing & fed) or fed
        return tuple(name for name in (*graph.outputs, "logits") if name in writing or name in touched)

    def _first_of_each_output(self) -> Iterator[tuple[int, int]]:
        """Edges out of all outputs: one of each writer, or over places all edges."""
        writers, readers = self._indices()
        if not isinstance(self.graph, PlacedGraph):
            yield from ((w, -1) for w in writers.unique().tolist())
        else:
            yield from zip(writers.tolist(), readers.tolist(), strict=True)

    def entries(self) -> list[tuple[int, int, float | None, float | None]]:
        """Its edges in graph order: indices of writer and reader, score and standard error (or None).

        For loops over all edges; looking up single entries of the tensors takes a hundred times as long.
        """
        writers, readers = (index.tolist() for index in self._indices())
        columns = [self.column(name) for name in TABLES]
        known = [[None] * len(writers) if column is None else map(_or_none, column.tolist()) for column in columns]
        return list(zip(writers, readers, *known, strict=True))

    def column(self, name: Table) -> Float[Tensor, " edge"] | None:
        """`scores` or `stderr` of its edges, in graph order, NaN for edges without one; None if no edge has one."""
        if self._listed is not None:
            return self._listed.columns[name]
        table = getattr(self, name)
        return None if table is None else table[self.mask]

    def _indices(self) -> tuple[Int[Tensor, " edge"], Int[Tensor, " edge"]]:
        """Indices of its edges' writers and readers, in graph order."""
        if self._listed is not None:
            return self._listed.writers, self._listed.readers
        writers, readers = self.mask.nonzero(as_tuple=True)
        return writers, readers

    @property
    def _listed(self) -> EdgeList | None:
        return self.__dict__.get("_put_off")

    def rows(self) -> list[dict[str, Any]]:
        """One row per edge in graph order: its name, both ends, score and standard error (None where it has none)."""
        names, ends = self.graph.writer_names, self.graph.reader_names
        return [
            {"edge": f"{names[w]}->{ends[r]}", "source": names[w], "target": ends[r], "score": score, "stderr": stderr}
            for w, r, score, stderr in self.entries()
        ]

    def _shown_rows(self) -> list[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -abs(row["score"] or 0))

    def __getitem__(self, edge: str) -> float | None:
        """An edge's score, None if it has none.

        Raises:
            InputError: no such edge, or one that is not in the circuit.
        """
        if edge not in self:
            raise InputError(f"{edge} is not in this circuit of {len(self)} edges")
        return self.score(edge)

    def score(self, edge: str) -> float | None:
        """The score of an edge, None if it has none; over places, the sum over all that the name means."""
        if self.scores is None:
            return None
        scores = [float(self.scores[edge]) for edge in self.graph.named(edge)]
        known = [score for score in scores if score == score]
        return math.fsum(known) if known else None

    def __len__(self) -> int:
        return int(self.mask.sum()) if self._listed is None else len(self._listed.writers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.edges)

    def __contains__(self, edge: str) -> bool:
        return all(bool(self.mask[index]) for index in self.graph.named(edge))

    def __repr__(self) -> str:
        return f"Circuit({len(self)} of {self.graph.n_edges} {self.unit}, {len(self.nodes)} nodes)"

    def plot(self, **options: Any) -> Any:
        """The circuit's graph as a picture that a notebook shows; see `circuits.notebook.plot`."""
        return from_above("plot")(self, **options)

    def view(self, model: Any = None, pairs: Any = None, pair: int = 0, height: int = 700) -> Any:
        """The viewer's page, shown in a notebook; with a model and pairs also their prompts; see `circuits.notebook.view`."""
        return from_above("view")(self, model, pairs, pair, height)

    # --- as a set -----------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        return self.graph == other.graph and bool(torch.equal(self.mask, other.mask))

    def __hash__(self) -> int:
        return hash((self.graph, self.mask.numpy().tobytes()))

    def _with(self, mask: Tensor) -> "Circuit":
        return replace(self, mask=mask)

    def _together(self, other: "Circuit") -> tuple["Circuit", "Circuit"]:
        """Both circuits over the places of either; InputError if they cannot be combined."""
        if not isinstance(other, Circuit):
            raise InputError(f"expected a Circuit, got {type(other).__name__}")
        if other.graph.base != self.graph.base:
            raise InputError(f"circuits of two graphs cannot be combined: {self.graph} and {other.graph}")
        if other.graph == self.graph:
            return self, other
        places = common_places(self.graph, other.graph)
        return self.over(places), other.over(places)

    # --- pruning ------------------------------------------------------------------------------------------------------

    def pruned(self) -> "Circuit":
        """The circuit without dead ends: only the edges on a path from `input` to `logits`.

        A head is on a path if its q, k or v is. Removing edges that cannot reach `logits` never changes the metric (except in
        post-norm models such as Gemma-2, where all heads of a layer share one norm). Removing nodes without inputs does not
        change it under interchange ablation, where they compute their corrupted value; other ablations replace what such a node
        computes from constants.
        """
        graph = self.graph
        mask = outputs_from_input(graph, self.mask)
        alive = live_nodes(graph, mask)
        feeds = [any(output in alive for output in graph.outputs_of(r)) for r in graph.reader_nodes]
        return self._with(mask & torch.tensor(feeds)[None, :])

    # --- other shapes -------------------------------------------------------------------------------------------------

    def to_networkx(self, expand_groups: bool = False) -> "nx.MultiDiGraph":
        """The circuit as a MultiDiGraph; see `circuits.results.circuit_file.to_networkx`."""
        from circuits.results.circuit_file import to_networkx

        return to_networkx(self, expand_groups=expand_groups)

    @classmethod
    def from_networkx(cls, graph: "nx.MultiDiGraph") -> "Circuit":
        """Inverse of `to_networkx`."""
        from circuits.results.circuit_file import from_networkx

        return cls.from_indices(**from_networkx(graph))

    def to_json(self, path: str | Path) -> None:
        """Writes the circuit as node-link JSON; see `circuits.results.circuit_file`."""
        from circuits.results.circuit_file import write_json

        write_json(self, path)

    @classmethod
    def from_json(cls, path: str | Path) -> "Circuit":
        """Reads what `to_json` wrote; InputError for any other file."""
        from circuits.results.circuit_file import read_json

        return cls.from_indices(**read_json(path))

    def to_graphml(self, path: str | Path) -> None:
        """Writes the circuit as GraphML; see `circuits.results.graphml`."""
        from circuits.results.graphml import write_graphml

        write_graphml(self, path)

    def with_provenance(self, **entries: Any) -> "Circuit":
        """The same circuit with entries added to its provenance."""
        return replace(self, provenance=frozen({**self.provenance, **entries}))


def _or_none(value: float) -> float | None:
    return None if value != value else value
