"""AtP*: attribution patching with fixes for its two kinds of false negatives (Kramár et al. 2024, 2403.00745).

AtP estimates a node's effect as `(clean_n - corrupted_n) · ∂metric/∂n`. The estimate can be near zero for an important node

1. if attention is saturated: a softmax that is flat at the clean run has no gradient towards another query or key.
   **QK fix** (section 3.1): the softmax is recomputed with the corrupted query or key,

       effect(n) ≈ Σ_rows (pattern - pattern with n corrupted) · ∂metric/∂pattern

   over one row for a query, and over all rows that attend to it for a key;
2. if a node's direct and indirect effects cancel in the gradient. **GradDrop** (section 3.2): for each layer ℓ, the gradient is
   computed as if that layer (attention and MLP together) wrote nothing back into the residual stream, and

       contribution(n) = mean over prompts of  1/(L-1) Σ_ℓ |effect_ℓ(n)|

   where effect_ℓ is 0 for nodes of layer ℓ itself (hence L-1) and the plain effect for nodes above it.

Contributions have no sign; they rank nodes, in the metric's unit.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.attention import AttentionScores, CleanAttention, Part, attention_fixes
from circuits.engine.live_run import Key, LiveRun
from circuits.engine.patch import Values
from circuits.engine.qk_fix import KeyFix, RowFix
from circuits.errors import InputError
from circuits.graph.nodes import Site, select_sites
from circuits.measure.node_effects import BatchEffects, at_positions, node_effects, other_run
from circuits.methods import options
from circuits.methods.method import Method
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike, RunAblation
from circuits.question.metrics import MetricLike
from circuits.question.positions import position_axis
from circuits.question.question import Batch, Question
from circuits.results.node_scores import NodeScores
from circuits.results.quantity import Quantity
from circuits.results.recorded import Recorded

NODES = "q+k+v+heads+mlps"


@on_model
def atp_star(
    model: Model,
    pairs: PromptPairs,
    *,
    qk_fix: bool = True,
    grad_drop: bool = True,
    positions: bool | str | Sequence[str] | None = True,
    nodes: str | Sequence[str] | None = None,
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """Ranks nodes by the estimated size of their effect.

    The scores are contributions. `per_prompt` holds each prompt's absolute value (with GradDrop, the mean of the absolute values
    over the dropped layers). Values and `to_dict()` are their means, without sign, and `provenance["options"]["signed"]` is
    False. With both fixes off, the scores are AtP's contributions. In a model of one layer, GradDrop changes nothing.

    A key shared by a group of heads (`a0.kv0<k>`) changes all of them. If one norm covers the queries of all heads (OLMo-2), a
    head's query also changes the others', and this is included.

    Cost: AtP, at most two forward passes without their MLPs for the QK fix (one for all queries, one for all keys; on OLMo-2
    one for each head), and L-1 backward passes through the blocks below the dropped one, together (L-1)/2 full passes.

    Args:
        model, pairs, ablation, batch_size, progress: see `circuits.activation_patching`.
        qk_fix: recompute the softmax for queries and keys.
        grad_drop: average over gradients with a dropped layer.
        positions: True (or `each`): every position is a node of its own, and a key is patched alone. False (or None): a node
            is patched at all its positions together; for keys, the softmax is recomputed with all of them corrupted, which
            is a different quantity. `spans`, `roles` or names of these: those tokens, summed over each span; see `circuits.question.positions`.
        nodes: names, or groups joined by `+`: see `circuits.graph.nodes`. None: queries, keys, values, heads and MLPs.
        metric: None: the task's preferred metric. It must have a gradient at the clean run.

    Raises:
        InputError: an unknown node, a row of a matrix, a metric without a gradient, or an ablation without a run of its own.
        PairsError: the pairs lack these positions.
        ModelError: the model's attention cannot be recomputed; `qk_fix=False` avoids this.
    """
    return atp_star_of(
        Question.ask(model, pairs, metric, ablation, batch_size), qk_fix=qk_fix, grad_drop=grad_drop, positions=positions,
        nodes=nodes, progress=progress,
    )  # fmt: skip


def atp_star_of(
    question: Question, *, qk_fix: bool = True, grad_drop: bool = True,
    positions: bool | str | Sequence[str] | None = True, nodes: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> NodeScores:  # fmt: skip
    """`atp_star` of a question."""
    model = question.model
    question.metric.require_gradient("AtP*")
    other = other_run(question, "AtP*")
    groups = [g for g in NODES.split("+") if g != "mlps" or any(model.graph.mlps)]
    sites = select_sites(model.graph, "+".join(groups) if nodes is None else nodes, model.widths)
    rows = [s.name for s in sites if s.entry is not None or (s.index is not None and s.point.endswith(("_in", "_out")))]
    if rows:
        raise InputError(f"AtP* scores whole nodes, not rows of matrices such as {rows[0]!r}; use attribution_patching")
    axis = ("each" if positions else None) if isinstance(positions, bool) else positions
    plan = _Plan(sites, position_axis(question.pairs, axis), qk_fix, grad_drop)
    names = [site.name for site in sites]
    options = {"nodes": names if nodes is None or isinstance(nodes, str) else list(nodes), "positions": plan.labels,
               "qk_fix": qk_fix, "grad_drop": grad_drop, "signed": False}  # fmt: skip
    return node_effects(
        question, "atp_star", options, names, plan.labels,
        lambda batch: _contributions(question, other, batch, plan), progress,
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """The nodes to score, and the options.

    Attributes:
        sites: the nodes.
        labels: labels of the position axis.
        qk_fix, grad_drop: see `atp_star`.
    """

    sites: tuple[Site, ...]
    labels: tuple[str, ...] | None
    qk_fix: bool
    grad_drop: bool

    @property
    def rows(self) -> dict[Key, list[int]]:
        """Indices in the scores of the sites at each hook point."""
        by_point: dict[Key, list[int]] = {}
        for i, site in enumerate(self.sites):
            by_point.setdefault((site.layer, site.point), []).append(i)
        return by_point

    def fixed_layers(self, part: Part) -> list[int]:
        """Layers whose queries or keys get the QK fix."""
        return [layer for layer, point in self.rows if point == part] if self.qk_fix else []

    def gradient_key(self, key: Key) -> Key:
        """The key whose gradient is used for nodes at a hook point; with the QK fix, the heads' outputs."""
        layer, point = key
        return (layer, "z") if self.qk_fix and point in get_args(Part) else key

    @property
    def one_by_one(self) -> bool:
        """Whether keys are patched at one position at a time."""
        return self.labels is not None


