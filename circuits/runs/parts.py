"""What `circuits evaluate` can measure of a run. Nothing heavy is imported."""

from collections.abc import Iterable

from circuits.errors import InputError
from circuits.methods.options import nearest

PARTS = {
    "faithfulness": "under every ablation, against random circuits",
    "completeness": "",
    "minimality": "",
    "curves": "CPR and CMD",
    "hypothesis": "tests",
    "scores": "complexity, sensitivity",
    "recovery": "of a known circuit",
    "stability": "other pairs, seeds, ablations, metrics …",
    "randomisation": "of layers",
}
"""By name, with a few words for `--help`."""
AGAIN = ("recovery", "stability", "randomisation")
"""Parts of the run's own pairs, whichever are given."""
SLOW = ("stability", "randomisation")
"""Parts that run the method again."""
USUAL = tuple(part for part in PARTS if part not in SLOW)


def check_parts(parts: Iterable[str] | None) -> tuple[str, ...]:
    """The parts asked for; None: all.

    Raises:
        InputError: none, or one that there is not.
    """
    wanted = tuple(PARTS if parts is None else parts)
    unknown = [part for part in wanted if part not in PARTS]
    if unknown or not wanted:
        hint = nearest(unknown[0], list(PARTS)) if unknown else ""
        raise InputError(f"parts must be of {', '.join(PARTS)}, got {', '.join(unknown) or 'none'}{hint}")
    return wanted
