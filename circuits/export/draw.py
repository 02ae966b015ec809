"""From a circuit to its drawing: which boxes and lines there are.

A circuit over places is drawn over tokens: a column for each span, and a box for each node at each span where it is in the circuit.
A line goes from the writer at the span where it is read to the reader's output that uses it: an edge `@S2` goes up within the column
of S2, an edge `@S2=>end` from the column of S2 to that of the end. An edge into a key or value without a destination goes to the
head at every span of the circuit that can read it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import median_low
from typing import NamedTuple

import networkx

from circuits.errors import InputError
from circuits.export.drawing import (
    GROUP,
    KIND_COLOURS,
    LONGEST_WORDS,
    MOST,
    SIGN_COLOURS,
    Column,
    Drawing,
    DrawnEdge,
    DrawnNode,
    line_width,
    sign_of,
)
from circuits.export.placing import kind_of, level
from circuits.graph.graph import Graph, Kind, Reader
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming
from circuits.results.recorded import quantity_of

LONGEST_MEMBERS = 60
"""Letters of the members in a group's box."""


def check_max_edges(max_edges: int | None) -> None:
    if max_edges is not None and max_edges < 1:
        raise InputError(f"max_edges must be at least 1, got {max_edges}")


def draw(
    circuit: Circuit,
    naming: Naming | None = None,
    *,
    max_edges: int | None = None,
    colours: str = "sign",
    direction: str = "up",
    layout: str | None = None,
    words: Mapping[str, str] | None = None,
) -> Drawing:
    """The drawing of a circuit.

    An edge into a shared key/value head is drawn into each head of its group that is in the circuit. Edges between groups are
    summed, for each of q, k, v and `in`; edges inside a group are not drawn. Two groups may have edges in both directions, some
    of which go down.

    Args:
        circuit: any circuit.
        naming: labels and groups.
        max_edges: draw this many of the strongest lines, and of them those on a path from `input` to `logits` (all, if there
            is no path); None: all lines.
        colours: `sign`: blue for positive effects, vermilion for negative ones, green for sizes without sign; `kind`: by q, k
            and v.
        direction: of the layers, `up` or `right`.
        layout: `tokens`: a column for each span of a circuit over places; `graph`: one box for each node, with the effects
            summed over places; None: `tokens` if the circuit has places.
        words: over tokens, span -> the words of an example, shown below its name; long ones are cut.

    Raises:
        InputError: an unknown node, an option out of range, or more lines than can be drawn.
    """
    _check_options(circuit, colours, direction, layout, words)
    check_max_edges(max_edges)
    naming = (naming or Naming()).checked(circuit.graph)
    circuit = circuit.without_places() if layout == "graph" else circuit
    box_of = _box_of(circuit, naming)
    totals = _totals(circuit, box_of)
    order = sorted(totals, key=lambda key: abs(totals[key] or 0.0), reverse=True)
    strongest = order[:max_edges]
    kept = (len(strongest) < len(order) and _on_paths(strongest, box_of)) or strongest
    if len(kept) > MOST:
        raise InputError(
            f"{len(kept):,} lines are too many for a picture; draw the strongest with --max-edges (max_edges=), at most {MOST}"
        )
    nodes = _boxes(circuit, naming, box_of, {end for source, target, _ in kept for end in (source, target)})
    ids = {box: node.id for box, node in nodes.items()}
    largest = max((abs(totals[key] or 0.0) for key in kept), default=0.0)
    quantity = quantity_of(circuit.provenance)
    edges = tuple(
        _edge(ids[s], ids[t], k, totals[s, t, k], largest, colours, quantity.signed) for s, t, k in reversed(kept)
    )
    left_out, dead_ends = len(order) - len(strongest), len(strongest) - len(kept)
    columns = tuple(Column(span, _cut((words or {}).get(span))) for span in circuit.places or ())
    return Drawing(tuple(nodes.values()), edges, colours, direction == "right", left_out, dead_ends, quantity, columns)


def _check_options(
    circuit: Circuit, colours: str, direction: str, layout: str | None, words: Mapping[str, str] | None
) -> None:
    if colours not in ("sign", "kind") or direction not in ("up", "right"):
        raise InputError(
            f"colours must be 'sign' or 'kind' and direction 'up' or 'right', got {colours!r}, {direction!r}"
        )
    if layout not in (None, "graph", "tokens"):
        raise InputError(f"layout must be 'graph' or 'tokens', got {layout!r}")
    if layout == "tokens" and circuit.places is None:
        raise InputError(
            "this circuit has no places, so it cannot be drawn over tokens; find one with --positions spans (positions='spans')"
        )
    if circuit.places is not None and layout != "graph" and direction == "right":
        raise InputError("over tokens layers go up; direction 'right' needs layout 'graph'")
    for span in words or ():
        if span not in (circuit.places or ()):
            raise InputError(f"words for the span {span!r}, which the circuit does not have: {circuit.places}")


class _Box(NamedTuple):
    """A node or, with the prefix `GROUP`, a group; over tokens at a span, by its number."""

    name: str
    column: int | None = None


_Line = tuple[_Box, _Box, Kind]
"""Source box, target box, kind."""


