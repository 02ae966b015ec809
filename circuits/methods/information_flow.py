"""Information flow: each writer's share of a reader's input, from one forward pass and without corrupted prompts.

(Ferrando & Voita 2024, 2403.00824, eq. 5-6.) At every position, the residual stream x before a reader is the sum of the earlier
writers. A writer's share is its proximity to x in the L1 norm, divided by the sum of all writers' proximities:

    proximity(w, x) = max(0, ‖x‖₁ - ‖x - w‖₁)          share(w -> reader) = proximity(w, x) / Σ_u proximity(u, x)

averaged over positions, then over prompts. **These are shares, not effects**: they lie between 0 and 1 and sum to 1 over a reader's
writers. They measure what arrives, not whether the reader uses it or whether the metric depends on it. No metric and no ablation
is involved.

As in EAP-IG's adaptation to edges, we depart from the paper, which splits attention by source token: a head is one writer, and its
q, k and v readers, which read the same residual stream, have the same shares. Unlike that adaptation, a position without any
proximity counts as 0 instead of making the mean NaN, and attention's output bias, which belongs to no writer, has no share.

With `destinations`, what arrives at a key or value at token s is divided among the spans of queries by the attention that they pay:

    share(w -> k or v at s, for queries in D) = share(w -> k or v at s) · Σ_{t in D} A[t, s] / Σ_t A[t, s]

where A is the pattern, for a group of heads their mean. This division is ours, not the paper's. It sums to the share at s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import stack
from circuits.engine.final_writes import pattern_point
from circuits.engine.hooks import NO_LOGITS, inference_state
from circuits.engine.memory import kept_for_reuse
from circuits.engine.recorded_run import RecordedRun, record_run
from circuits.errors import InputError
from circuits.graph.graph import Reader
from circuits.measure.edge_statistics import EdgeStatistics
from circuits.methods.method import Method
from circuits.methods.options import DESTINATIONS, EDGES, FILL, PLACES, RANDOM_CIRCUITS, SELECT, THRESHOLD
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.places import PlaceAxis, covering_axis
from circuits.question.question import Batch, Question
from circuits.results.edge_scores import EdgeScores
from circuits.results.provenance import frozen, provenance
from circuits.results.quantity import Quantity
from circuits.results.recorded import Recorded


@on_model
def information_flow(
    model: Model,
    pairs: PromptPairs,
    *,
    metric: Any = None,
    ablation: Any = None,
    positions: str | None = None,
    destinations: bool = False,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> EdgeScores:
    """Each edge's share of its reader's input on the clean prompts.

    Args:
        model: a loaded model.
        pairs: the prompts to explain; corrupted prompts are not used.
        metric, ablation: refused, since shares depend on neither.
        positions: `spans` or `each`: also split each share by place, so that circuits can be chosen over places. A share at a span
            is the part of the mean over positions that comes from its tokens, so an edge's shares sum to its share; those into
            `logits` are of the spans where logits are read, and do not.
        destinations: with `positions`, also divide shares of keys and values by the span of the query, see the module docstring.
        batch_size: pairs at a time; results do not depend on it.
        progress: called with (pairs done, in total).

    Returns:
        Shares between 0 and 1 (not effects), with standard errors over the prompts.

    Raises:
        InputError: a metric or an ablation was given, positions that do not cover the prompt, or destinations without positions.
        ModelError: destinations on a model that does not show its attention pattern.
        PairsError: the pairs do not fit the model, or have no such places.
    """
    for name, value in (("metric", metric), ("ablation", ablation)):
        if value is not None:
            raise InputError(
                f"information_flow got {name}={value!r}, but it looks at the clean prompts' residual stream only; leave it "
                "out, or use edge_attribution for effects on a metric"
            )
    unused = "interchange" if pairs.has_corrupted else "zero"
    question = Question.ask(model, pairs, "log_probability", unused, batch_size)
    return information_flow_of(question, positions=positions, destinations=destinations, progress=progress)


def information_flow_of(
    question: Question, *, positions: str | None = None, destinations: bool = False, progress: Progress | None = None
) -> EdgeScores:
    """`information_flow` of a question, whose metric and ablation are ignored."""
    question = question.again(metric="log_probability")  # a metric without requirements on the pairs
    axis = covering_axis(question.model.graph, question.pairs, positions, destinations)
    statistics = EdgeStatistics(question.model.graph, placed=None if axis is None else axis.graph)
    with inference_state(question.model.bridge), kept_for_reuse():
        for batch in question.batches(share_prefix=False, progress=progress, forced=False):
            shares, at_places = _shares(question, batch, axis)
            statistics.add(shares, batch.index)
            if statistics.placed is not None and at_places is not None:
                statistics.placed.add(at_places, batch.index)
    origin = dict(provenance(question, "information_flow", {"norm": 1}))
    origin |= {"metric": None, "ablation": None, "prefix_shared": False, "unit": "share of the reader's input"}
    return statistics.scores(frozen(origin))


def _shares(
    question: Question, batch: Batch, axis: PlaceAxis | None
) -> tuple[Float[Tensor, "batch writer reader"], Float[Tensor, "batch writer column"] | None]:
    """Shares of all edges, and of all edges at places."""
    model, graph = question.model, question.model.graph
    patterns: list[Tensor] = []
    shown = axis is not None and axis.graph.places.destinations
    blocks = model.architecture.blocks if shown else ()
    hooks = [(pattern_point(model.architecture, block), patterns.append) for block in blocks]
    run = record_run(model.architecture, batch.suffix, hooks, NO_LOGITS)
    ends = {_stream(reader): reader for reader in graph.reader_nodes}
    parts = [_shares_by_stream(model, run, rows, list(ends.values()), question.sum_dtype) for rows in _some_rows(run)]
    of_stream = dict(zip(ends, (torch.cat(part) for part in zip(*parts, strict=True)), strict=True))
    shares = next(iter(of_stream.values())).new_zeros(len(batch), graph.n_writers, graph.n_readers)
    means = {stream: part.mean(-1) for stream, part in of_stream.items()}
    for r, reader in enumerate(graph.reader_nodes):
        shares[:, : reader.n_writers, r] = means[_stream(reader)]
    if axis is None:
        return shares, None
    spans = F.one_hot(axis.table.of_tokens(batch), len(axis.graph.places.spans)).to(shares)
    divided = [_by_query(pattern.to(shares), spans, graph.n_kv_heads) for pattern in patterns]
    columns = shares.new_zeros(len(batch), graph.n_writers, axis.graph.n_readers)
    for column, (r, place) in enumerate(axis.graph.columns):
        reader = graph.reader_nodes[r]
        here = of_stream[_stream(reader)] * spans[:, None, :, place.source]
        if place.destination is not None:
            here = here * divided[reader.layer][:, reader.head, None, :, place.destination]
        columns[:, : reader.n_writers, column] = here.mean(-1)
    return shares, columns


ROWS_AT_ONCE = 2
"""Prompts whose writers are in memory together: few enough that the next ones reuse their memory."""


def _some_rows(run: RecordedRun) -> Iterator[slice]:
    return (slice(row, row + ROWS_AT_ONCE) for row in range(0, len(run.final), ROWS_AT_ONCE))


def _shares_by_stream(
    model: Model, run: RecordedRun, rows: slice, ends: Sequence[Reader], dtype: torch.dtype
) -> list[Float[Tensor, "some_rows some_writers pos"]]:
    """`shares_of` for some prompts of a run, by the streams of these readers."""
    some = run.writes.map(lambda x: x[rows])
    writes = stack(model.architecture, some, dtype, token_by_token=True)
    inputs = torch.stack([run.seen_by(reader)[rows].to(writes) for reader in ends], dim=2)
    return shares_of(writes, inputs, [reader.n_writers for reader in ends])


def _by_query(
    pattern: Float[Tensor, "batch head query pos"], spans: Float[Tensor, "batch pos span"], n_kv_heads: int
) -> Float[Tensor, "batch kv_head pos span"]:
    """The share of the attention to a token that comes from the queries of each span; its own span's if there is none."""
    paid = torch.einsum("bhqp,bqs->bhps", pattern, spans).unflatten(1, (n_kv_heads, -1)).mean(2)
    total = paid.sum(-1, keepdim=True)
    return torch.where(total > 0, paid / total.masked_fill(total == 0, 1.0), spans[:, None])


