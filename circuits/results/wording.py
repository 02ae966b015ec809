"""What people read of methods and metrics: `EAP-IG`, `logit difference`."""

from collections.abc import Mapping
from typing import Any

METHODS = {
    "acdc": "ACDC", "ugs": "UGS", "atp_star": "AtP*", "coar": "COAR", "shapley": "Shapley values", "banzhaf": "Banzhaf values",
    "exact_edge_effects": "exact edge effects",
}  # fmt: skip
"""Methods whose names are not their own words."""
GRADIENTS = {"clean": "EAP", "ig": "EAP-IG", "relp": "RelP", "gim": "GIM"}
"""Edge attribution, by its gradient."""


def method_name(origin: Mapping[str, Any]) -> str:
    """What the literature calls the method of this provenance.

    >>> method_name({"method": "edge_attribution", "options": {"gradient": "ig", "steps": 5}})
    'EAP-IG'
    >>> method_name({"method": "activation_patching"})
    'activation patching'
    """
    method, options = str(origin.get("method") or "unknown method"), origin.get("options")
    options = options if isinstance(options, Mapping) else {}
    if method == "refine":
        return f"{method_name(origin.get('of') or {})}, refined"
    if method == "ensemble":
        members = [method_name(one) for one in origin.get("of") or () if isinstance(one, Mapping)]
        return (
            f"{options.get('how') or 'mean'} of {', '.join(members[:-1])} and {members[-1]}"
            if len(members) > 1
            else method
        )
    if method == "edge_attribution":
        gradient = str(options.get("gradient") or "clean")
        return GRADIENTS.get(gradient) or f"EAP ({gradient.replace('_', ' ')} gradients)"
    return METHODS.get(method) or method.replace("_", " ")


def metric_name(metric: object) -> str:
    """A metric in words.

    >>> metric_name("logit_difference")
    'logit difference'
    """
    return str(metric or "the metric").replace("_", " ").replace("kl d", "KL d")


def plain_number(value: object, digits: int = 3) -> str:
    """A number with so many significant digits, and powers of ten written out.

    >>> plain_number(-1.545e-05), plain_number(0.52346), plain_number(70651), plain_number(None)
    ('−1.54 × 10⁻⁵', '0.523', '70,651', '–')
    """
    if value is None or value != value:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    mantissa, _, power = f"{value:.{digits}g}".partition("e")
    if not power:
        return mantissa.replace("-", "−")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.replace('-', '−')} × 10{raised}"
