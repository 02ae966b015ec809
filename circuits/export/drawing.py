"""A drawing of a circuit, for all formats: its boxes and lines, and their style.

DOT, TikZ, SVG, PDF and PNG use the same drawing, so that they look alike. No information is in colour alone: the sign of an
effect is also solid or dashed, and the input of a head (query, key, value) is the shape of the arrow head. Colours are those of
Okabe and Ito (2008), which can be distinguished with every common kind of colour blindness, and in greyscale.

A circuit over places is drawn over tokens: a column for each span, and a box for each node at each span where it is in the circuit.
A line goes from the writer at the span where it is read to the reader's output that uses it: an edge `@S2` goes up within the column
of S2, an edge `@S2=>end` from the column of S2 to that of the end. An edge into a key or value without a destination goes to the
head at every span of the circuit that can read it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Literal, NamedTuple

import networkx

from circuits.errors import InputError
from circuits.export.placing import kind_of, level
from circuits.graph.graph import Graph, Kind, Reader
from circuits.results.circuit import Circuit
from circuits.results.naming import Naming
from circuits.results.quantity import EFFECT, Quantity, quantity_of

Sign = Literal["helps", "hurts", "size", "unscored"]
"""`size`: a score without a sign."""
SIGN_COLOURS: dict[str, str] = {"helps": "#0072B2", "hurts": "#D55E00", "size": "#009E73", "unscored": "#555555"}
KIND_COLOURS: dict[str, str] = {"q": "#D55E00", "k": "#009E73", "v": "#0072B2", "in": "#555555"}
KIND_WORDS: dict[str, str] = {"q": "query", "k": "key", "v": "value", "in": "MLP, logits"}
FILLS = {"input": "#E6E6E6", "head": "#FFFFFF", "mlp": "#FBF3C6", "logits": "#E6E6E6", "group": "#DCEEF9"}
STRIPES = ("#F3F5F7", "#FFFFFF")
"""Colours of columns."""
LONGEST_WORDS = 24
"""Characters of the words below a column."""
MOST = 5000
"""The largest number of lines; the layout of more takes minutes."""
THINNEST, THICKEST = 0.5, 3.6
"""Widths of lines, in points."""
FONT, SMALL_FONT = 9.0, 7.0
"""Sizes of a label and of the line below it, in points."""
GROUP = "group "
"""Prefix that distinguishes names of groups from those of nodes."""


@dataclass(frozen=True)
class DrawnNode:
    """A box.

    Attributes:
        id: the name of the node, or `group 0` …; never the user's text.
        label: the first line of text.
        detail: a smaller second line, or None.
        kind: `input`, `head`, `mlp`, `logits` or `group`.
        members: the nodes in it.
        row: its row, counted from the bottom.
        column: over tokens, the number of its span.
    """

    id: str
    label: str
    detail: str | None
    kind: str
    members: tuple[str, ...]
    row: int
    column: int | None = None

    @property
    def width(self) -> float:
        """In points, estimated from the text."""
        return max(24.0, text_width(self.label, FONT) + 10.0, text_width(self.detail or "", SMALL_FONT) + 10.0)

    @property
    def height(self) -> float:
        """In points."""
        return 25.0 if self.detail else 16.0


@dataclass(frozen=True)
class DrawnEdge:
    """A line.

    Attributes:
        source, target: ids of its boxes.
        kind: the input at the target: `q`, `k`, `v`, or `in` for MLPs and logits.
        score: its effect (for groups, the sum), None if unknown.
        width: in points; proportional to the square root of the absolute effect.
        colour: hexadecimal.
        signed: whether the sign of the score has a meaning, see `circuits.results.quantity`.
    """

    source: str
    target: str
    kind: Kind
    score: float | None
    width: float
    colour: str
    signed: bool = True

    @property
    def sign(self) -> Sign:
        return _sign(self.score, self.signed)

    @property
    def dashed(self) -> bool:
        return self.sign == "hurts"


@dataclass(frozen=True)
class Drawing:
    """All boxes and lines.

    Attributes:
        nodes: from the bottom row up.
        edges: weak ones first, so that strong ones are on top.
        colours: the meaning of colours: `sign` or `kind`.
        rightward: layers go to the right instead of up.
        left_out: number of lines that `max_edges` left out.
        dead_ends: number of lines among the strongest that were left out since they are on no path from `input` to `logits`.
        quantity: what the scores are.
        columns: over tokens, the span of each column.
    """

    nodes: tuple[DrawnNode, ...]
    edges: tuple[DrawnEdge, ...]
    colours: str
    rightward: bool
    left_out: int
    dead_ends: int
    quantity: Quantity = EFFECT
    columns: tuple["Column", ...] = ()

    @property
    def selection(self) -> str:
        """The number of lines drawn and of all lines, in words."""
        shown = len(self.edges)
        without = f"; {self.dead_ends} on no path from input to logits were left out" if self.dead_ends else ""
        return f"{shown} of {shown + self.left_out + self.dead_ends} lines drawn, the strongest{without}"

    @property
    def rows(self) -> tuple[tuple[DrawnNode, ...], ...]:
        """The boxes of each row, from the bottom up."""
        heights = sorted({node.row for node in self.nodes})
        return tuple(tuple(node for node in self.nodes if node.row == height) for height in heights)

    @property
    def legend(self) -> tuple["LegendLine", ...]:
        """An entry for each sign and kind of the lines."""
        signs, kinds = {edge.sign for edge in self.edges}, {edge.kind for edge in self.edges}
        name, by_sign = self.quantity.name, self.colours == "sign"
        words = {
            "helps": f"positive {name}",
            "hurts": f"negative {name}",
            "size": f"{name}, without sign: wider is more",
        }
        entries = [
            LegendLine(text, "none", SIGN_COLOURS[sign] if by_sign else "#000000", sign == "hurts")
            for sign, text in words.items()
            if sign in signs
        ]
        entries += self._widths()
        entries += [
            LegendLine(f"to {KIND_WORDS[kind]}", kind, "#000000" if by_sign else KIND_COLOURS[kind], False)
            for kind in ("q", "k", "v", "in")
            if kind in kinds
        ]
        return tuple(entries)

    def _widths(self) -> list["LegendLine"]:
        """The widest line, and one of a tenth of its score."""
        largest = max((abs(edge.score) for edge in self.edges if edge.score is not None), default=0.0)
        if not largest:
            return []
        unit = f" {self.quantity.unit}" if self.quantity.unit else ""
        return [
            LegendLine(f"{share * largest:.2g}{unit}", "none", "#000000", False, _width(share)) for share in (1.0, 0.1)
        ]


class Column(NamedTuple):
    """A span of tokens: its name, and below it the words of an example, if given."""

    name: str
    words: str | None = None


@dataclass(frozen=True)
class LegendLine:
    """A sample line with its meaning; `head` is a kind of edge, or `none` for a line without an arrow head."""

    text: str
    head: str
    colour: str
    dashed: bool
    width: float = 1.3


def text_width(text: str, size: float) -> float:
    """Upper estimate of the width of a text in points, in a plain sans-serif font."""
    narrow, wide = set("iljtfI.,:;|!'()[] "), set("mwMW@%&QOGD")
    ems = sum(1.0 if ord(s) > 0x2E80 else 0.36 if s in narrow else 0.9 if s in wide else 0.62 for s in text)
    return ems * size


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
    return ", ".join(nodes) if len(nodes) <= 4 else f"{', '.join(nodes[:3])} and {len(nodes) - 3} more"


def _sign(score: float | None, signed: bool) -> Sign:
    if score is None:
        return "unscored"
    return ("helps" if score >= 0 else "hurts") if signed else "size"


def _width(share: float) -> float:
    """Of a line whose score is this share of the largest."""
    return round(THINNEST + (THICKEST - THINNEST) * math.sqrt(share), 2)


def _edge(
    source: str, target: str, kind: Kind, score: float | None, largest: float, colours: str, signed: bool
) -> DrawnEdge:
    width = _width(abs(score) / largest if score is not None and largest else 1 / 16)
    colour = KIND_COLOURS[kind] if colours == "kind" else SIGN_COLOURS[_sign(score, signed)]
    return DrawnEdge(source, target, kind, score, width, colour, signed)