def _stream(reader: Reader) -> tuple[int, bool]:
    """Readers with one residual stream have one key."""
    return reader.layer, reader.part == "mlp"


def shares_of(
    parts: Float[Tensor, "batch writer pos d_model"],
    inputs: Float[Tensor, "batch pos stream d_model"],
    n_writers: Sequence[int],
) -> list[Float[Tensor, "batch some_writers pos"]]:
    """The share of each stream's first writers, see the module docstring.

    The writers at one token fit into a cache, and all streams there are compared with them before the next token. Stream by stream,
    all writers would come from memory each time, which takes longer than the model's own pass. A sum over `d_model` is a product
    with ones, which is the fastest; and ‖x - w‖₁ = 2 Σ max(x, w) - Σ x - Σ w takes one pass less than the absolute values.

    Args:
        parts: all writers; fastest if `stack` put them in memory token by token.
        inputs: the streams, in the order of the forward pass.
        n_writers: how many writers each stream has.
    """
    batch, total, pos, d_model = parts.shape
    distance = parts.new_empty(batch, pos, len(n_writers), total)
    larger, ones = parts.new_empty(total, d_model), parts.new_ones(d_model)
    for b in range(batch):
        for p, at_token in enumerate(parts[b].transpose(0, 1).contiguous()):
            for stream, n in enumerate(n_writers):
                torch.maximum(at_token[:n], inputs[b, p, stream], out=larger[:n])
                torch.mv(larger[:n], ones, out=distance[b, p, stream, :n])
            distance[b, p].mul_(2).sub_(torch.mv(at_token, ones)).sub_(inputs[b, p].sum(-1, keepdim=True))
    sizes, shares = inputs.abs().sum(-1), []
    for stream, n in enumerate(n_writers):
        near = (sizes[:, None, :, stream] - distance[:, :, stream, :n].transpose(1, 2)).clamp(min=0)
        whole = near.sum(1, keepdim=True)
        shares.append(near / whole.masked_fill(whole == 0, 1.0))
    return shares


METHOD = Method(
    name="information-flow", function=information_flow_of, gives="edges",
    help="no gradient: shares of what each reader sees", unasked=("metric", "ablation"),
    results=Recorded(
        quantity=Quantity("share of the reader's input", preposition="", positive="", negative=""), metric_units=False
    ),
    takes=(replace(PLACES, help="spans or each: score and choose edges by place."), DESTINATIONS, EDGES, THRESHOLD, SELECT, FILL, RANDOM_CIRCUITS),
)  # fmt: skip