def _contributions(question: Question, other: RunAblation, batch: Batch, plan: _Plan) -> BatchEffects:
    logits, corrupted = other.values(question.model, batch.suffix, plan.sites, batch.tokens)
    live, scores = _clean_run(question, batch, plan)
    keys = sorted({plan.gradient_key(key) for key in plan.rows})
    gradients, stream = live.gradients(keys, again=plan.grad_drop)
    estimate = _Estimate(
        question, batch, plan,
        change={key: live.values[key].detach().to(question.sum_dtype) - corrupted[key] for key in plan.rows},
        fixes=_fixes(question, batch, plan, live, scores, corrupted),
    )  # fmt: skip
    sizes = estimate.sizes(gradients)
    if plan.grad_drop:
        sizes = _grad_drop(estimate, live, keys, sizes, stream)
    # node_effects converts effects to the metric's direction; sizes have no direction.
    return BatchEffects(sizes * question.metric.sign, live.metric.detach(), question.metric_of(batch, logits).detach())


def _clean_run(question: Question, batch: Batch, plan: _Plan) -> tuple[LiveRun, AttentionScores]:
    """The clean run with its autograd graph, and the attention scores of layers whose keys are patched one by one."""
    by_key = plan.fixed_layers("k") if plan.one_by_one else []
    scores = AttentionScores(question.model.architecture, by_key)
    keys = {*plan.rows, *map(plan.gradient_key, plan.rows), *((layer, "v") for layer in by_key)}
    with scores if by_key else nullcontext():
        live = question.live_run(batch, keys, scores.hooks())
    return live, scores


def _fixes(
    question: Question, batch: Batch, plan: _Plan, live: LiveRun, scores: AttentionScores, corrupted: Values
) -> dict[Key, Sequence[RowFix] | Sequence[KeyFix]]:
    """The QK fixes, by layer and part."""
    clean = CleanAttention(batch.suffix.clean_tokens, live.stream, live.values, scores.layers)
    fixes: dict[Key, Sequence[RowFix] | Sequence[KeyFix]] = {}
    for part in get_args(Part):
        layers = plan.fixed_layers(part)
        if layers:
            one_by_one = part == "k" and plan.one_by_one
            by_layer = attention_fixes(question.model.architecture, clean, part, layers, corrupted, one_by_one)
            fixes |= {(layer, part): fix for layer, fix in by_layer.items()}
    return fixes


