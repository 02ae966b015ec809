"""The ways of lines between boxes that stand in rows, so that no line passes behind a box that it does not touch.

Two things make that certain, whatever the circuit. Between two rows there is no box, so a line may do there what it likes. And
where it crosses a row, it does so in a gap between two boxes, or beside them all; inside the row it is straight, and no steeper
to the side than its gap has room. Lines that share a gap are moved apart as far as there is room.

Rows go upward here; who draws them to the right exchanges the axes. Lengths are of any unit.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Point = tuple[float, float]
Line = tuple[int, int]
"""Numbers of the boxes that it goes from and to."""
SAMPLES = 24
"""Points of each Bézier curve that are looked at."""


class Box(NamedTuple):
    """A box by its middle and size."""

    x: float
    y: float
    width: float
    height: float


class Crossing(NamedTuple):
    """Where a line crosses a row: its place in the row's middle, and how far to the side it goes for a step up."""

    x: float
    slope: float


@dataclass(frozen=True)
class Row:
    """A row of boxes.

    Attributes:
        y: its middle.
        half: half its height, which is that of its highest box.
        gaps: where a line may pass, from the left.
    """

    y: float
    half: float
    gaps: tuple[tuple[float, float], ...]


class Streets:
    """Boxes in rows, and the gaps between them.

    Args:
        boxes: all of one row have their middles at one height.
        clear: what stays free beside a box.
        apart: between two lines in a gap, where there is room.
    """

    def __init__(self, boxes: Sequence[Box], clear: float, apart: float) -> None:
        self.boxes, self.apart = boxes, apart
        heights = sorted({round(box.y, 3) for box in boxes})
        self.row_of = [bisect_left(heights, round(box.y, 3)) for box in boxes]
        members: list[list[Box]] = [[] for _ in heights]
        for box, row in zip(boxes, self.row_of, strict=True):
            members[row].append(box)
        self.rows = [_row(row, clear) for row in members]

    def crossings(self, lines: Sequence[Line]) -> list[list[Crossing]]:
        """For each line where it crosses the rows between its boxes, from the lower box upward; short lines choose first."""
        spans = [sorted((self.row_of[a], self.row_of[b])) for a, b in lines]
        taken: defaultdict[tuple[int, int], list[tuple[float, float, int]]] = defaultdict(list)
        for i in sorted(range(len(lines)), key=lambda i: (spans[i][1] - spans[i][0], i)):
            low, high = spans[i]
            first, last = lines[i] if self.row_of[lines[i][0]] == low else reversed(lines[i])
            x, y, end = self.boxes[first].x, self.rows[low].y, self.boxes[last].x
            for row in range(low + 1, high):
                way = (self.rows[row].y - y) / (self.rows[high].y - y)
                wish = x + (end - x) * way
                gap, x = self._gap(row, wish, taken)
                side = math.copysign(high - low, wish - x) if wish != x else 0.0
                taken[row, gap].append((x, -side, i))
                y = self.rows[row].y
        places: list[dict[int, tuple[float, float]]] = [{} for _ in lines]
        for (row, gap), entries in taken.items():
            low, high = self.rows[row].gaps[gap]
            entries.sort()
            for (_, _, i), x in zip(entries, _apart([x for x, _, _ in entries], self.apart, low, high), strict=True):
                places[i][row] = (x, min(x - low, high - x))
        return [self._sloped(line, place) for line, place in zip(lines, places, strict=True)]

    def _gap(self, row: int, wish: float, taken: dict[tuple[int, int], list]) -> tuple[int, float]:
        """The gap that is nearest, or a further one where that is full; and the place in it."""
        best = (math.inf, 0, 0.0)
        for number, (low, high) in enumerate(self.rows[row].gaps):
            x = min(max(wish, low), high)
            over = len(taken[row, number]) + 1 - (high - low) / self.apart
            cost = abs(x - wish) + self.apart * (max(0.0, over) + (0.5 * len(taken[row, number]) if x != wish else 0.0))
            best = min(best, (cost, number, x))
        return best[1:]

    def _sloped(self, line: Line, places: dict[int, tuple[float, float]]) -> list[Crossing]:
        """A line's crossings, as steep as the way to its neighbours and as the room in the gap allows."""
        low, high = sorted(line, key=lambda box: self.row_of[box])
        rows = [self.row_of[low], *sorted(places), self.row_of[high]]
        xs = [self.boxes[low].x, *(places[row][0] for row in rows[1:-1]), self.boxes[high].x]
        found = []
        for i, row in enumerate(rows[1:-1], 1):
            wanted = (xs[i + 1] - xs[i - 1]) / (self.rows[rows[i + 1]].y - self.rows[rows[i - 1]].y)
            most = places[row][1] / self.rows[row].half
            found.append(Crossing(xs[i], max(-most, min(most, wanted))))
        return found

    def curve(self, line: Line, crossings: Sequence[Crossing], head: float = 0.0) -> tuple[Point, ...]:
        """A line as control points of cubic Bézier curves, 3n + 1 of them, from box to box.

        Args:
            line: from and to which box.
            crossings: its own, of `crossings`.
            head: how far the end must be straight, for an arrow head.
        """
        source, target = line
        if self.row_of[source] == self.row_of[target]:
            return self._arc(self.boxes[source], self.boxes[target], self.row_of[source])
        if self.row_of[source] < self.row_of[target]:
            return self._upward(source, target, crossings, 0.0, head)
        return tuple(reversed(self._upward(target, source, crossings, head, 0.0)))

    def _upward(
        self, low: int, high: int, crossings: Sequence[Crossing], straight_first: float, straight_last: float
    ) -> tuple[Point, ...]:
        start, end = self.boxes[low], self.boxes[high]
        first, last = self.rows[self.row_of[low]], self.rows[self.row_of[high]]
        foot, top = start.y + start.height / 2, end.y - end.height / 2
        points = [(start.x, foot)]
        leave, arrive = first.y + first.half, last.y - last.half
        room = (self.rows[self.row_of[low] + 1].y - self.rows[self.row_of[low] + 1].half - leave) / 2
        leave = max(leave, min(foot + straight_first, leave + room))
        below = self.rows[self.row_of[high] - 1]
        arrive = min(arrive, max(top - straight_last, arrive - (arrive - below.y - below.half) / 2))
        if leave > foot:
            points += _straight(points[-1], (start.x, leave))
        slope = 0.0
        for i, (x, next_slope) in enumerate(crossings, self.row_of[low] + 1):
            row = self.rows[i]
            points += _bent(points[-1], slope, (x - next_slope * row.half, row.y - row.half), next_slope)
            points += _straight(points[-1], (x + next_slope * row.half, row.y + row.half))
            slope = next_slope
        points += _bent(points[-1], slope, (end.x, arrive), 0.0)
        if arrive < top:
            points += _straight(points[-1], (end.x, top))
        return tuple(points)

    def _arc(self, start: Box, end: Box, number: int) -> tuple[Point, ...]:
        """Between two boxes of one row: over the row, below the next."""
        row = self.rows[number]
        level = row.y + row.half
        room = (
            self.rows[number + 1].y - self.rows[number + 1].half - level
            if number + 1 < len(self.rows)
            else 3 * row.half
        )
        points = [(start.x, start.y + start.height / 2)]
        if points[0][1] < level:
            points += _straight(points[0], (start.x, level))
        points += [(start.x, level + room), (end.x, level + room), (end.x, level)]
        if end.y + end.height / 2 < level:
            points += _straight(points[-1], (end.x, end.y + end.height / 2))
        return tuple(points)

    def hidden(self, line: Line, curve: Sequence[Point], clear: float) -> bool:
        """Whether a curve comes nearer than `clear` to a box that it neither begins nor ends at."""
        at = np.array(sampled(curve, SAMPLES))
        others = np.array([box for i, box in enumerate(self.boxes) if i not in line]).reshape(-1, 4)
        far = np.abs(at[:, None] - others[None, :, :2]) >= others[None, :, 2:] / 2 + clear
        return bool((~far.any(-1)).any())


