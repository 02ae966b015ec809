"""Graphs over places: the same nodes, with an edge for every span of tokens at which it acts.

An edge `a5.h2->a9.h9<q>@S2` acts at the tokens of span `S2`: there, and only there, the reader reads the writer. A key or value is
read by queries at other tokens. With `destinations` its edges name the span of the query too: `a5.h2->a9.h9<v>@S2=>end` is the
value that the head reads at S2 for its queries at `end`.

A `PlacedGraph` is a `Graph` whose readers are (reader, place). So scores, selection, circuits, random circuits and files over places
are those of any graph, and the size of a circuit is its number of (edge, place) pairs. What depends on what is finer than in a
graph of nodes: a head's output at t depends on its query at t, and on its keys and values at t and before.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuits.errors import InputError
from circuits.files.untrusted import as_object, shown
from circuits.graph.graph import LARGEST, Graph, Reader
from circuits.plain_torch import plain_torch

REST = "*"
"""The span of all tokens that are in no named span."""
ARROW = "=>"
MOST_SPANS = 4096


class Place(NamedTuple):
    """Where an edge acts.

    Attributes:
        label: `S2` or `S2=>end`.
        source: index of the span where the reader reads.
        destination: index of the span of the query that uses what is read there; None: of all queries.
    """

    label: str
    source: int
    destination: int | None = None


@dataclass(frozen=True)
class Places:
    """The spans of a graph over places.

    Attributes:
        spans: their names in the order of the prompt; `*`, at the end, for all other tokens.
        destinations: whether edges into keys and values name the span of the query.
        read: spans in which logits are read; None: unknown, so any.

    Raises:
        InputError: no span, a name that is there twice or that an edge cannot carry, or an unknown span in `read`.
    """

    spans: tuple[str, ...]
    destinations: bool = False
    read: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.spans) <= MOST_SPANS:
            raise InputError(f"a graph over places needs between 1 and {MOST_SPANS} spans, got {len(self.spans)}")
        for name in self.spans:
            check_span(name)
            if self.spans.count(name) > 1:
                raise InputError(f"span {shown(name)} occurs twice; give every span its own name")
        if REST in self.spans[:-1]:
            raise InputError(f"{REST!r} stands for all other tokens, and comes last")
        for name in self.read or ():
            self.index(name)

    def index(self, span: str) -> int:
        """The number of a span; InputError if there is no such span."""
        if span not in self.spans:
            raise InputError(f"there is no span {shown(span)}; the spans are {', '.join(self.spans)}")
        return self.spans.index(span)

    @property
    def partition(self) -> bool:
        """Whether the spans are known to be in order and to cover the prompt."""
        return REST not in self.spans

    def after(self, source: int) -> tuple[int, ...]:
        """The spans whose queries can read a key of this span: itself and those after it (all, if their order is unknown)."""
        return tuple(range(source if self.partition else 0, len(self.spans)))

    @cached_property
    def alone(self) -> tuple[Place, ...]:
        """A place for each span."""
        return tuple(Place(name, i) for i, name in enumerate(self.spans))

    @cached_property
    def pairs(self) -> tuple[Place, ...]:
        """A place for each pair of a span and the span of a query that can read it."""
        return tuple(
            Place(f"{name}{ARROW}{self.spans[j]}", i, j) for i, name in enumerate(self.spans) for j in self.after(i)
        )

    def for_part(self, part: str) -> tuple[Place, ...]:
        """The places of a reader of this part: `q`, `k`, `v`, `mlp` or `logits`."""
        if part in ("k", "v") and self.destinations:
            return self.pairs
        if part == "logits" and self.read is not None:
            return tuple(place for place in self.alone if place.label in self.read)
        return self.alone

    def count(self, part: str) -> int:
        """The number of places of a reader of this part, without making them."""
        n = len(self.spans)
        if part in ("k", "v") and self.destinations:
            return n * (n + 1) // 2 if self.partition else n * n
        return n if part != "logits" or self.read is None else len(self.read)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        read = None if self.read is None else list(self.read)
        return {"spans": list(self.spans), "destinations": self.destinations, "read": read}

    @classmethod
    def from_dict(cls, data: Any) -> "Places":
        """Inverse of `to_dict`, for untrusted input; InputError for anything else."""
        data = as_object(data, "places")
        spans, destinations, read = data.get("spans"), data.get("destinations"), data.get("read")
        for what, names in (("spans", spans), ("read", [] if read is None else read)):
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise InputError(f"places need {what!r}, a list of names, got {shown(names)}")
        if type(destinations) is not bool:
            raise InputError(f"places need 'destinations', true or false, got {shown(destinations)}")
        return cls(tuple(spans), destinations, None if read is None else tuple(read))  # type: ignore[arg-type]


def check_span(name: object) -> None:
    """Refuses a name that a span of tokens cannot have in the name of an edge."""
    if not isinstance(name, str) or not name or len(name) > 100 or "->" in name or ARROW in name or "@" in name:
        raise InputError(
            f"{shown(name)} cannot name a span: names of spans have 1 to 100 characters, without '@', '->' and '{ARROW}'"
        )


@dataclass(frozen=True)
class PlacedGraph(Graph):
    """A graph whose readers are the readers of a model at each place; see the module docstring.

    >>> graph = Graph(n_layers=1, n_heads=1, n_kv_heads=1, mlps=(True,))
    >>> placed = over(graph, Places(("S", "end"), destinations=True))
    >>> placed.reader_names[:5]
    ('a0.h0<q>@S', 'a0.h0<q>@end', 'a0.h0<k>@S=>S', 'a0.h0<k>@S=>end', 'a0.h0<k>@end=>end')
    >>> placed.outputs_of(placed.reader_nodes[3])
    ('a0.h0@end',)
    >>> graph.n_edges, placed.n_edges
    (8, 18)
    """

    places: Places = field(default=Places((REST,)))

    @cached_property
    def base(self) -> Graph:
        return Graph(self.n_layers, self.n_heads, self.n_kv_heads, self.mlps, self.parallel)

    @cached_property
    def columns(self) -> tuple[tuple[int, Place], ...]:
        """For every reader the index of its reader in `base`, and its place."""
        return tuple(
            (r, place) for r, reader in enumerate(self.base.reader_nodes) for place in self.places.for_part(reader.part)
        )

    @cached_property
    def reader_nodes(self) -> tuple[Reader, ...]:
        readers = self.base.reader_nodes
        return tuple(
            readers[r]._replace(name=f"{readers[r].name}@{place.label}", place=place.label) for r, place in self.columns
        )

    @cached_property
    def _places(self) -> dict[str, Place]:
        return {place.label: place for place in (*self.places.alone, *self.places.pairs)}

    def outputs_of(self, reader: Reader, coupled: bool = False) -> tuple[str, ...]:
        """Names of the outputs that depend on a reader: `a5.h2@end`, or `logits`."""
        if reader.part == "logits":
            return ("logits",)
        assert reader.place is not None
        return self._outputs[reader.layer, reader.part, None if coupled else reader.head, reader.place]

    @cached_property
    def _outputs(self) -> "_Outputs":
        return _Outputs(self)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Every writer at every span: `a5.h2@end`."""
        return tuple(f"{writer}@{span}" for writer in self.writer_names for span in self.places.spans)

    @property
    def n_inputs(self) -> int:
        return len(self.places.spans)

    def output_read(self, writer: int, reader: Reader) -> str:
        """Name of the output of a writer, at the tokens where `reader` reads."""
        assert reader.place is not None
        return f"{self.writer_names[writer]}@{self.places.spans[self._places[reader.place].source]}"

    @cached_property
    def _columns_of(self) -> dict[tuple[int, str], list[int]]:
        """Indices of the readers at a span, by the index of their reader in `base` and the name of the span."""
        columns: dict[tuple[int, str], list[int]] = {}
        for column, (r, place) in enumerate(self.columns):
            columns.setdefault((r, self.places.spans[place.source]), []).append(column)
        return columns

    def named(self, name: str) -> list[tuple[int, int]]:
        """(writer, reader) of all edges of a name; one without a place means all places, one without `=>` all destinations.

        Raises:
            InputError: no such edge or place.
        """
        edge, at, label = str(name).partition("@")
        w, r = self.base.edge_index(edge)
        if not at:
            return [(w, column) for span in self.places.spans for column in self._columns_of.get((r, span), ())]
        source, arrow, destination = label.strip().partition(ARROW)
        self.places.index(source)
        if not arrow:
            return [(w, column) for column in self._columns_of.get((r, source), ())]
        self.places.index(destination)
        if not self.places.destinations or self.base.reader_nodes[r].part not in ("k", "v"):
            raise InputError(
                f"{shown(name)} names a destination; here only "
                + ("edges into keys and values have one" if self.places.destinations else "spans are places")
            )
        return [(w, self.reader_index(f"{self.base.reader_names[r]}@{source}{ARROW}{destination}"))]

    @plain_torch
    def mask_of(self, names: Iterable[str]) -> Bool[Tensor, "writer reader"]:
        """True at the named edges, see `named`."""
        edges = [edge for name in names for edge in self.named(name)]
        return self.mask_at(torch.tensor(edges, dtype=torch.long).reshape(-1, 2))

    def to_dict(self) -> dict[str, Any]:
        return self.base.to_dict() | {"places": self.places.to_dict()}


