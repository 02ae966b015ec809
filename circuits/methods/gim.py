"""GIM: edge attribution at the clean run, with other backward rules for softmax, norms and products (Edin et al. 2025, 2505.17630).

The rules are in `circuits.engine.gim_rules`, the scores in `circuits.methods.edge_attribution` (`gradient="gim"`). This file declares the
fields of `GimRules` as options of the method `gim`.
"""

from collections.abc import Sequence
from typing import Any

from circuits.engine.gim_rules import GimRules
from circuits.methods.edge_attribution import edge_attribution_of
from circuits.methods.method import Method
from circuits.methods.options import CHOICE, DESTINATIONS, PLACES, RANDOM_CIRCUITS, REFINE, REFINE_TOP, Kind, Option
from circuits.progress import Progress
from circuits.question.question import Question
from circuits.results.edge_scores import EdgeScores


def gim_of(
    question: Question, *, freeze_norm: bool = GimRules.freeze_norm,
    softmax_temperature: float = GimRules.softmax_temperature, q_scale: float = GimRules.q_scale,
    k_scale: float = GimRules.k_scale, v_scale: float = GimRules.v_scale, gate_scale: float = GimRules.gate_scale,
    up_scale: float = GimRules.up_scale, positions: str | Sequence[str] | None = None, destinations: bool = False,
    progress: Progress | None = None,
) -> EdgeScores:  # fmt: skip
    """`edge_attribution` by `gim` of a question, with the fields of `GimRules`."""
    rules = GimRules(freeze_norm, softmax_temperature, q_scale, k_scale, v_scale, gate_scale, up_scale)
    return edge_attribution_of(
        question, gradient="gim", gim=rules, positions=positions, destinations=destinations, progress=progress
    )


def _gim_option(name: str, help: str, **limits: Any) -> Option:
    default = getattr(GimRules, name)
    return Option(name, Kind.FLAG if isinstance(default, bool) else Kind.NUMBER, default, help, **limits)


METHOD = Method(
    name="gim", function=gim_of, gives="edges", help="one gradient, with rules for softmax and products",
    takes=(
        _gim_option("freeze_norm", "The scale of norms has no gradient."),
        _gim_option("softmax_temperature", "Temperature of the attention's softmax in the backward pass.", above=0),
        *(
            _gim_option(f"{part}_scale", f"Factor of the gradient at {where}.", at_least=0)
            for part, where in {
                "q": "queries", "k": "keys", "v": "values", "gate": "the gate of gated MLPs", "up": "the other factor of gated MLPs",
            }.items()
        ),
        *CHOICE, PLACES, DESTINATIONS, REFINE, REFINE_TOP, RANDOM_CIRCUITS,
    ),
)  # fmt: skip
