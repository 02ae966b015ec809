"""What a run found, in two sentences: pages and reports begin with them."""

from collections.abc import Mapping
from typing import Any

from circuits.results.quantity import Quantity
from circuits.results.recorded import method_name, quantity_of
from circuits.results.wording import metric_name, plain_number


def run_title(origin: Mapping[str, Any]) -> str:
    """`ioi in smollm2-135m: EAP-IG`."""
    return f"{origin.get('task') or 'Pairs'} in {origin.get('model') or 'a model'}: {method_name(origin)}"


def circuit_findings(summary: Mapping[str, Any], origin: Mapping[str, Any]) -> tuple[str, str]:
    """How much of the behaviour a circuit keeps, beside random circuits; and its strongest edge.

    Args:
        summary: of a run that found a circuit, as `run.json` has it.
        origin: the provenance.
    """
    metric, ablation = metric_name(summary.get("metric")), summary.get("ablation")
    edges, share, random = (summary.get(name) for name in ("edges", "faithfulness", "random_faithfulness"))
    size = f"{number(edges)} of {number(summary.get('edges_in_graph'))} {summary.get('unit', 'edges')}"
    if share is None:
        kept = f"{method_name(origin)} chose {size}; their faithfulness is undefined"
    else:
        kept = (
            f"{size}, chosen by {method_name(origin)}, recover {share:.0%} of the {metric} that is lost when all are "
            f"ablated ({ablation})"
        )
    if share is not None and random is not None:
        kept += f"; random circuits of this size recover {abs(round(random, 2)):.0%}"
    return f"{kept}.", _strongest(summary.get("strongest") or (), "edge", origin)


def node_findings(summary: Mapping[str, Any], origin: Mapping[str, Any]) -> tuple[str, str]:
    """What was measured, and the strongest nodes.

    Args:
        summary: of a run that scored nodes, as `run.json` has it.
        origin: the provenance.
    """
    metric, quantity = metric_name(summary.get("metric")), quantity_of(origin)
    first = f"{method_name(origin)} gives the {quantity.over(metric)} of {number(summary.get('nodes'))} nodes"
    places = summary.get("positions")
    first += f" at each of {number(places)} positions" if places else ""
    first += f" ({summary.get('ablation')} ablation)."
    return first[0].upper() + first[1:], _strongest(summary.get("strongest") or (), "node", origin)


def _strongest(rows: Any, kind: str, origin: Mapping[str, Any]) -> str:
    """A sentence on the three strongest."""
    quantity, key = quantity_of(origin), "score" if kind == "edge" else "effect"
    shown = [f"{row[kind].replace('->', ' → ')} ({_signed(row[key], quantity)})" for row in rows[:3] if row.get(key)]
    if not shown:
        return f"No {kind} has a score."
    unit = f", in {quantity.unit}" if quantity.unit else ""
    return f"The strongest {kind}{'s are' if len(shown) > 1 else ' is'} {', '.join(shown)}{unit}."


def _signed(value: float, quantity: Quantity) -> str:
    return ("+" if quantity.signed and value > 0 else "") + plain_number(value)


def number(value: Any) -> str:
    """With separators of thousands; other values unchanged."""
    return f"{value:,}" if isinstance(value, int) else str(value)