class _Outputs(dict[tuple[int, str, int | None, str], tuple[str, ...]]):
    """Names of the outputs that depend on a (layer, part, head, place); head None: of all heads of the layer."""

    def __init__(self, graph: PlacedGraph) -> None:
        super().__init__()
        self.graph = graph

    def __missing__(self, key: tuple[int, str, int | None, str]) -> tuple[str, ...]:
        layer, part, head, label = key
        graph, places = self.graph, self.graph.places
        place = graph._places[label]
        if part == "mlp":
            names, at = [f"m{layer}"], [place.source]
        else:
            shared = part in ("k", "v")
            size = graph.group_size if shared else 1
            heads = range(graph.n_heads) if head is None else range(head * size, (head + 1) * size)
            names = [f"a{layer}.h{h}" for h in heads]
            queries = places.after(place.source) if shared else (place.source,)
            at = list(queries) if place.destination is None else [place.destination]
        outputs = tuple(f"{name}@{places.spans[i]}" for name in names for i in at)
        self[key] = outputs
        return outputs


def over(graph: Graph, places: Places) -> PlacedGraph:
    """The graph over these places."""
    return PlacedGraph(graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.mlps, graph.parallel, places)


def named_places(names: Sequence[str]) -> Places | None:
    """The places that names of edges mention, and all other tokens; None if they mention none."""
    labels = [label for _, at, label in (str(name).partition("@") for name in names) if at]
    if not labels:
        return None
    ends = [end for label in labels for end in label.strip().split(ARROW)]
    spans = [span for span in dict.fromkeys(ends) if span != REST]
    return Places((*spans, REST), any(ARROW in label for label in labels))


