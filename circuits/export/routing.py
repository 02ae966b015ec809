"""Routes lines between boxes in rows, so that no line passes behind a box that it does not touch.

This holds for every circuit: there are no boxes between two rows, and a line crosses a row in a gap between two boxes, or
beside them all. Inside the row the line is straight, and its slope is limited by the width of the gap. Lines that share a gap
are moved apart as far as there is room.

Rows go upward here; for rows to the right, the caller exchanges the axes. Lengths have any unit.
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
"""The numbers of its first and last box."""
SAMPLES = 24
"""Points of each Bézier curve that are checked."""


class Box(NamedTuple):
    """A box by its middle and size."""

    x: float
    y: float
    width: float
    height: float


class Crossing(NamedTuple):
    """A line's crossing of a row: its position in the middle of the row, and its slope to the side."""

    x: float
    slope: float


@dataclass(frozen=True)
class Row:
    """A row of boxes.

    Attributes:
        y: its middle.
        half: half its height, given by the highest box.
        gaps: intervals that lines may pass, from the left.
    """

    y: float
    half: float
    gaps: tuple[tuple[float, float], ...]


class Streets:
    """Boxes in rows, and the gaps between them.

    Args:
        boxes: those of one row have their middles at the same height.
        clear: space that stays free beside a box.
        apart: distance between two lines in a gap, if there is room.
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
        """The crossings of each line with the rows between its boxes, from the lower box upward; short lines choose first."""
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
        """The nearest gap, or another one if that is full, and the position in it."""
        best = (math.inf, 0, 0.0)
        for number, (low, high) in enumerate(self.rows[row].gaps):
            x = min(max(wish, low), high)
            over = len(taken[row, number]) + 1 - (high - low) / self.apart
            cost = abs(x - wish) + self.apart * (max(0.0, over) + (0.5 * len(taken[row, number]) if x != wish else 0.0))
            best = min(best, (cost, number, x))
        return best[1:]

    def _sloped(self, line: Line, places: dict[int, tuple[float, float]]) -> list[Crossing]:
        """A line's crossings, with the slope towards their neighbours, as far as the gap allows."""
        low, high = sorted(line, key=lambda box: self.row_of[box])
        rows = [self.row_of[low], *sorted(places), self.row_of[high]]
        xs = [self.boxes[low].x, *(places[row][0] for row in rows[1:-1]), self.boxes[high].x]
        crossings = []
        for i, row in enumerate(rows[1:-1], 1):
            slope = (xs[i + 1] - xs[i - 1]) / (self.rows[rows[i + 1]].y - self.rows[rows[i - 1]].y)
            most = places[row][1] / self.rows[row].half
            crossings.append(Crossing(xs[i], max(-most, min(most, slope))))
        return crossings

    def curve(self, line: Line, crossings: Sequence[Crossing], head: float = 0.0) -> tuple[Point, ...]:
        """A line from box to box as the 3n + 1 control points of n cubic Bézier curves.

        Args:
            line: its boxes.
            crossings: its crossings.
            head: length of the straight end, for an arrow head.
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
        """A line between two boxes of one row: above the row, below the next."""
        row, above = self.rows[number], self.rows[number + 1 : number + 2]
        level = row.y + row.half
        room = above[0].y - above[0].half - level if above else 3 * row.half
        points = [(start.x, start.y + start.height / 2)]
        if points[0][1] < level:
            points += _straight(points[0], (start.x, level))
        points += [(start.x, level + room), (end.x, level + room), (end.x, level)]
        if end.y + end.height / 2 < level:
            points += _straight(points[-1], (end.x, end.y + end.height / 2))
        return tuple(points)

    def hidden(self, line: Line, curve: Sequence[Point], clear: float) -> bool:
        """Whether a curve comes nearer than `clear` to a box that is not one of its ends."""
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
    """Ordered positions near the wished ones, `apart` from each other if they fit between `low` and `high`, else spread evenly."""
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
    """A curve that leaves and arrives upward, with these slopes to the side."""
    third = (end[1] - start[1]) / 3
    return [(start[0] + slope * third, start[1] + third), (end[0] - next_slope * third, end[1] - third), end]


def sampled(curve: Sequence[Point], steps: int) -> list[Point]:
    """Points on a chain of Bézier curves, `steps` on each curve."""
    t = np.arange(1, steps + 1)[:, None] / steps
    controls = np.array(curve, dtype=float)
    parts = [controls[:1]]
    for i in range(0, len(controls) - 1, 3):
        a, b, c, d = controls[i : i + 4]
        parts.append((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d)
    return [(float(x), float(y)) for x, y in np.concatenate(parts)]
