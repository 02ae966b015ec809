"""What methods' options may be: the same for what is typed, for what a study file says and for a call of `circuits.runs.discover`.

All of it is known before a model is loaded.
"""

import inspect
import math
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from circuits.errors import InputError
from circuits.graph.nodes import groups_in
from circuits.measure.component_samples import check_samples
from circuits.methods.acdc import ORDERS
from circuits.methods.activation_patching import DIRECTIONS
from circuits.methods.edge_attribution import ATTENTION, GRADIENTS, OFFSETS
from circuits.methods.edge_pruning import check_training
from circuits.methods.path_patching import INPUTS, MLPS
from circuits.methods.refine import HOW
from circuits.question.metrics import get_metric
from circuits.results.selection import check_choice
from circuits.runs.option_limits import LIMITS
from circuits.runs.search_jobs import edge_pruning_job
from circuits.stats.linear_fit import FITS

CHOICES: dict[str, Collection[str]] = {
    "gradient": GRADIENTS,
    "quadrature": OFFSETS,
    "attention": ATTENTION,
    "refine": HOW,
    "direction": DIRECTIONS,
    "mlps": MLPS,
    "inputs": INPUTS,
    "fit": FITS,
    "order": ORDERS,
}
"""What a text may be, by option."""


def check_values(method: str, options: Mapping[str, Any]) -> None:
    """Refuses what no model could make right; values of another kind than the option's are left to others.

    Raises:
        InputError: a number out of its limits, an unknown choice, or options that exclude each other.
    """
    for name, value in options.items():
        told = name.replace("_", "-")
        if isinstance(value, float) and not _finite(method, name, value):
            raise InputError(f"{told} must be a finite number, not {value}")
        least, most = LIMITS.get(name, (None, None))
        number = type(value) in (int, float)
        if least is not None and number and not least <= value <= (value if most is None else most):
            bounds = f"at least {least}" if most is None else f"from {least} to {most}"
            raise InputError(f"{told} must be {bounds}, not {value}")
        if isinstance(value, str) and name in CHOICES and value not in CHOICES[name]:
            near = get_close_matches(value, CHOICES[name], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{told} must be one of {', '.join(CHOICES[name])}, got {value!r}{hint}")
    if isinstance(options.get("alpha"), float):
        check_samples(1, options["alpha"])
    for name in ("nodes", "senders"):
        if isinstance(options.get(name), str):
            groups_in(options[name])
    if method == "edge-pruning":
        known = inspect.signature(edge_pruning_job).parameters
        objective, rate = (options.get(name, known[name].default) for name in ("objective", "learning_rate"))
        check_training(get_metric(objective), rate)
    if method != "acdc":
        asked = {name: options.get(name) for name in ("edges", "threshold", "select", "by", "share")}
        check_choice(**asked, fill=bool(options.get("fill")))
    if options.get("refine") is None and options.get("refine_top") is not None:
        raise InputError("refine-top says how many edges are refined: say with refine how")


def _finite(method: str, name: str, value: float) -> bool:
    """Whether a number can be used at all; ACDC's threshold may be infinite, which removes every edge, or none."""
    return math.isfinite(value) or ((method, name) == ("acdc", "threshold") and not math.isnan(value))
