"""Direct logit attribution: what each writer adds to the metric by its own write alone, past no other node.

The logits are the final norm of the sum of all writes, times the unembedding. With the norm's scale fixed at the clean run they are
linear in each write, so a metric that is linear in the logits is a sum:

    metric = Σ_writers direct effect + constant

(Elhage et al. 2021, "A mathematical framework for transformer circuits"; Wang et al. 2022, 2211.00593; `circuits.measure.direct_parts`
has the equation.) The direct effect is metric(clean) - metric(clean, write <- 0) at this scale; positive = the writer helps. A soft
cap of the logits is treated as a factor of each logit, fixed at the clean run too. Another metric is replaced by its gradient at the
clean run, c · logits, and the constant includes metric - c · logits.

A head's direct effect is a sum over its source tokens: its attention from the answer position to the token, times what its value there
adds. With `positions`, effects lie at the source token; MLPs, neurons and `input` write from the answer position itself.

Only the run's own values count: nothing is patched, and a writer that later writers undo has a direct effect all the same.

"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.final_writes import final_writes
from circuits.errors import InputError, PairsError
from circuits.graph.nodes import Site, select_sites
from circuits.measure.direct_parts import direct_parts, metric_direction, neuron_parts, source_parts
from circuits.measure.node_effects import BatchEffects, node_effects
from circuits.methods.method import Method
from circuits.methods.options import NODES, POSITIONS
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.metrics import MetricLike
from circuits.question.places import SPANS
from circuits.question.positions import label_bounds, position_axis, tokens_at
from circuits.question.question import Batch, Question
from circuits.results.node_scores import DirectEffects
from circuits.results.quantity import Quantity
from circuits.results.recorded import Recorded

ELSEWHERE = "elsewhere"
"""The label of all source tokens that no chosen role names."""
POINTS = ("z", "mlp_out", "resid_pre", "neurons")


@on_model
def direct_effects(
    model: Model,
    pairs: PromptPairs,
    *,
    nodes: str | Sequence[str] = "input+heads+mlps",
    positions: str | Sequence[str] | None = None,
    metric: MetricLike | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> DirectEffects:
    """Each writer's own contribution to the metric on the clean prompts, with the final norm's scale fixed.

    Args:
        model: a loaded model.
        pairs: the prompts; only the clean ones are run.
        nodes: names of writers or neurons (`m5.n7`), or groups joined by `+`: `input`, `heads`, `mlps`, `neurons`.
        positions: None: a node's whole effect; `each`, `roles` or names of roles: a head's effect by source token, see
            `circuits.question.positions`. With roles, a last position `elsewhere` has all other source tokens. Of roles that
            share tokens, `roles` keeps the first.
        metric: None: the task's preferred metric. It must have a gradient at the clean run.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (pairs done, total).

    Returns:
        Effects by node (and position) and prompt, in the metric's unit, and `constant`: with all writers (the default nodes),
        effects and constant sum to the metric, up to rounding. `rest` is what is missing with other nodes; an MLP's output bias
        belongs to the MLP, not to its neurons.

    Raises:
        InputError: an unknown node, one that is not a writer, or a metric without a gradient.
        PairsError: the pairs lack these positions, or roles given by name share a token.
        ModelError: a norm of an unknown kind, or a model that does not show what is needed (neurons, attention).
    """
    question = Question.ask(model, pairs, metric, "zero", batch_size)
    return direct_effects_of(question, nodes=nodes, positions=positions, progress=progress)


def direct_effects_of(
    question: Question, *, nodes: str | Sequence[str] = "input+heads+mlps", positions: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> DirectEffects:  # fmt: skip
    """`direct_effects` of a question, whose ablation is `zero`."""
    if question.ablation.name != "zero":
        raise InputError(
            f"direct effects are those of zero ablation with the norm's scale fixed, not {question.ablation.name}"
        )
    question.pairs.require_one_token("direct_effects")
    question = question.again(whole_prompts=True)
    question.metric.require_gradient("direct logit attribution")
    model, pairs = question.model, question.pairs
    sites = select_sites(model.graph, nodes, model.widths)
    wrong = [site.name for site in sites if site.point not in POINTS or site.is_input_row or "[" in site.name]
    if wrong:
        raise InputError(f"direct effects are of writers (heads, MLPs, input) and neurons, not of {wrong[0]!r}")
    labels = source_labels(pairs, positions)
    options = {"nodes": nodes if isinstance(nodes, str) else list(nodes), "positions": labels}
    constants = torch.zeros(len(pairs), dtype=torch.float64)

    def measure(batch: Batch) -> BatchEffects:
        effects, constants[batch.index] = _on_batch(question, batch, sites, labels)
        return effects

    scores = node_effects(question, "direct_effects", options, [s.name for s in sites], labels, measure, progress)
    return DirectEffects(
        scores.nodes, scores.per_prompt, scores.positions, scores.clean, None, scores.provenance,
        constants * question.metric.sign,
    )  # fmt: skip


def source_labels(pairs: PromptPairs, positions: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The labels of the source tokens: of `position_axis`, so that every token has one label.

    Raises:
        PairsError: the pairs lack these positions, or roles given by name share a token.
    """
    labels = position_axis(pairs, positions)
    if labels is None or positions in ("each", SPANS):
        return labels
    kept: list[str] = []
    for label in labels:
        mine = [label_bounds(label, i, pairs) for i in range(len(pairs))]
        shared = [
            other for other in kept if any(_overlap(own, label_bounds(other, i, pairs)) for i, own in enumerate(mine))
        ]
        if shared and positions != "roles":
            raise PairsError(f"roles {shared[0]!r} and {label!r} name the same token in some pair; give one of them")
        kept += [] if shared else [label]
    return (*kept, ELSEWHERE)


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _on_batch(
    question: Question, batch: Batch, sites: Sequence[Site], labels: tuple[str, ...] | None
) -> tuple[BatchEffects, Float[Tensor, " batch"]]:
    architecture = question.model.architecture
    with_neurons = {site.layer for site in sites if site.point == "neurons"}
    with_sources = {site.layer for site in sites if site.point == "z"} if labels else set()
    end = final_writes(architecture, batch.suffix.clean_tokens, (), with_neurons, with_sources)
    direction = metric_direction(architecture, end, question.metric, batch.targets)
    parts = direct_parts(architecture, end, direction)
    neurons = {layer: neuron_parts(architecture.blocks[layer], end, direction) for layer in with_neurons}
    here = batch.suffix.position
    rows = []
    if labels is None:
        for site in sites:
            whole = {"resid_pre": parts.input, "mlp_out": parts.mlps[site.layer]}.get(site.point)
            by_index = parts.heads if site.point == "z" else neurons
            rows.append(by_index[site.layer][:, site.index] if whole is None else whole)
    else:
        sources = {layer: source_parts(architecture, layer, end, parts) for layer in with_sources}
        n_tokens = batch.suffix.clean.shape[1]
        for site in sites:
            if site.point == "z":
                rows.append(sources[site.layer][:, site.index])
                continue
            own = parts.input if site.point == "resid_pre" else parts.mlps[site.layer]
            own = neurons[site.layer][:, site.index] if site.point == "neurons" else own
            assert own is not None
            rows.append(own.new_zeros(len(batch), n_tokens).scatter(1, here.to(own.device)[:, None], own[:, None]))
    effects = torch.stack([row.to(direction.metric.device) for row in rows])
    if labels is not None:
        effects = _at_sources(effects, labels, batch, question.pairs)
    return BatchEffects(effects, direction.metric), parts.constant.to("cpu", torch.float64)


def _at_sources(
    by_token: Float[Tensor, "node batch key"], labels: tuple[str, ...], batch: Batch, pairs: PromptPairs
) -> Float[Tensor, "node position batch"]:
    named = labels[:-1] if labels[-1] == ELSEWHERE else labels
    tokens = torch.stack([tokens_at(label, batch, pairs) for label in named]).to(by_token)
    picked = torch.einsum("nbk,lbk->nlb", by_token, tokens)
    if len(named) < len(labels):
        picked = torch.cat([picked, (by_token.sum(2) - picked.sum(1))[:, None]], 1)
    return picked


METHOD = Method(
    name="direct-effects", function=direct_effects_of, gives="nodes", stage=("direct", "measuring direct effects"),
    results=Recorded(quantity=Quantity("direct effect", positive="raises the metric", negative="lowers the metric")),
    help="what each writer adds to the metric by itself", ablation="zero", takes=(replace(NODES, default="input+heads+mlps"), POSITIONS),
)  # fmt: skip