def _box_of(circuit: Circuit, naming: Naming) -> dict[str, _Box]:
    """The box of each output of the circuit; over places, `logits` are an output at each span where they are read."""
    homes = {node: f"{GROUP}{label}" for label, nodes in naming.groups.items() for node in nodes}
    spans = {span: i for i, span in enumerate(circuit.places or ())}
    outputs = [output for output in circuit.outputs if output != "logits" or not spans]
    if spans:
        read = {circuit.graph.reader_nodes[r] for _, r, *_ in circuit.entries()}
        outputs += sorted(_outputs(circuit.graph, reader)[0] for reader in read if reader.part == "logits")
    split = [(output, *output.partition("@")) for output in outputs]
    return {output: _Box(homes.get(node, node), spans.get(span)) for output, node, _, span in split}


def _outputs(graph: Graph, reader: Reader) -> tuple[str, ...]:
    """The outputs that depend on a reader; over places, of logits `logits@end`."""
    logits = reader.part == "logits" and reader.place is not None
    return (f"logits@{reader.place}",) if logits else graph.outputs_of(reader)


def _on_paths(lines: Sequence[_Line], box_of: Mapping[str, _Box]) -> list[_Line]:
    """The lines on a path from `input` to `logits`."""
    graph = networkx.DiGraph((source, target) for source, target, _ in lines)
    ends = {
        node: {box for name, box in box_of.items() if name.partition("@")[0] == node} for node in ("input", "logits")
    }
    starts, goals = (boxes.intersection(graph) for boxes in (ends["input"], ends["logits"]))
    fed = starts.union(*(networkx.descendants(graph, start) for start in starts))
    needed = goals.union(*(networkx.ancestors(graph, goal) for goal in goals))
    return [line for line in lines if {line[0], line[1]} <= fed & needed]


def _totals(circuit: Circuit, box_of: Mapping[str, _Box]) -> dict[_Line, float | None]:
    """The sum of effects for each line; an edge counts once for a box that has several of its heads."""
    graph = circuit.graph
    totals: dict[_Line, list[float | None]] = {}
    readers = graph.reader_nodes
    targets = [
        list(dict.fromkeys(box_of[output] for output in _outputs(graph, reader) if output in box_of))
        for reader in readers
    ]
    for w, r, score, _ in circuit.entries():
        source = box_of[graph.output_read(w, readers[r])]
        for target in targets[r]:
            if target != source:
                totals.setdefault((source, target, readers[r].kind), []).append(score)
    return {key: _sum(scores) if len(scores) > 1 else scores[0] for key, scores in totals.items()}


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _boxes(circuit: Circuit, naming: Naming, box_of: Mapping[str, _Box], used: set[_Box]) -> dict[_Box, DrawnNode]:
    members: dict[_Box, list[str]] = {}
    heights: dict[str, dict[str, int]] = {}
    n_layers = circuit.graph.n_layers
    for output, box in box_of.items():
        node = output.partition("@")[0]
        heights.setdefault(box.name, {})[node] = level(node, n_layers)
        if box in used:
            members.setdefault(box, []).append(node)
    rows = {name: median_low(levels.values()) for name, levels in heights.items()}
    boxes = {}
    for i, box in enumerate(sorted(members, key=lambda box: rows[box.name])):
        nodes = tuple(members[box])
        if box.name.startswith(GROUP):
            name, label, detail, kind = f"{GROUP}{i}", box.name.removeprefix(GROUP), _listed(nodes), "group"
        else:
            role = naming.labels.get(box.name)
            at = "" if box.column is None else f"@{box.column}"
            name, label = f"{box.name}{at}", role or box.name
            detail, kind = box.name if role and role != box.name else None, kind_of(box.name)
        boxes[box] = DrawnNode(name, label, detail, kind, nodes, rows[box.name], box.column)
    return boxes


def _cut(words: str | None) -> str | None:
    """Words that fit below a column; of long ones the first and the last."""
    if words is None or len(words) <= LONGEST_WORDS:
        return words
    half = (LONGEST_WORDS - 3) // 2
    return f"{words[:half].rstrip()} … {words[-half:].lstrip()}"


def _listed(nodes: tuple[str, ...]) -> str:
    parts = [
        _of_one_layer(prefix, list(each)) for prefix, each in groupby(nodes, lambda node: node.rpartition(".h")[0])
    ]
    text = ", ".join(parts)
    return text if len(text) <= LONGEST_MEMBERS else f"{', '.join(nodes[:3])} and {len(nodes) - 3} more"


def _of_one_layer(prefix: str, nodes: Sequence[str]) -> str:
    """
    >>> _of_one_layer("a23", ["a23.h0", "a23.h1", "a23.h7"]), _of_one_layer("", ["m3"])
    ('a23.h0,1,7', 'm3')
    """
    return ", ".join(nodes) if not prefix else f"{prefix}.h{','.join(node.rpartition('.h')[2] for node in nodes)}"


def _edge(
    source: str, target: str, kind: Kind, score: float | None, largest: float, colours: str, signed: bool
) -> DrawnEdge:
    width = line_width(abs(score) / largest if score is not None and largest else 1 / 16)
    colour = KIND_COLOURS[kind] if colours == "kind" else SIGN_COLOURS[sign_of(score, signed)]
    return DrawnEdge(source, target, kind, score, width, colour, signed)
