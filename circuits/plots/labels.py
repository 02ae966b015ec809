"""Titles and labels of heat maps, from the provenance of scores: what was patched, how, and the unit."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from circuits.results.node_scores import NodeScores
from circuits.results.recorded import method_name


def short(name: str, longest: int = 24) -> str:
    """A node's name; for nodes patched together the first, the last and their number."""
    parts = name.split("+")
    return name if len(name) <= longest or len(parts) == 1 else f"{parts[0]} … {parts[-1]} ({len(parts)})"


def windows(scores: NodeScores) -> str:
    """`windows of 3 layers`; empty if layers were patched one by one."""
    size = _option(scores, "window", 1)
    return f"windows of {size} layers" if isinstance(size, int) and size > 1 else ""


def figure_title(scores: NodeScores) -> tuple[str, str]:
    """Title and subtitle: method, direction, task and model; metric, ablation, prompts and windows."""
    origin = scores.provenance
    method = method_name(origin) if origin.get("method") else "node scores"
    method = method[:1].upper() + method[1:]
    receivers = _option(scores, "receivers", ())
    if receivers:
        shown = ", ".join(receivers[:3]) + (f" and {len(receivers) - 3} more" if len(receivers) > 3 else "")
        method += f" into {shown} (MLPs {_option(scores, 'mlps', 'frozen')})"
    direction = _option(scores, "direction", "")
    title = method + (f" ({direction})" if direction else "")
    if origin.get("task") and origin.get("model"):
        title += f": {_name(origin['task'])} in {_name(origin['model'])}"
    facts = [scores.quantity.over(str(origin.get("metric") or "the metric"))]
    facts += [f"{origin['ablation']} ablation"] if origin.get("ablation") else []
    facts += [windows(scores)] if windows(scores) else []
    if samples := _option(scores, "samples", 0):
        facts.append(f"{samples:,} samples at α = {_option(scores, 'alpha', 0):g}")
    n = scores.n_prompts
    facts += [f"mean of {n} prompts" if n > 1 else "1 prompt"]
    return title, ", ".join(facts)


def colour_bar_title(scores: NodeScores, normalised: bool) -> str:
    """The quantity of the colours, with its unit."""
    if normalised:
        return f"{scores.quantity.name} / {'(clean − corrupted)' if scores.signed else '|clean − corrupted|'}"
    return scores.quantity.label


def hover(scores: NodeScores, values: Sequence[float], normalised: bool) -> list[str]:
    """The text of each score: name and position, effect, standard error."""
    errors = (scores.normalised_stderr() if normalised else scores.stderr).flatten().tolist()
    quantity = scores.quantity
    unit = "" if normalised or not quantity.unit else f" {quantity.unit}"
    names = [short(name, 120) for name in scores.nodes]
    if scores.positions is not None:
        names = [f"{name} at {place}" for name in names for place in scores.positions]
    return [
        f"{name}\n{quantity.number(value)}{'' if error != error else f' ± {error:.2g}'}{unit}"
        for name, value, error in zip(names, values, errors, strict=True)
    ]


def _option(scores: NodeScores, name: str, default: Any) -> Any:
    options = scores.provenance.get("options")
    return options.get(name, default) if isinstance(options, Mapping) else default


def _name(value: object) -> str:
    """The last part of a path, other names unchanged."""
    text = str(value)
    return os.path.basename(text.rstrip("/")) if os.path.isabs(text) else text
