"""Counts, by reason, valid pairs that cannot be used with this model."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from circuits.errors import PairsError


class UnfitError(PairsError):
    """A pair that does not fit the model.

    Attributes:
        reason: the reason these pairs share, phrased to follow "42 pairs": "of unequal length".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Unfit:
    """The pairs that were left out.

    Attributes:
        used: number of pairs that remain.
        reasons: each reason and its number of pairs.
        first: for each reason, the line of the first such pair and its error.

    >>> print(Unfit(258, (("of unequal length", 42),), ("line 7: …",)))
    258 of 300 pairs used; 42 of unequal length
    """

    used: int
    reasons: tuple[tuple[str, int], ...]
    first: tuple[str, ...]

    @property
    def left_out(self) -> int:
        """The number of pairs left out."""
        return sum(n for _, n in self.reasons)

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {reason}" for reason, n in self.reasons)
        return f"{self.used} of {self.used + self.left_out} pairs used; {counts}"

    def to_dict(self) -> dict[str, Any]:
        """The entry of `run.json`."""
        return {"used": self.used, "left_out": dict(self.reasons), "first": list(self.first)}


class Tally:
    """Counts unfit pairs while they are read."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, tuple[str, UnfitError]] = {}

    def add(self, place: str, error: UnfitError) -> None:
        """Counts one pair; `place` is its line."""
        self._counts[error.reason] += 1
        self._first.setdefault(error.reason, (place, error))

    def result(self, used: int) -> Unfit | None:
        """The counts; None if no pair was unfit.

        Args:
            used: number of pairs that fit.
        """
        if not self._counts:
            return None
        reasons = sorted(self._counts.items(), key=lambda entry: -entry[1])
        first = tuple(_behind(*self._first[reason]) for reason, _ in reasons)
        return Unfit(used, tuple(reasons), first)

    def refusal(self, name: str, used: int) -> PairsError:
        """The error if unfit pairs are not skipped; `name` is the file's name."""
        unfit = self.result(used)
        assert unfit is not None
        rest = f"; skip them with skip_unfit=True (--skip-unfit), and the other {used} are used" if used else ""
        if unfit.left_out == 1:
            ((_, error),) = self._first.values()
            return UnfitError(error.reason, f"{error}{rest}")
        counts = "; ".join(f"{n} {reason}, the first at {at}" for (reason, n), at in zip(unfit.reasons, unfit.first, strict=True))  # fmt: skip
        return PairsError(f"{name}: {unfit.left_out} of {used + unfit.left_out} pairs do not fit: {counts}{rest}")


def _behind(place: str, error: UnfitError) -> str:
    """An error message that begins with the line, without the file's name."""
    _, separator, rest = str(error).partition(f"{place}: ")
    return f"{place}: {rest}" if separator else str(error)
