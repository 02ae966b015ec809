"""What numbers methods' options may be: the same for what is typed and for what a study file says."""

LIMITS: dict[str, tuple[int, int | None]] = {
    "edges": (1, None),
    "random_circuits": (0, None),
    "share": (0, 1),
    "steps": (1, None),
    "refine_top": (1, None),
    "start_layer": (0, None),
    "window": (1, None),
    "samples": (2, None),
}
"""Smallest and largest, by option; None: no bound."""


def limits(name: str) -> dict[str, int | None]:
    """An option's limits, as typer takes them."""
    least, most = LIMITS[name]
    return {"min": least, "max": most}
