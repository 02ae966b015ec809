"""The options of the rules that choose a circuit from scores; see `circuits.results.selection`."""

from collections.abc import Mapping
from typing import Any

from circuits.errors import InputError

RULES = {
    "top": ("by", "fill"),
    "greedy": ("by", "fill"),
    "positive-share": ("share", "fill"),
    "optimal": ("by", "time_limit"),
}
"""The rules that take a number of edges, and their options."""


def check_choice(
    edges: int | None, threshold: float | None, select: str | None, by: str | None, fill: bool, share: float | None
) -> dict[str, Any]:
    """Refuses options that exclude each other: a number of edges chosen by a rule, or a threshold. Returns the rule's options."""
    others = {"edges": edges, "select": select, "fill": fill or None, "share": share}
    for name, value in others.items():
        if threshold is not None and value is not None:
            raise InputError(
                f"a threshold cannot be combined with {name}: a threshold takes every edge with at least that score; "
                "of the options of the rules, only 'by' applies to it"
            )
    options = {"by": by, "fill": fill or None, "share": share}
    rule = {name: value for name, value in options.items() if value is not None}
    check_rule(select or "top", rule)
    return rule


def check_rule(rule: str, options: Mapping[str, Any]) -> None:
    """Refuses an unknown rule, and options of another rule."""
    if rule not in RULES:
        raise InputError(f"there is no selection rule {rule!r} (one of {', '.join(RULES)})")
    for name in options:
        if name not in RULES[rule]:
            raise InputError(f"rule {rule} has no option {name!r}; its options: {', '.join(RULES[rule])}")
    if "by" in options:
        check_ranking(options["by"])
    check_share(options.get("share", 0.0))


def check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise InputError(f"share must be between 0 and 1, got {share}")


def check_ranking(by: str) -> None:
    """Refuses an unknown way to rank edges."""
    if by not in ("abs", "signed"):
        raise InputError(f"edges are ranked by 'abs' or 'signed', not {by!r}")
