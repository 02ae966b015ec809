"""Edge attribution: every edge's effect from a few forward and backward passes.

For writer u, reader r and one pair of prompts,

    effect(u -> r) ≈ Σ_positions (clean_u - ablated_u) · ∂metric/∂input_r

Positive = the edge helps. Reader inputs are taken before the norm, whose scale is live (except with `relp` and `gim`). The rules differ in
the point at which the gradient is taken, and one in the difference:

| `gradient` | |
|---|---|
| `clean` | at the clean run: EAP (Syed et al. 2023, 2310.10348) |
| `corrupted` | at the run with the embedding ablated |
| `clean-corrupted` | the mean of both (Hanna et al. 2024) |
| `ig` | the mean along the straight path of the embedding from ablated to clean: EAP-IG (Hanna et al. 2024, 2403.17806, eq. 3) |
| `ig-activations` | the mean along the path of u's own output, with everything before it clean (Marks et al. 2024, 2403.19647, eq. 5) |
| `conductance` | along the embedding's path as in `ig`, times the change of u in each step: Σ_k gradient_k · (u_{k+1} - u_k) (Dhamdhere et al. 2018, 1805.12233, eq. 2, for edges) |
| `relp` | at the clean run, with the backward rules of `engine.relp_rules` (RelP: Rezaei Jafari et al. 2025, 2508.21258) |
| `gim` | at the clean run, with the backward rules of `engine.gim_rules` (GIM: Edin et al. 2025, 2505.17630) |

Identities, up to quadrature: the sum of `conductance` over all edges into `logits`, or out of `input`, is metric(clean) -
metric(embedding ablated). The sum of `ig-activations` over the out-edges of the writers that are interpolated together is the
exact effect of ablating these out-edges. With detached attention and zero ablation, `relp` of the input's out-edges sums to the
metric, in a model without biases.

Departures from EAP-IG: its code for inputs uses the left rule, which never evaluates the clean run, and its code for activations
the right rule. Here the midpoint rule is the default; `left` and `right` reproduce theirs. Its code for activations also adds
every run's gradients to all edges, whichever writer was interpolated; here they count only for that writer's edges. As there, all
heads of a layer are interpolated together. CEAP (Wu, Tonin & Cevher 2026, 2606.16920) also scores edges by conductance. We know
its formula only at second hand (`conductance` by the left rule under interchange ablation) and compared neither paper nor code.
`conductance` explains the change of the embedding: of the ablation, it uses only the embedding's replacement.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from circuits.engine.gim_rules import GimRules
from circuits.engine.hooks import inference_state
from circuits.engine.memory import freed_at_once, kept_for_reuse
from circuits.errors import AttributionWarning
from circuits.measure.contraction import Contraction, batch_over_places
from circuits.measure.edge_statistics import EdgeStatistics
from circuits.measure.norm_check import verdict
from circuits.measure.sign_check import SignCheck
from circuits.methods.gradient_rules import AT_CLEAN, ATTENTION, GRADIENTS, gradient_rule
from circuits.methods.method import Method
from circuits.methods.options import (
    CHOICE,
    DESTINATIONS,
    PLACES,
    QUADRATURE,
    RANDOM_CIRCUITS,
    REFINE,
    REFINE_TOP,
    STEPS,
    Kind,
    Option,
)
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metric_values import checked_together
from circuits.question.metrics import MetricLike
from circuits.question.places import place_axis
from circuits.question.positions import position_axis
from circuits.question.question import Question
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import provenance
from circuits.results.quantity import EFFECT, Quantity
from circuits.results.recorded import Recorded


@on_model
def edge_attribution(
    model: Model,
    pairs: PromptPairs,
    *,
    gradient: str = "ig",
    steps: int = 5,
    quadrature: str = "midpoint",
    attention: str = "live",
    gim: GimRules | None = None,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    positions: str | Sequence[str] | None = None,
    destinations: bool = False,
    check_sign: bool = True,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> EdgeScores:
    """Scores every edge of the model's graph.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        gradient: the rule, see the module docstring.
        steps: points on the path, for `ig`, `ig-activations` and `conductance`. With `steps=1` and the right rule, `ig` is
            EAP. `ig` takes a forward and a backward pass per step, `conductance` one more forward pass, and
            `ig-activations` as many as `ig` for each of the 2 · layers + 1 groups of writers.
        quadrature: location of the point in each of the `steps` equal pieces of the path from ablated to clean: `left`,
            `midpoint`, `right`.
        attention: for `relp`: gradients go through the attention pattern (`live`, as in the authors' example), or not
            (`detached`: the AH-rule, an option of their code, with which every edge into a query or key scores 0).
        gim: the options of `gim`; None: the authors' defaults.
        metric: None: the task's preferred metric.
        ablation: what replaces an ablated edge's value.
        positions: also split each effect by place: `spans` (the pairs' schema), `each` (every token), `roles`, or names of roles; see
            `circuits.question.positions`. With `spans` and `each`, circuits can be chosen over places (`EdgeScores.over_places`).
        destinations: with `spans` or `each`, split edges into keys and values also by the span of the query that reads them.
        check_sign: for `clean`: warn if the edge `input->m0` has the wrong sign, see `circuits.measure.sign_check`.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (pairs done, in total).

    Returns:
        Mean effects over the prompts in the metric's unit, with standard errors.

    Warns:
        AttributionWarning: see `check_sign`. Also if a gradient is taken on a residual stream of (almost) zeros, as under zero
            ablation at the ablated end (`corrupted`, `clean-corrupted`, the left rule), see `circuits.measure.norm_check`.

    Raises:
        InputError: an unknown option, or a metric without a gradient at the point where it is needed.
        ModelError: `relp` or `gim` has no rule for a part of the model.
        PairsError: the pairs do not fit the model.
    """
    return edge_attribution_of(
        Question.ask(model, pairs, metric, ablation, batch_size), gradient=gradient, steps=steps, quadrature=quadrature,
        attention=attention, gim=gim, positions=positions, destinations=destinations, check_sign=check_sign, progress=progress,
    )  # fmt: skip


def edge_attribution_of(
    question: Question, *, gradient: str = "ig", steps: int = 5, quadrature: str = "midpoint",
    attention: str = "live", gim: GimRules | None = None, positions: str | Sequence[str] | None = None,
    destinations: bool = False, check_sign: bool = True, progress: Progress | None = None,
) -> EdgeScores:  # fmt: skip
    """`edge_attribution` of a question."""
    rule = gradient_rule(gradient, steps, quadrature, attention, gim)
    question.metric.require_gradient("edge attribution", at_clean=gradient in AT_CLEAN)
    if rule.many_passes:
        question = question.again(large_batches=True)
    axis = place_axis(question.model.graph, question.pairs, positions, destinations)
    labels = position_axis(question.pairs, positions) if axis is None else None
    if axis is not None:
        question = question.again(usual_size=min(question.batch_size, batch_over_places(axis.graph)))
    statistics = EdgeStatistics(question.model.graph, placed=None if axis is None else axis.graph)
    if check_sign and gradient == "clean":
        rule = replace(rule, check=SignCheck(question))
    # Each pass reuses memory that the previous one freed; allocating it from the system would take a fifth of the time.
    memory = kept_for_reuse() if rule.many_passes else freed_at_once()
    empty = 0
    with inference_state(question.model.bridge), memory:
        for batch in question.batches(progress=progress):
            contraction = Contraction(question, batch, labels, axis)
            with checked_together():
                rule.function(contraction, rule)
            contraction.give_to(statistics)
            empty += int(batch.any_row(contraction.empty).sum())
    scores = statistics.scores(provenance(question, "edge_attribution", rule.options), labels)
    largest = float(scores.values.abs().max())
    warned = [
        None if rule.check is None else rule.check.verdict(scores),
        verdict(empty, len(question.pairs), largest, question.ablation.name, gradient, quadrature),
    ]
    for message in filter(None, warned):
        warnings.warn(message, AttributionWarning, stacklevel=4)
    return scores


TITLES = {"clean": "EAP", "ig": "EAP-IG", "relp": "RelP", "gim": "GIM"}
"""What the literature calls edge attribution, by its gradient."""


def _is_gim(origin: Mapping[str, Any]) -> bool:
    options = origin.get("options")
    return isinstance(options, Mapping) and options.get("gradient") == "gim"


def _quantity(origin: Mapping[str, Any]) -> Quantity:
    """GIM's backward rules weigh some paths more and some less, so that its scores are no effects."""
    return Quantity("weighed effect") if _is_gim(origin) else EFFECT


def _title(origin: Mapping[str, Any]) -> str:
    options = origin.get("options")
    gradient = str((options if isinstance(options, Mapping) else {}).get("gradient") or "clean")
    return TITLES.get(gradient) or f"EAP ({gradient.replace('_', ' ')} gradients)"


EAP = Method(
    name="eap", function=edge_attribution_of, gives="edges", help="one gradient", fixed={"gradient": "clean"}, neurons=True,
    takes=(*CHOICE, PLACES, DESTINATIONS, REFINE, REFINE_TOP, RANDOM_CIRCUITS),
)  # fmt: skip
EAP_IG = Method(
    name="eap-ig", function=edge_attribution_of, gives="edges", help="gradients integrated over inputs",
    fixed={"gradient": "ig"}, neurons=True, takes=(STEPS, QUADRATURE, *CHOICE, PLACES, DESTINATIONS, REFINE, REFINE_TOP, RANDOM_CIRCUITS),
)  # fmt: skip
EDGE_ATTRIBUTION = Method(
    name="edge-attribution", function=edge_attribution_of, gives="edges", help="any --gradient", results=Recorded(title=_title, quantity=_quantity, metric_units=lambda origin: not _is_gim(origin)),
    takes=(
        Option("gradient", Kind.TEXT, "ig", "Where gradients are computed, or by which rule.", choices=tuple(GRADIENTS)),
        STEPS, QUADRATURE,
        Option(
            "attention", Kind.TEXT, None, "relp: whether gradients pass through the attention pattern. Default: live.",
            choices=ATTENTION,
        ),
        *CHOICE, PLACES, DESTINATIONS, REFINE, REFINE_TOP, RANDOM_CIRCUITS,
    ),
)  # fmt: skip