def _row(boxes: Sequence[Box], clear: float) -> Row:
    half = max(box.height for box in boxes) / 2 + clear / 2
    gaps, left = [], -math.inf
    for box in sorted(boxes):
        if box.x - box.width / 2 - clear > left:
            gaps.append((left, box.x - box.width / 2 - clear))
        left = max(left, box.x + box.width / 2 + clear)
    return Row(boxes[0].y, half, (*gaps, (left, math.inf)))


def _apart(wishes: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Places in order near the wished ones, `apart` from each other where they fit between `low` and `high`, else evenly."""
    apart = min(apart, (high - low) / max(1, len(wishes) - 1))
    placed: list[float] = []
    for wish in wishes:
        placed.append(max(wish, low, placed[-1] + apart) if placed else max(wish, low))
    limit = high
    for i in reversed(range(len(placed))):
        placed[i] = max(low, min(placed[i], limit))
        limit = placed[i] - apart
    return placed


def _straight(start: Point, end: Point) -> list[Point]:
    (x, y), (u, v) = start, end
    return [(x + (u - x) / 3, y + (v - y) / 3), (x + 2 * (u - x) / 3, y + 2 * (v - y) / 3), end]


def _bent(start: Point, slope: float, end: Point, next_slope: float) -> list[Point]:
    """A curve that leaves and arrives at these slopes, always upward."""
    third = (end[1] - start[1]) / 3
    return [(start[0] + slope * third, start[1] + third), (end[0] - next_slope * third, end[1] - third), end]


def sampled(curve: Sequence[Point], steps: int) -> list[Point]:
    """Points on a chain of Bézier curves, `steps` to each curve of it."""
    t = np.arange(1, steps + 1)[:, None] / steps
    controls = np.array(curve, dtype=float)
    parts = [controls[:1]]
    for i in range(0, len(controls) - 1, 3):
        a, b, c, d = controls[i : i + 4]
        parts.append((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d)
    return [(float(x), float(y)) for x, y in np.concatenate(parts)]
