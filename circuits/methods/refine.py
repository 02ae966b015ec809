"""Refinement: estimates the strongest edges of some scores again, more accurately.

Edge attribution is linear everywhere. For an edge u -> r into node n, on the clean run, with input_r - (clean_u - ablated_u) as the
input of r when the edge is ablated,

    node     effect ≈ (n(clean) - n(edge ablated)) · ∂metric/∂n     exact through the receiving node (its norm, and its softmax
                                                                    or MLP), linear after it
    exact    effect = metric(clean) - metric(edge ablated)          every edge ablated alone

Into `logits`, both are exact. A key or value shared by several heads counts for all of them. `node` costs about one layer's
computation per edge, `exact` half a forward pass. All other edges keep their scores.

Scores over places (`EdgeScores.over_places`) are refined in the same way: an edge is then ablated at the tokens of its span, and with a
destination for the queries of that span only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.hooks import Hook, Reached, inference_state, stop
from circuits.engine.inserted import hook_point
from circuits.engine.live_run import Key
from circuits.engine.readers import ShiftedReaders
from circuits.engine.resume import resume
from circuits.errors import InputError
from circuits.graph.places import PlacedGraph
from circuits.measure.single_edges import EdgeRuns, edge_effects
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike
from circuits.question.metrics import MetricLike
from circuits.question.places import PlaceAxis, spans_of_graph
from circuits.question.question import Batch, Question
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import Provenance, frozen, plain, provenance
from circuits.results.recorded import Recorded, method_name
from circuits.results.selection import ranking

HOW = ("node", "exact")
TOKENS_AT_ONCE = 4096
"""Largest number of tokens in one pass through a single layer."""


@on_model
def refine(
    model: Model,
    pairs: PromptPairs,
    scores: EdgeScores,
    *,
    top: int = 200,
    how: str = "node",
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> EdgeScores:
    """Estimates the `top` strongest edges (by absolute score) again.

    Args:
        model: a loaded model.
        pairs: the pairs of the scores.
        scores: scores of this model's edges, or of its edges at places (`EdgeScores.over_places`), with this metric and ablation.
        top: number of edges (over places, of (edge, place) pairs); all, if the graph has fewer.
        how: `node` or `exact`, see the module docstring.
        metric, ablation: those of the scores.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (edges × prompts done, in total).

    Returns:
        The scores, with new means and standard errors at these edges. `provenance["refined"]` names them, strongest first, and
        `provenance["of"]` has the method and options of the original scores. Scores by position or place of an edge are dropped, since
        they would no longer sum to its score.

    Raises:
        InputError: an unknown option, a metric without a gradient where one is needed, or scores of another question.
    """
    question = Question.ask(model, pairs, metric, ablation, batch_size)
    return refine_of(question, scores, top=top, how=how, progress=progress)


def refine_of(
    question: Question, scores: EdgeScores, *, top: int = 200, how: str = "node", progress: Progress | None = None,
) -> EdgeScores:  # fmt: skip
    """`refine` of a question."""
    model, pairs = question.model, question.pairs
    if how not in HOW:
        raise InputError(f"how must be one of {', '.join(HOW)}, got {how!r}")
    if top < 0:
        raise InputError(f"top must not be negative, got {top}")
    if how == "node":
        question.metric.require_gradient("refinement through the receiving node")
    origin = provenance(question, "refine", {"how": how, "top": top})
    _same_question(question, scores, origin)
    graph = scores.graph
    axis = PlaceAxis(graph, spans_of_graph(graph, pairs, "scores")) if isinstance(graph, PlacedGraph) else None
    order = ranking(scores, "abs")[:top].tolist()
    effects = torch.zeros(len(order), len(pairs), dtype=torch.float64)
    measure = _through_node if how == "node" else _exact
    done = 0
    with inference_state(model.bridge):
        for batch in question.batches() if order else ():
            index = batch.index
            runs = EdgeRuns.prepare(question, batch, None, axis)
            for which, estimated in measure(question, batch, runs, order):
                rows = torch.stack([runs.carried(*order[i]) for i in which])
                carried = batch.per_pair(rows.long(), dim=1).bool().cpu()
                effects[torch.tensor(which)[:, None], index] = estimated.to("cpu", torch.float64) * carried
                done += len(which) * len(index)
                if progress is not None:
                    progress(done, len(order) * len(pairs))
    return _with(scores, order, effects * question.metric.sign, origin)


def _same_question(question: Question, scores: EdgeScores, origin: Provenance) -> None:
    if scores.graph.base != question.model.graph:
        raise InputError(f"the scores belong to another graph ({scores.graph}) than {question.model.name}")
    if scores.n_prompts != len(question.pairs):
        raise InputError(
            f"the scores are means over {scores.n_prompts} pairs, and {len(question.pairs)} were given; refine on the pairs "
            "that were scored"
        )
    for key in ("weights_sha256", "pairs_sha256", "metric", "ablation"):
        if key in scores.provenance and plain(scores.provenance[key]) != plain(origin[key]):
            raise InputError(
                f"the scores have {key} {scores.provenance[key]!r}, and the question has {origin[key]!r}; refine with the "
                "model, pairs, metric and ablation that were scored"
            )


def _exact(question: Question, batch: Batch, runs: EdgeRuns, order: Sequence[Sequence[int]]):
    """Yields (edges, their effects), reader by reader."""
    by_reader: dict[int, list[int]] = {}
    for i, (_, r) in enumerate(order):
        by_reader.setdefault(r, []).append(i)
    for r, which in by_reader.items():
        yield which, edge_effects(question, batch, runs, r, [order[i][0] for i in which], None)


@dataclass(frozen=True)
class _Group:
    """Edges whose receiving nodes are in the same part of one layer.

    Attributes:
        key: hook point of the nodes' outputs.
        edges: indices of the edges.
    """

    key: Key
    edges: tuple[int, ...]


def _groups(question: Question, runs: EdgeRuns, order: Sequence[Sequence[int]]) -> list[_Group]:
    readers, by_key = question.model.graph.reader_nodes, {}
    for i, (_, column) in enumerate(order):
        reader = readers[runs.reader(column)[0]]
        if reader.part != "logits":
            key = (reader.layer, "mlp_out" if reader.part == "mlp" else "z")
            by_key.setdefault(key, []).append(i)
    return [_Group(key, tuple(edges)) for key, edges in sorted(by_key.items())]


def _through_node(question: Question, batch: Batch, runs: EdgeRuns, order: Sequence[Sequence[int]]):
    """Yields (edges, their effects), group by group."""
    model = question.model
    groups = _groups(question, runs, order)
    grouped = {i for group in groups for i in group.edges}
    into_logits = [i for i in range(len(order)) if i not in grouped]
    if into_logits:
        yield from ((list(map(into_logits.__getitem__, which)), effects)
                    for which, effects in _exact(question, batch, runs, [order[i] for i in into_logits]))  # fmt: skip
    keys = [group.key for group in groups]
    clean = question.live_run(batch, keys)
    gradients, _ = clean.gradients(keys)
    tiles = max(1, TOKENS_AT_ONCE // batch.n_tokens)
    for group in groups:
        value, gradient = (x[group.key].to(question.sum_dtype) for x in (clean.detached, gradients))
        for start in range(0, len(group.edges), tiles):
            which = list(group.edges[start : start + tiles])
            changed = _node_outputs(model, runs, group.key, [order[i] for i in which]).to(question.sum_dtype)
            change = ((value - changed) * gradient).flatten(3).sum(-1)  # [edge, row, pos]
            change = change * runs.queries([order[i][1] for i in which])
            yield which, batch.per_pair(change.sum(-1), dim=1)


def _node_outputs(
    model: Model, runs: EdgeRuns, key: Key, edges: Sequence[Sequence[int]]
) -> Float[Tensor, "edge batch pos *shape"]:
    """Outputs of a layer's heads or MLP with one edge ablated at a time, seen by all queries; the pass ends there."""
    batch, _, pos, d_model = runs.difference.shape
    shifts: dict[int, Tensor] = {}
    for tile, (w, column) in enumerate(edges):
        r, place = runs.reader(column)
        shift = shifts.setdefault(r, runs.difference.new_zeros(len(edges), batch, pos, d_model))
        shift[tile] = runs.difference[:, w] if place is None else runs.at(place, runs.difference[:, w])
    readers = ShiftedReaders(model.architecture, {r: shift.flatten(0, 1) for r, shift in shifts.items()})
    try:
        end: Hook = (hook_point(model.architecture, *key), stop)
        resume(model.architecture, runs.base, key[0], [*readers.hooks(), end], len(edges))
    except Reached as reached:
        return reached.value.unflatten(0, (len(edges), batch))
    raise AssertionError(f"the pass never came to {key}")