def from_dict(data: Any) -> Graph:
    """The graph that `to_dict` wrote, with or without places, for untrusted input; InputError for anything else."""
    graph = Graph.from_dict(data)
    if not isinstance(data, Mapping) or data.get("places") is None:
        return graph
    places = Places.from_dict(data["places"])
    columns = sum(places.count(reader.part) for reader in graph.reader_nodes)
    if columns * graph.n_writers > LARGEST:
        raise InputError(
            f"a graph of {graph.n_writers} writers and {columns} readers at places is larger than can be read"
        )
    return over(graph, places)


def common_places(one: Graph, other: Graph) -> Places:
    """The places over which circuits of two graphs can be compared.

    Raises:
        InputError: the graphs have different spans, so that no span of one says where it lies in the other.
    """
    known = [graph.places for graph in (one, other) if isinstance(graph, PlacedGraph)]
    if not known:
        raise InputError("neither graph has places")
    first, last = known[0], known[-1]
    destinations = first.destinations or last.destinations
    reads = {places.read for places in known if places.read is not None}
    read = reads.pop() if len(reads) == 1 else None
    whole = [places.spans for places in known if places.partition]
    if not whole:
        named = [span for span in dict.fromkeys((*first.spans, *last.spans)) if span != REST]
        return Places((*named, REST), destinations, read)
    for places in known:
        if missing := [span for span in places.spans if span not in (*whole[0], REST)]:
            raise InputError(
                f"the circuits have different spans: {', '.join(missing)} is not among {', '.join(whole[0])}"
            )
        if places.partition and places.spans != whole[0]:
            raise InputError(f"the circuits have different spans: {', '.join(places.spans)} and {', '.join(whole[0])}")
    return Places(whole[0], destinations, read)


def source_columns(old: Graph, new: PlacedGraph) -> Int[Tensor, " reader"]:
    """For every reader of `new` the reader of `old` that it is a part of; -1: there is none.

    Raises:
        InputError: `old` has spans or destinations that `new` does not have.
    """
    if not isinstance(old, PlacedGraph):
        return torch.tensor([r for r, _ in new.columns])
    if missing := [span for span in old.places.spans if span not in (*new.places.spans, REST)]:
        raise InputError(
            f"there is no place {', '.join(missing)} here; the spans are {', '.join(new.places.spans)} "
            "(circuits over places belong to prompts with the same spans)"
        )
    if old.places.destinations and not new.places.destinations:
        raise InputError("the circuit's edges have destinations, and the new places do not")
    number = {(r, place.label): column for column, (r, place) in enumerate(old.columns)}
    spans = [span if span in old.places.spans else REST for span in new.places.spans]

    def column(r: int, place: Place) -> int:
        label = spans[place.source]
        if place.destination is not None and (r, label) not in number:
            label = f"{label}{ARROW}{spans[place.destination]}"
        return number.get((r, label), -1)

    return torch.tensor([column(r, place) for r, place in new.columns])
