"""What a score is: most are effects, whose sign tells help from harm; some are sizes or shares, which have none.

Every picture, table and caption asks here, with the provenance of what it shows, so that none speaks of helping and hurting
where the scores do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from circuits.question.metrics import METRICS

if TYPE_CHECKING:
    from circuits.results.circuit import Circuit


@dataclass(frozen=True)
class Quantity:
    """What scores measure, and how they are spoken of.

    Attributes:
        name: of one score, `effect`.
        unit: of its values; empty where they have none.
        positive, negative: what a score of either sign says of its node or edge; empty where scores have no sign.
        of: how the name goes on to the metric: `on` for an effect on the logit difference; empty where there is no metric.
    """

    name: str = "effect"
    unit: str = ""
    positive: str = "helps"
    negative: str = "hurts"
    of: str = "on"

    @property
    def signed(self) -> bool:
        """Whether a score's sign says something."""
        return bool(self.positive)

    @property
    def label(self) -> str:
        """Name and unit, for a scale."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def number(self, value: float, digits: int = 4) -> str:
        """A value as it is shown: with a plus only where there is a sign."""
        return f"{value:+.{digits}g}" if self.signed else f"{value:.{digits}g}"

    def says(self, value: float | None) -> str:
        """What a value says: that it helps or hurts; only its name where there is no sign; nothing where there is no value."""
        if value is None:
            return ""
        return (self.positive if value >= 0 else self.negative) if self.signed else self.name

    def over(self, metric: str) -> str:
        """`effect on logit difference`."""
        return f"{self.name} {self.of} {metric.replace('_', ' ')}" if self.of else self.name


EFFECT = Quantity()
_UNSIGNED = {"positive": "", "negative": ""}
QUANTITIES = {
    "atp_star": Quantity("contribution", of="to", **_UNSIGNED),
    "information_flow": Quantity("share of the reader's input", of="", **_UNSIGNED),
    "edge_pruning": Quantity("log-odds of the mask", positive="mask open", negative="mask closed", of=""),
    "internal_influence": Quantity("influence", positive="raises the metric", negative="lowers the metric"),
    "acdc": Quantity("change when tested", of="of"),
    "coar": Quantity("weight", of="for"),
    "shapley": Quantity("Shapley value", of="for"),
    "banzhaf": Quantity("Banzhaf value", of="for"),
}
"""By method; all others give effects."""
WITHOUT_UNIT = ("information_flow", "edge_pruning", "internal_influence")
"""Methods whose scores are not in the unit of the metric."""


def quantity_of(origin: Mapping[str, Any]) -> Quantity:
    """What the scores of this provenance are.

    A method that is not in the table above says that its scores have no sign with `signed: False` among its options.

    >>> quantity_of({"method": "edge_attribution", "metric": "logit_difference"}).label
    'effect (logits)'
    >>> quantity_of({"method": "atp_star", "metric": "logit_difference"}).signed
    False
    """
    method, options = str(origin.get("method")), origin.get("options")
    known = QUANTITIES.get(method, EFFECT)
    if known.signed and isinstance(options, Mapping) and options.get("signed") is False:
        known = Quantity("size of the effect", **_UNSIGNED)
    metric = METRICS.get(str(origin.get("metric")))
    unit = "" if metric is None or method in WITHOUT_UNIT else metric.unit
    return replace(known, unit=unit)


def node_caption(quantity: Quantity) -> str:
    """What the colours of a heat map mean."""
    if not quantity.signed:
        return f"Darker green is a larger {quantity.name}; it has no sign, so it does not tell help from harm."
    return f"Blue {quantity.positive}, vermilion {quantity.negative}."


def edge_caption(circuit: "Circuit") -> str:
    """What the lines of a picture of a circuit mean."""
    quantity, column = quantity_of(circuit.provenance), circuit.column("scores")
    if column is None or bool(column.isnan().all()):
        return "Layers upward; the edges have no scores."
    if not quantity.signed:
        return f"Layers upward; width is the {quantity.name}, which has no sign, so it does not tell help from harm."
    return (
        f"Layers upward; blue edges: {quantity.positive}; vermilion, dashed ones: {quantity.negative}; width is the size of the "
        f"{quantity.name}."
    )
