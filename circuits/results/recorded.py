"""What a method declares of its results: what their numbers are, and what the literature calls it.

A result knows its method by the name in its provenance. The method's own file declares the rest: in its `Method`, or as an entry point of
the group `circuits.recorded` under that name if it is a function that `circuits discover` does not offer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from circuits import plugins
from circuits.results.quantity import EFFECT, Quantity

if TYPE_CHECKING:
    from torch import Tensor

    from circuits.results.circuit import Circuit


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What is declared of all results of a method.

    Attributes:
        title: the method's name in the literature, or a function of the provenance that returns it; empty: the words of its name.
        quantity: what a score is, or a function of the provenance that returns it, if it depends on the options.
        metric_units: whether scores have the unit of the metric, likewise.
        kept_probability: the probability with which the method would keep an edge, from its score; None: scores have no such meaning.
    """

    title: str | Callable[[Mapping[str, Any]], str] = ""
    quantity: Quantity | Callable[[Mapping[str, Any]], Quantity] = EFFECT
    metric_units: bool | Callable[[Mapping[str, Any]], bool] = True
    kept_probability: "Callable[[Tensor], Tensor] | None" = None


_KNOWN: dict[str, Recorded] = {}


def recorded(origin: Mapping[str, Any]) -> Recorded:
    """What the method of this provenance declares; the defaults if it is unknown, or declares nothing."""
    name = str(origin.get("method") or "")
    if name not in _KNOWN:
        declared = plugins.recorded(name) if name else None
        if not isinstance(declared, Recorded):
            return Recorded()
        _KNOWN[name] = declared
    return _KNOWN[name]


def quantity_of(origin: Mapping[str, Any]) -> Quantity:
    """What scores with this provenance measure, with their unit.

    A method can also declare scores without a sign by the option `signed: False`.

    >>> quantity_of({"method": "edge_attribution", "metric": "logit_difference"}).label
    'effect (logits)'
    >>> quantity_of({"method": "atp_star", "metric": "logit_difference"}).signed
    False
    """
    declared, options = recorded(origin), origin.get("options")
    unsigned = isinstance(options, Mapping) and options.get("signed") is False
    quantity, units = (x(origin) if callable(x) else x for x in (declared.quantity, declared.metric_units))
    assert isinstance(quantity, Quantity)
    return quantity.of_metric(str(origin.get("metric")), unsigned, bool(units))


def method_name(origin: Mapping[str, Any]) -> str:
    """What the literature calls the method of this provenance.

    >>> method_name({"method": "edge_attribution", "options": {"gradient": "ig", "steps": 5}})
    'EAP-IG'
    >>> method_name({"method": "activation_patching"})
    'activation patching'
    """
    title = recorded(origin).title
    named = title(origin) if callable(title) else title
    return named or str(origin.get("method") or "unknown method").replace("_", " ")


def edge_caption(circuit: "Circuit") -> str:
    """The meaning of the lines in a picture of a circuit."""
    quantity, column = quantity_of(circuit.provenance), circuit.column("scores")
    if column is None or bool(column.isnan().all()):
        return "Layers upward; the edges have no scores."
    if not quantity.signed:
        return f"Layers upward; width is the {quantity.name}, which has no sign, so it does not tell help from harm."
    return (
        f"Layers upward; blue: positive {quantity.name} ({quantity.positive}); vermilion, dashed: negative {quantity.name} "
        f"({quantity.negative}); width: its size."
    )
