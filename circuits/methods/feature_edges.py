"""Edges between features, heads and MLPs: what one of them writes and another reads, through the encoder's own gradient.

For an edge from u into a reader r of the residual stream (EAP; Syed et al. 2023, 2310.10348; between features, Marks et al. 2024,
2403.19647),

    effect(u->r) ≈ Σ_positions (clean_u - replaced_u) · ∂metric/∂(what r reads)

where u writes f_i W_dec[i] if it is a feature (through `W_O` if it is one of `hook_z`). If r is a feature, the gradient passes through this
feature and its encoder alone (`measure.feature_reading`); the error reads the rest. Hence the effects over all parts of a dictionary, as
sources or as targets, add up to those of the whole, to rounding: of the MLP's edges, of the edges of all heads of the layer (`attn_out`,
`hook_z`), or for a dictionary of the stream of all earlier writers (sources), and of all later readers (targets). Per prompt, signed;
positive = the edge helps.

- `gradient="clean"`: at the clean run; `ig`: averaged over the path of inputs (EAP-IG, Hanna et al. 2024, 2403.17806); `relp`: with RelP's rules
  for norms and MLPs (Rezaei Jafari et al. 2025, 2508.21258), and the encoder's own gradient.
- `exact_feature_edges` measures edges one by one: the target alone sees the source's replacement. For a part of a dictionary, its value
  under that input is recorded in one pass and inserted in a second.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.dictionaries.dictionary import Dictionary
from circuits.dictionaries.insert import with_dictionaries
from circuits.engine.architecture import Architecture
from circuits.engine.hooks import Hook, inference_state, run
from circuits.engine.inserted import edits, records
from circuits.engine.insertion import Key
from circuits.engine.readers import ShiftedReaders
from circuits.engine.relp_rules import relevance
from circuits.errors import InputError
from circuits.measure.feature_links import STREAM, Differences, Links, Target, place_of
from circuits.measure.feature_reading import Reading
from circuits.methods.options import OFFSETS
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.question import Batch, Question
from circuits.results.feature_edges import FeatureEdges
from circuits.results.provenance import provenance

GRADIENTS = ("clean", "ig", "relp")


@on_model
def feature_edges(
    model: Model,
    pairs: PromptPairs,
    nodes: Sequence[str],
    *,
    dictionaries: Sequence[Dictionary] = (),
    gradient: str = "clean",
    steps: int = 5,
    quadrature: str = "midpoint",
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
) -> FeatureEdges:
    """Estimates the effects of all edges between chosen nodes, and from them to `logits`.

    Only these edges are computed and stored: choose nodes by their scores, such as the strongest hundred.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        nodes: names: `f:m3.1201`, `e:m3`, heads, MLPs, `input`.
        dictionaries: the dictionaries whose parts are among the nodes.
        gradient: `clean`, `ig` or `relp`; see the module docstring.
        steps, quadrature: for `ig`, see `edge_attribution`.
        metric: None: the task's preferred metric.
        ablation: what replaces the source's value.
        batch_size: pairs at a time; results do not depend on it.

    Raises:
        InputError: an unknown node or option, or a metric without a gradient.
        ModelError: `relp` has no rule for a part of the model.
    """
    if isinstance(nodes, str):
        raise InputError(f"nodes must be a list of names, got the text {nodes!r}")
    if gradient not in GRADIENTS:
        raise InputError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
    if quadrature not in OFFSETS or steps < 1:
        raise InputError(
            f"steps must be at least 1 and quadrature one of {', '.join(OFFSETS)}, got {steps} and {quadrature!r}"
        )
    question = Question.ask(with_dictionaries(model, dictionaries), pairs, metric, ablation, batch_size)
    return feature_edges_of(question, nodes, gradient=gradient, steps=steps, quadrature=quadrature)


def feature_edges_of(
    question: Question, nodes: Sequence[str], *, gradient: str = "clean", steps: int = 5, quadrature: str = "midpoint"
) -> FeatureEdges:
    """`feature_edges` of a question whose model has its dictionaries."""
    pairs = question.pairs
    question.metric.require_gradient("feature edges", at_clean=gradient != "ig")
    links = Links.among(question.model, nodes)
    points = [(k + OFFSETS[quadrature]) / steps for k in range(steps)] if gradient == "ig" else [1.0]
    options: dict[str, object] = {"gradient": gradient, "nodes": list(nodes)}
    options |= {"steps": steps, "quadrature": quadrature} if gradient == "ig" else {}
    effects = torch.zeros(len(links.edges), len(pairs), dtype=torch.float64)
    with inference_state(question.model.bridge):
        replacements = Differences.replacements(question, links)
        for batch in question.batches():
            differences = Differences(question, batch, links, replacements)
            rows = torch.zeros(len(links.edges), *batch.suffix.clean.shape[:1], dtype=torch.float64)
            for reading in _runs(question, batch, links, differences, gradient, points):
                rows += _products(links, differences, reading).to("cpu", torch.float64) / len(points)
            effects[:, batch.index] = batch.per_pair(rows, dim=1)
    origin = provenance(question, "feature_edges", options)
    return FeatureEdges(links.names, effects * question.metric.sign, origin)


def _runs(
    question: Question, batch: Batch, links: Links, differences: Differences, gradient: str, points: Sequence[float]
) -> Iterator[Reading]:
    """The runs at which gradients are taken."""
    model, keys, dtype = question.model, links.keys(question.model), question.sum_dtype
    if gradient == "relp":
        with ExitStack() as stack:
            rules = stack.enter_context(relevance(model.architecture, "live"))
            live = question.live_run(batch, keys, before=rules.hooks)
            yield Reading(model, rules.architecture, links, live, dtype)
        return
    for alpha in points:
        embedding = None
        if gradient == "ig":
            embedding = torch.lerp(differences.replacement.embedding, differences.clean.embedding, alpha)
        yield Reading(model, model.architecture, links, question.live_run(batch, keys, embedding=embedding), dtype)


def _products(links: Links, differences: Differences, reading: Reading) -> Float[Tensor, "edge row"]:
    """Σ over positions and d_model of difference · gradient, for every edge."""
    by_target: dict[int, list[int]] = {}
    for number, (_, target) in enumerate(links.edges):
        by_target.setdefault(target, []).append(number)
    first = next(iter(by_target.values()), [])
    result: dict[int, Tensor] = {}
    for target, numbers in by_target.items():
        gradient = reading.gradient(links.targets[target])
        for number in numbers:
            write = differences.write(links.edges[number][0]).to(gradient.device)
            result[number] = torch.einsum("bpd,bpd->b", write.to(gradient.dtype), gradient)
    return torch.stack([result[i] for i in range(len(links.edges))]) if first else torch.zeros(0, 0)


@on_model
def exact_feature_edges(
    model: Model,
    pairs: PromptPairs,
    edges: Sequence[str],
    *,
    dictionaries: Sequence[Dictionary] = (),
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
) -> FeatureEdges:
    """Measures edges, each alone: one forward pass an edge, two if its target is a part of a dictionary.

    Args:
        model: a loaded model.
        pairs: the prompts to explain.
        edges: names, such as `f:m3.1201->a5.h2<k>` or `m2->f:m3.7`; see `feature_edges`.
        dictionaries, metric, ablation, batch_size: see `feature_edges`.

    Raises:
        InputError: an unknown edge, or a target whose encoder does not read the MLP's input in a model with parallel blocks.
    """
    if isinstance(edges, str):
        raise InputError(f"edges must be a list of names, got the text {edges!r}")
    question = Question.ask(with_dictionaries(model, dictionaries), pairs, metric, ablation, batch_size)
    links = Links.named(question.model, edges)
    effects = torch.zeros(len(links.edges), len(pairs), dtype=torch.float64)
    for target in links.targets:
        _check_reads(question.model, target)
    with inference_state(question.model.bridge), torch.no_grad():
        replacements = Differences.replacements(question, links)
        for batch in question.batches():
            differences = Differences(question, batch, links, replacements)
            clean = question.metric(differences.logits, batch.targets)
            for number, (source, target) in enumerate(links.edges):
                shift = -differences.write(source).to(question.model.dtype)
                changed = _shifted(question, batch, links.targets[target], shift)
                effects[number, batch.index] = (clean - changed).to("cpu", torch.float64)
    origin = provenance(question, "exact_feature_edges", {"edges": list(edges)})
    return FeatureEdges(links.names, effects * question.metric.sign, origin)


def _check_reads(model: Model, target: Target) -> None:
    if (
        target.site is None
        or place_of(target.site) != "m"
        or model.architecture.blocks[target.site.layer].resid_mid is not None
    ):
        return
    coder = model.architecture.inserted[target.site.point.rpartition(":")[2]].coder
    assert isinstance(coder, Dictionary)
    if coder.site.reads not in ("mlp_in", "mlp_out"):
        raise InputError(
            f"exact effects of edges into {target.name} need an encoder of mlp_in or mlp_out, and its encoder reads {coder.site.reads}"
        )


def _shifted(
    question: Question, batch: Batch, target: Target, shift: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, " pair"]:
    """The metric if one target alone sees the stream with a shift."""
    architecture, tokens = question.model.architecture, batch.suffix.clean_tokens
    if target.site is None:
        shifted = ShiftedReaders(architecture, {target.readers[0]: shift}).hooks()
        return question.metric(run(architecture, tokens, shifted), batch.targets)
    key: Key = (target.site.layer, target.site.point)
    seen: dict[Key, Tensor] = {}
    run(architecture, tokens, [*_shifts(architecture, target, shift), *records(architecture, [key], seen.__setitem__)])
    replaced = partial(_placed, seen[key], target.site.index)
    return question.metric(run(architecture, tokens, edits(architecture, {key: replaced})), batch.targets)


def _shifts(architecture: Architecture, target: Target, shift: Float[Tensor, "batch pos d_model"]) -> list[Hook]:
    """Hooks that shift what a part of a dictionary reads; only the part's value is used of such a run."""
    assert target.site is not None
    place, block = place_of(target.site), architecture.blocks[target.site.layer]
    at = block.resid_mid if place == "m" else None
    if place in STREAM:
        at = architecture.inserted[target.site.point.rpartition(":")[2]].at
    if at is None:
        return ShiftedReaders(architecture, dict.fromkeys(target.readers, shift)).hooks()
    return [(at, lambda x: x + shift.to(x.device, x.dtype))]


def _placed(value: Tensor, index: int | None, x: Tensor) -> Tensor:
    """The current values, with one feature (None: all) from another run."""
    if index is None:
        return value
    x = x.clone()
    x[..., index] = value[..., index]
    return x
