"""What a score measures: most are effects, whose sign means that a node or edge helps or hurts; some are sizes or shares without a
sign.

Pictures, tables and captions use this, with the provenance of the scores, so that they speak of helping and hurting only if the
sign means that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from circuits.question.metrics import METRICS

if TYPE_CHECKING:
    from circuits.results.circuit import Circuit


@dataclass(frozen=True)
class Quantity:
    """What scores measure, in words.

    Attributes:
        name: of one score, such as `effect`.
        unit: of the values; empty if they have none.
        positive, negative: the meaning of a positive and a negative score; empty if scores have no sign.
        of: the word before the metric: `on` for an effect on the logit difference; empty without a metric.
    """

    name: str = "effect"
    unit: str = ""
    positive: str = "helps"
    negative: str = "hurts"
    of: str = "on"

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
        return f"{self.name} {self.of} {metric.replace('_', ' ')}" if self.of else self.name


EFFECT = Quantity()
_UNSIGNED = {"positive": "", "negative": ""}
QUANTITIES = {
    "atp_star": Quantity("contribution", of="to", **_UNSIGNED),
    "information_flow": Quantity("share of the reader's input", of="", **_UNSIGNED),
    "edge_pruning": Quantity("log-odds of the mask", positive="mask open", negative="mask closed", of=""),
    "ugs": Quantity("log-odds of the mask", positive="mask open", negative="mask closed", of=""),
    "gim": Quantity("weighed effect"),
    "ensemble": Quantity("combined score", of="for"),
    "internal_influence": Quantity("influence", positive="raises the metric", negative="lowers the metric"),
    "acdc": Quantity("change when tested", of="of"),
    "direct_effects": Quantity("direct effect", positive="raises the metric", negative="lowers the metric"),
    "coar": Quantity("weight", of="for"),
    "shapley": Quantity("Shapley value", of="for"),
    "banzhaf": Quantity("Banzhaf value", of="for"),
}
"""By method; the scores of others are effects."""
WITHOUT_UNIT = ("information_flow", "edge_pruning", "ugs", "internal_influence", "ensemble", "gim")
"""Methods whose scores do not have the unit of the metric."""


def quantity_of(origin: Mapping[str, Any]) -> Quantity:
    """What scores with this provenance measure.

    A method outside this package can declare scores without a sign by the option `signed: False`.

    >>> quantity_of({"method": "edge_attribution", "metric": "logit_difference"}).label
    'effect (logits)'
    >>> quantity_of({"method": "atp_star", "metric": "logit_difference"}).signed
    False
    """
    method, options = str(origin.get("method")), origin.get("options")
    options = options if isinstance(options, Mapping) else {}
    if method == "edge_attribution" and options.get("gradient") == "gim":
        method = "gim"
    known = QUANTITIES.get(method, EFFECT)
    if known.signed and options.get("signed") is False:
        known = Quantity("size of the effect", **_UNSIGNED)
    metric = METRICS.get(str(origin.get("metric")))
    unit = "" if metric is None or method in WITHOUT_UNIT else metric.unit
    return replace(known, unit=unit)


def node_caption(quantity: Quantity) -> str:
    """The meaning of the colours of a heat map."""
    if not quantity.signed:
        return f"Darker green is a larger {quantity.name}; it has no sign, so it does not tell help from harm."
    return f"Blue {quantity.positive}, vermilion {quantity.negative}."


def edge_caption(circuit: "Circuit") -> str:
    """The meaning of the lines in a picture of a circuit."""
    quantity, column = quantity_of(circuit.provenance), circuit.column("scores")
    if column is None or bool(column.isnan().all()):
        return "Layers upward; the edges have no scores."
    if not quantity.signed:
        return f"Layers upward; width is the {quantity.name}, which has no sign, so it does not tell help from harm."
    return (
        f"Layers upward; blue edges: {quantity.positive}; vermilion, dashed ones: {quantity.negative}; width is the size of the "
        f"{quantity.name}."
    )
