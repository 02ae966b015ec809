"""What a score measures: most are effects, whose sign means that a node or edge helps or hurts; some are sizes or shares without a
sign.

Pictures, tables and captions use this, so that they speak of helping and hurting only if the sign means that. Each method declares its
own quantity (`circuits.results.recorded`).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Quantity:
    """What scores measure, in words.

    Attributes:
        name: of one score, such as `effect`.
        unit: of the values; empty if they have none.
        positive, negative: the meaning of a positive and a negative score; empty if scores have no sign.
        preposition: the word before the metric: `on` for an effect on the logit difference; empty without a metric.
    """

    name: str = "effect"
    unit: str = ""
    positive: str = "helps"
    negative: str = "hurts"
    preposition: str = "on"

    @property
    def signed(self) -> bool:
        """Whether the sign of a score has a meaning."""
        return bool(self.positive)

    @property
    def label(self) -> str:
        """Name and unit, for a scale."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def number(self, value: float, digits: int = 4) -> str:
        """A value as text, with a plus only if scores have a sign."""
        return f"{value:+.{digits}g}" if self.signed else f"{value:.{digits}g}"

    def says(self, value: float | None) -> str:
        """The meaning of a value, such as `helps`; the name if scores have no sign; empty without a value."""
        if value is None:
            return ""
        return (self.positive if value >= 0 else self.negative) if self.signed else self.name

    def over(self, metric: str) -> str:
        """`effect on logit difference`."""
        return f"{self.name} {self.preposition} {metric.replace('_', ' ')}" if self.preposition else self.name

    def of_metric(self, metric: str, unsigned: bool = False, has_unit: bool = True) -> "Quantity":
        """The quantity for a metric, with its unit.

        Args:
            metric: its name.
            unsigned: the sign has no meaning for these scores.
            has_unit: whether the quantity has the metric's unit.
        """
        from circuits.question.metrics import METRICS  # which imports torch

        known = METRICS.get(metric)
        own = Quantity("size of the effect", positive="", negative="") if unsigned and self.signed else self
        return replace(own, unit="" if known is None or not has_unit else known.unit)


EFFECT = Quantity()


def node_caption(quantity: Quantity) -> str:
    """The meaning of the colours of a heat map."""
    if not quantity.signed:
        return f"Darker green is a larger {quantity.name}; it has no sign, so it does not tell help from harm."
    return f"Blue: positive {quantity.name} ({quantity.positive}); vermilion: negative {quantity.name} ({quantity.negative})."