def _with(
    scores: EdgeScores, order: Sequence[Sequence[int]], effects: Float[Tensor, "edge prompt"], origin: Provenance
) -> EdgeScores:
    """The scores with new effects at some edges."""
    graph, n = scores.graph, effects.shape[1]
    values, stderr = scores.values.clone(), scores.stderr.clone()
    rows = None if scores.per_prompt is None or scores.group != 1 else scores.per_prompt.clone()
    if order:
        at = tuple(torch.tensor(order).T)
        values[at] = effects.mean(1).to(values.dtype)
        stderr[at] = (effects.std(1) / n**0.5).to(stderr.dtype) if n > 1 else torch.nan
        if rows is not None:
            column = torch.zeros(graph.edge_mask.shape, dtype=torch.long)
            column[graph.edge_mask] = torch.arange(graph.n_edges)
            rows[:, column[at]] = effects.T.to(rows.dtype)
    names = [f"{graph.writer_names[w]}->{graph.reader_names[r]}" for w, r in order]
    before = {key: scores.provenance[key] for key in ("method", "options") if key in scores.provenance}
    refined = frozen({**origin, "of": before, "refined": names})
    return replace(
        scores, values=values, stderr=stderr, provenance=refined, positions=None, by_position=None, by_position_stderr=None,
        per_prompt=rows, placed=None,
    )  # fmt: skip


REFINED = Recorded(title=lambda origin: f"{method_name(origin.get('of') or {})}, refined")
