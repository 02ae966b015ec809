"""Path patching: the effect of the direct paths from some writers to some readers, with everything else frozen at clean.

(Wang et al. 2022, 2211.00593, appendix B; Goldowsky-Dill et al. 2023, 2304.05969.) Two passes on the clean prompt:

1. The senders take their corrupted values, and every other head keeps its clean value. MLPs keep theirs too
   (`mlps="frozen"`: only paths through the residual stream) or not (`mlps="live"`: also paths through MLPs, as in the IOI paper).
   The residual stream before each receiver is stored.
2. The receivers read the stored stream; everything after them is computed. `inputs` defines how:
   `shifted`: stored - clean is added to a receiver's input in pass 2, and the senders' own writes in pass 2 count as clean. A
   receiver after another one also reads the changes from that one.
   `set`: the input is the stored stream, as in Wang et al.; a receiver after another one does not read that one's changes.

    effect = metric(clean) - metric(pass 2)

Positive = the paths help. With frozen MLPs and shifted inputs, this is the ablation of the edges sender -> receiver under
interchange. If all receivers are in one place (queries, keys and values of one layer, or one MLP, or `logits`), both are the same.

A head's write to the residual stream is its value as an edge of the graph. If a norm follows attention (Gemma 2, Gemma 3, OLMo 2),
that is its part of the norm's output, at the scale of its own run: the clean run for a frozen head, the corrupted run for a sender.
So the norm does not react to a sender that is patched alone.

Senders and receivers may be at places (`a5.h2@S2`, `a9.h9<q>@end`): a sender then takes its corrupted value at the tokens of that
span, role or position only, and a receiver receives there only. A direct path stays at its token, so with frozen MLPs a sender at
one place and a receiver at another have no effect. A key or value may receive for the queries of one place only
(`a9.h9<v>@S2=>end`): other queries see what they would without this receiver.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.architecture import Architecture
from circuits.engine.by_query import QueryCopies
from circuits.engine.hooks import NO_LOGITS, Hook
from circuits.engine.patch import Patch, ValueRecorder, Values, patch_hooks
from circuits.engine.receivers import SetReaders, ShiftedReceivers, StreamRecorder, Tokens
from circuits.engine.resume import BaseRun, resume
from circuits.errors import InputError
from circuits.graph.nodes import Site, select_sites
from circuits.graph.places import ARROW
from circuits.measure.node_effects import BatchEffects, node_effects, other_run
from circuits.measure.placed_nodes import PlacedNode, place_label, placed_nodes
from circuits.methods.method import Method
from circuits.methods.options import Kind, Option
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import AblationLike, RunAblation
from circuits.question.metrics import MetricLike
from circuits.question.positions import tokens_at
from circuits.question.question import Batch, Question
from circuits.results.node_scores import NodeScores

MLPS = ("frozen", "live")
INPUTS = ("shifted", "set")


@on_model
def path_patching(
    model: Model,
    pairs: PromptPairs,
    receivers: Sequence[str],
    *,
    senders: str | Sequence[str] = "heads+mlps",
    together: bool = False,
    mlps: str = "frozen",
    inputs: str = "shifted",
    metric: MetricLike | None = None,
    ablation: AblationLike = "interchange",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> NodeScores:
    """The effect of each sender on the metric through the receivers.

    Args:
        model, pairs, metric, ablation, batch_size, progress: see `circuits.activation_patching`.
        receivers: readers: `a9.h9<q>`, `a9.kv3<k>`, `m10`, `logits`; with a span, role or token number where they receive:
            `a9.h9<q>@end`; for keys and values also with the place of the queries that see it: `a9.h9<v>@S2=>end`. A reader may be
            named at several places.
        senders: writers, by name or group (`heads`, `mlps`, `input`, joined by `+`); names may have a place: `a5.h2@S2`.
        together: patch all senders at once instead of one after the other; the result has one score, named after all of them.
        mlps: `frozen` or `live`, see the module docstring.
        inputs: `shifted` or `set`, see the module docstring; matters only for receivers in several places.

    Raises:
        InputError: an unknown node or option.
        PairsError: the pairs do not have a place.
    """
    return path_patching_of(
        Question.ask(model, pairs, metric, ablation, batch_size), receivers, senders=senders, together=together,
        mlps=mlps, inputs=inputs, progress=progress,
    )  # fmt: skip


def path_patching_of(
    question: Question, receivers: Sequence[str], *, senders: str | Sequence[str] = "heads+mlps",
    together: bool = False, mlps: str = "frozen", inputs: str = "shifted", progress: Progress | None = None,
) -> NodeScores:  # fmt: skip
    """`path_patching` of a question."""
    model = question.model
    if isinstance(receivers, str) or not receivers:
        raise InputError(f"receivers must be a list of readers, such as ['logits', 'a9.h9<q>'], got {receivers!r}")
    if mlps not in MLPS:
        raise InputError(f"mlps must be one of {', '.join(MLPS)}, got {mlps!r}")
    if inputs not in INPUTS:
        raise InputError(f"inputs must be one of {', '.join(INPUTS)}, got {inputs!r}")
    other = other_run(question, "path patching")
    nodes = _senders(question, senders)
    frozen = "heads+mlps" if mlps == "frozen" and any(model.graph.mlps) else "heads"
    plan = _Plan(_receivers(question, receivers), select_sites(model.graph, frozen), inputs)
    groups = [list(nodes)] if together else [[node] for node in nodes]
    options = {"receivers": list(receivers), "senders": [node.name for node in nodes], "together": together,
               "mlps": mlps, "inputs": inputs}  # fmt: skip
    names = ["+".join(node.name for node in group) for group in groups]
    return node_effects(
        question, "path_patching", options, names, None,
        lambda batch: _patch_batch(question, other, batch, plan, groups), progress,
    )  # fmt: skip


def _senders(question: Question, senders: str | Sequence[str]) -> tuple[PlacedNode, ...]:
    """The senders; InputError unless they are writers."""
    graph = question.model.graph
    if isinstance(senders, str) or not any("@" in name for name in senders):
        nodes = tuple(PlacedNode(site) for site in select_sites(graph, senders))
    else:
        nodes = placed_nodes(question.model, question.pairs, senders)
    wrong = [node.name for node in nodes if node.site.point not in ("z", "mlp_out", "resid_pre") or "[" in node.name]
    if wrong:
        raise InputError(f"senders are writers (heads, MLPs, input), not {wrong[0]!r}")
    return nodes


def _receivers(question: Question, receivers: Sequence[str]) -> "dict[int, tuple[_Where, ...]]":
    """Readers, and the places where each receives; none: everywhere."""
    result: dict[int, tuple[_Where, ...]] = {}
    everywhere: set[int] = set()
    for name in receivers:
        node, at, label = name.partition("@")
        source, arrow, query = label.partition(ARROW)
        r = question.model.graph.reader_index(node)
        if arrow and question.model.graph.reader_nodes[r].part not in ("k", "v"):
            raise InputError(
                f"{name!r} names the place of a query, which only keys and values have; a receiver such as {node} has the "
                f"place where it reads: {node}@{source}"
            )
        everywhere |= set() if at else {r}
        where = (
            [(place_label(question.pairs, source), place_label(question.pairs, query) if arrow else None)] if at else []
        )
        result[r] = (*result.get(r, ()), *where)
    return {r: () if r in everywhere else places for r, places in result.items()}


_Where = tuple[str, str | None]
"""A place, and that of the queries that see what is received there; None: all queries."""


@dataclass(frozen=True)
class _Plan:
    """The receivers and the frozen nodes.

    Attributes:
        receivers: indices of the receiving readers, and where they receive; none: everywhere.
        frozen: nodes that keep their clean values in the first pass, unless they are senders.
        inputs: see `path_patching`.
    """

    receivers: dict[int, tuple[_Where, ...]]
    frozen: tuple[Site, ...]
    inputs: str

    def tokens(self, batch: Batch, pairs: PromptPairs) -> tuple[Tokens, QueryCopies]:
        """Where the receivers receive in each copy of the prompts, and the copy that each query sees."""
        asked = [query for places in self.receivers.values() for _, query in places if query is not None]
        queries = list(dict.fromkeys(asked))
        seen = torch.stack([torch.zeros_like(batch.suffix.clean, dtype=torch.bool),
                            *(tokens_at(query, batch, pairs) for query in queries)])  # fmt: skip
        kinds, copy_of = seen.flatten(1).unique(dim=1, return_inverse=True)  # queries of one copy have the same names
        copies = QueryCopies(kinds.shape[1], copy_of.reshape(batch.suffix.clean.shape))
        sees = {query: kinds[i + 1].tolist() for i, query in enumerate(queries)} | {None: [True] * copies.n}
        tokens: Tokens = {}
        for r, places in self.receivers.items():
            if places:
                here = [(tokens_at(label, batch, pairs), sees[query]) for label, query in places]
                each = [torch.stack([at & there[copy] for at, there in here]).any(0) for copy in range(copies.n)]
                tokens[r] = torch.cat(each)
        return tokens, copies


def _patch_batch(
    question: Question, other: RunAblation, batch: Batch, plan: _Plan, groups: Sequence[Sequence[PlacedNode]]
) -> BatchEffects:
    model = question.model
    senders = list(dict.fromkeys(node.site for group in groups for node in group))
    logits, corrupted = other.values(model, batch.suffix, senders, batch.tokens)
    corrupted_metric = question.metric_of(batch, logits)
    own, stream = ValueRecorder(model.architecture, [*plan.frozen, *senders]), StreamRecorder(model.architecture)
    base = question.base_run(batch, [*own.hooks(), *stream.hooks()])
    clean_metric = question.clean_metric(batch, base.logits)
    tokens, copies = plan.tokens(batch, question.pairs)
    metrics = []
    for group in groups:
        patches = [node.patch(batch, question.pairs) for node in group]
        sent = _first_pass(model, base, plan, patches, own.values, corrupted)
        logits = _second_pass(model, base, plan, patches, own.values, stream, sent, tokens, copies, batch.tokens)
        metrics.append(clean_metric if logits is None else question.metric_of(batch, logits))
    return BatchEffects(clean_metric - torch.stack(metrics), clean_metric, corrupted_metric)


def _first_pass(
    model: Model, base: BaseRun, plan: _Plan, senders: Sequence[Patch], clean: Values, corrupted: Values
) -> StreamRecorder:
    """The residual stream with the senders corrupted and the rest frozen."""
    first = min(sender.site.layer for sender in senders)
    whole = {sender.site for sender in senders if sender.tokens is None}
    sending = [sender.site for sender in senders]
    at_places = [site for site in dict.fromkeys(sending) if site not in whole and site not in plan.frozen]
    behind = [site for site in (*plan.frozen, *at_places) if site not in whole and site.layer >= first]
    writing = [*behind, *sending]
    if not all(block.linear_heads for block in model.architecture.blocks):
        # Heads before a post-norm are held by their writes: if held at z, the norm would react to the patched heads.
        writing = [site for site in writing if site.point != "z"]
    stream = StreamRecorder(model.architecture)
    hooks = [
        *patch_hooks(model.architecture, clean, [[Patch(site) for site in behind if site in writing]]),
        *patch_hooks(model.architecture, corrupted, [[sender for sender in senders if sender.site in writing]]),
        *_held_attention(model.architecture, first, senders, clean, corrupted),
        *stream.hooks(),
    ]
    resume(model.architecture, base, first, hooks, tokens=NO_LOGITS)
    return stream


def _held_attention(
    architecture: Architecture, first: int, senders: Sequence[Patch], clean: Values, corrupted: Values
) -> list[Hook]:
    """Hooks that set the attention output of layers with a post-norm to the sum of the heads' writes, each from its own run."""
    hooks: list[Hook] = []
    for block in architecture.blocks[first:]:
        if not block.linear_heads:
            written = block.head_writes(clean[block.layer, "z"])
            heads = [sender for sender in senders if (sender.site.layer, sender.site.point) == (block.layer, "z")]
            if heads:
                written, sent = written.clone(), block.head_writes(corrupted[block.layer, "z"])
                for sender in heads:
                    index, tokens = sender.site.index, ... if sender.tokens is None else sender.tokens.to(sent.device)
                    written[:, :, index][tokens] = sent[:, :, index][tokens]
            total = written.sum(2)
            hooks.append((block.attn_out, lambda x, total=total: total))
    return hooks