@dataclass(frozen=True)
class _Estimate:
    """Effects of a batch's nodes as functions of the gradient.

    Attributes:
        question: model, pairs, metric and ablation.
        batch: the batch.
        plan: the nodes and the fixes.
        change: clean minus corrupted value, at each hook point of a node.
        fixes: QK fixes, which replace `change`.
    """

    question: Question
    batch: Batch
    plan: _Plan
    change: Values
    fixes: Mapping[Key, Sequence[RowFix] | Sequence[KeyFix]]

    def sizes(self, gradients: Values) -> Float[Tensor, "node *position pair"]:
        """Absolute effects; 0 for nodes without a gradient."""
        axes = () if self.plan.labels is None else (len(self.plan.labels),)
        dtype, device = next(iter(self.change.values())).dtype, self.batch.suffix.clean.device
        sizes = torch.zeros(len(self.plan.sites), *axes, len(self.batch), dtype=dtype, device=device)
        for key, rows in self.plan.rows.items():
            gradient = gradients.get(self.plan.gradient_key(key))
            if gradient is not None:
                effects = self._effects(key, gradient).to(sizes.device)
                by_position = self._of_sites(effects, [self.plan.sites[i] for i in rows])
                sizes[rows] = at_positions(by_position, self.plan.labels, self.batch, self.question.pairs).abs()
        return sizes

    def _effects(self, key: Key, gradient: Tensor) -> Float[Tensor, "batch pos *slot"]:
        change = self.change[key]
        if key not in self.fixes:
            product = change * gradient.to(change.dtype)
            return product if key[1] == "neurons" else product.sum(-1)
        effects = torch.cat([fix.effects(gradient) for fix in self.fixes[key]], dim=2)
        moved = change.any(-1)
        if key[1] == "k" and not self.plan.one_by_one:
            moved = moved.any(1, keepdim=True)  # effects are per row of the pattern here
        return effects * moved  # unchanged nodes have no effect, not even rounding

    @staticmethod
    def _of_sites(effects: Tensor, sites: Sequence[Site]) -> Float[Tensor, "node batch pos"]:
        if effects.ndim == 2:
            return effects[None]
        return effects[:, :, [site.index for site in sites]].movedim(2, 0)


def _grad_drop(
    estimate: _Estimate, live: LiveRun, keys: Sequence[Key], plain: Tensor, stream: Sequence[Tensor]
) -> Float[Tensor, "node *position pair"]:
    """The mean of absolute effects over the dropped layers, without the node's own layer.

    Dropping layer ℓ passes the gradient after it directly to the stream before it, so the backward pass covers only the blocks
    below. All passes share the graph of the clean run.
    """
    layers = range(estimate.question.model.graph.n_layers)
    own = [-1 if site.point == "resid_pre" else site.layer for site in estimate.plan.sites]
    terms = torch.tensor([len(layers) - (layer >= 0) for layer in own])
    above = torch.tensor([max(layer, 0) for layer in own])
    shape = (-1, *[1] * (plain.ndim - 1))
    total = plain * above.to(plain).reshape(shape)
    for dropped in layers:
        if any(layer < dropped for layer in own):
            below = [key for key in keys if key[0] < dropped or key[1] == "resid_pre"]
            total += estimate.sizes(live.gradients_below(dropped, stream[dropped + 1], below))
    only_layer = (terms == 0).to(plain.device)
    total[only_layer] = plain[only_layer]
    return total / terms.clamp(min=1).to(plain).reshape(shape)


METHOD = Method(
    name="atp-star",
    function=atp_star_of,
    gives="nodes",
    stage=("attribution", "scoring nodes"),
    help="estimates from gradients, with two corrections",
    results=Recorded(title="AtP*", quantity=Quantity("contribution", preposition="to", positive="", negative="")),
    takes=(
        replace(options.NODES, default=None, help=f"{options.NODES.help} Default: {NODES}."),
        replace(options.POSITIONS, default="each"),
        options.Option(
            "qk_fix",
            options.Kind.FLAG,
            True,
            "For queries and keys: recompute the softmax instead of using its gradient.",
        ),
        options.Option(
            "grad_drop", options.Kind.FLAG, True, "Average over gradients that leave out one layer each (GradDrop)."
        ),
    ),
)
