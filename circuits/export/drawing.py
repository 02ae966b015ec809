"""A drawing of a circuit, for all formats: its boxes and lines, and their style; `circuits.export.draw` makes it.

DOT, TikZ, SVG, PDF and PNG use the same drawing, so that they look alike. No information is in colour alone: the sign of an
effect is also solid or dashed, and the input of a head (query, key, value) is the shape of the arrow head. Colours are those of
Okabe and Ito (2008), which can be distinguished with every common kind of colour blindness, and in greyscale.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from circuits.graph.graph import Kind
from circuits.results.quantity import EFFECT, Quantity

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
        return sign_of(self.score, self.signed)

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
            LegendLine(f"{share * largest:.2g}{unit}", "none", "#000000", False, line_width(share))
            for share in (1.0, 0.1)
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


def sign_of(score: float | None, signed: bool) -> Sign:
    """The meaning of a score's sign."""
    if score is None:
        return "unscored"
    return ("helps" if score >= 0 else "hurts") if signed else "size"


def line_width(share: float) -> float:
    """The width of a line whose score is this share of the largest one."""
    return round(THINNEST + (THICKEST - THINNEST) * math.sqrt(share), 2)