def _second_pass(
    model: Model,
    base: BaseRun,
    plan: _Plan,
    senders: Sequence[Patch],
    values: Values,
    clean: StreamRecorder,
    sent: StreamRecorder,
    tokens: Tokens,
    copies: QueryCopies,
    read: Int[Tensor, " d_out"] | None,
) -> Float[Tensor, "read d_out"] | None:
    """Logits of the tokens `read`, with the stored stream before the receivers, and everything after them live; None: the clean run's."""
    arrived, layers = {}, []
    for r in plan.receivers:
        reader = model.graph.reader_nodes[r]
        before, after = clean.at(reader), sent.at(reader)
        if before is not None and after is not None:
            arrived[r] = copies.tiled(after if plan.inputs == "set" else after - before)
            layers.append(min(reader.layer, model.graph.n_layers - 1))
    if not arrived:
        return None
    if plan.inputs == "set":
        receiving = SetReaders(model.architecture, arrived, tokens)
    else:
        senders = [s if s.tokens is None else replace(s, tokens=copies.tiled(s.tokens)) for s in senders]
        values = {point: copies.tiled(value) for point, value in values.items()}
        receiving = ShiftedReceivers(model.architecture, arrived, senders, values, min(layers), tokens)
    # Heads put out what each query sees in its copy, the same in all copies: so later layers differ by receivers only.
    merging = [
        (block.z, lambda z: copies.tiled(copies.merged(z))) for block in model.architecture.blocks[min(layers) :]
    ]
    hooks = [*(merging if copies.n > 1 else ()), *receiving.hooks()]
    return resume(model.architecture, base, min(layers), hooks, copies.n, read)[: len(base.logits)]


METHOD = Method(
    name="path-patching",
    function=path_patching_of,
    gives="nodes",
    stage=("patching", "patching paths"),
    help="paths from nodes to readers",
    partial=True,
    takes=(
        Option(
            "receivers", Kind.NAMES, None, "Readers, comma separated: a9.h9<q>, a9.kv3<k>, m10, logits; at a place: a9.h9<q>@end, a9.kv3<v>@S2=>end.", required=True, label="receivers"
        ),
        Option(
            "senders", Kind.NODES, "heads+mlps", "Writers: groups joined by + (heads, mlps, input), or names, comma separated."
        ),
        Option("together", Kind.FLAG, False, "Patch all senders at once."),
        Option("mlps", Kind.TEXT, "frozen", "Whether MLPs between sender and receiver are recomputed (live) or keep their clean values (frozen).", choices=MLPS, label="MLPs"),
        Option("inputs", Kind.TEXT, "shifted", "Whether the change is added to the receiver's clean input (shifted), or the input is set to the patched one (set).", choices=INPUTS, label="inputs of the receivers"),
    ),
)  # fmt: skip
