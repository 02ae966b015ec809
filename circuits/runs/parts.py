"""The parts of `circuits evaluate`. Nothing heavy is imported."""

from collections.abc import Iterable

from circuits.errors import InputError
from circuits.methods.options import nearest

PARTS = {
    "faithfulness": "under every ablation, against random circuits",
    "features": "with and without errors",
    "completeness": "",
    "minimality": "",
    "curves": "CPR and CMD",
    "hypothesis": "tests",
    "scores": "complexity, sensitivity",
    "recovery": "of a known circuit",
    "certificate": "edges that stay without some prompts",
    "families": "of prompts, one circuit each",
    "specificity": "what it costs other tasks",
    "stability": "other pairs, seeds, ablations, metrics …",
    "randomisation": "of layers",
}
"""Their names, with a few words for `--help`."""
AGAIN = ("recovery", "certificate", "families", "stability", "randomisation")
"""Parts that always use the run's own pairs."""
SLOW = ("stability", "randomisation")
"""Parts that run the method again."""
OBJECT = ("certificate", "families", "specificity")
"""Parts that ask whether the circuit is a stable one, one circuit, and its own task's only."""
USUAL = tuple(part for part in PARTS if part not in (*SLOW, *OBJECT))
"""What a study measures if it does not say what."""


def check_parts(parts: Iterable[str] | None) -> tuple[str, ...]:
    """The requested parts; None: all.

    Raises:
        InputError: none, or an unknown one.
    """
    wanted = tuple(PARTS if parts is None else parts)
    unknown = [part for part in wanted if part not in PARTS]
    if unknown or not wanted:
        hint = nearest(unknown[0], list(PARTS)) if unknown else ""
        raise InputError(f"parts must be of {', '.join(PARTS)}, got {', '.join(unknown) or 'none'}{hint}")
    return wanted
