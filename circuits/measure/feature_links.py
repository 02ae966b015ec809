"""The edges between chosen nodes of a model with dictionaries: which there are, what their sources write, and what their targets read.

A source writes to the residual stream: `input`, a head, an MLP, or a feature, an error or a skip of what an MLP or attention writes. A
target reads it: a head's query, key or value, an MLP, `logits`, or a part of an MLP's dictionary. A feature reads through its encoder and
the norm before it; an autoencoder of an MLP's write reads through the MLP. The parts of a dictionary of an MLP together read what the MLP
reads: its error reads the rest. The same holds for what they write, so sums over parts are the edges of the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.dictionaries.dictionary import Dictionary
from circuits.engine.architecture import Architecture, Block
from circuits.engine.capture import Writes, expanded_heads
from circuits.engine.insertion import Insertion, Key
from circuits.engine.live_run import LiveRun
from circuits.engine.norms import Norm
from circuits.engine.patch import Values, record_values
from circuits.errors import InputError
from circuits.graph.nodes import Site, find_site
from circuits.measure.component_runs import Replacements
from circuits.model import Model
from circuits.question.question import Batch, Question

PLACES = ("m", "a")
"""Places whose parts write to the stream: MLPs and attention."""


@dataclass(frozen=True)
class Source:
    """A node that writes.

    Attributes:
        name: of the node.
        last: index of the last of the graph's writers that it is a part of.
        site: of a part of a dictionary; None: a writer of the graph.
    """

    name: str
    last: int
    site: Site | None = None


@dataclass(frozen=True)
class Target:
    """A place that reads.

    Attributes:
        name: of the reader, or of the part.
        reader: index of the graph's reader that it is or is a part of.
        site: of a part of a dictionary; None: a reader of the graph.
    """

    name: str
    reader: int
    site: Site | None = None


@dataclass(frozen=True)
class Links:
    """The edges between some nodes.

    Attributes:
        sources, targets: the nodes that write, and what they read.
        edges: numbers of the source and the target of each edge.
    """

    sources: tuple[Source, ...]
    targets: tuple[Target, ...]
    edges: tuple[tuple[int, int], ...]

    @classmethod
    def among(cls, model: Model, nodes: Sequence[str]) -> "Links":
        """All edges between these nodes, and from them to `logits`.

        Raises:
            InputError: an unknown node, or a part of a dictionary of the residual stream or of heads' values, which has no edges.
        """
        graph, names = model.graph, list(dict.fromkeys(nodes))
        sources = [_source(model, name) for name in names if name != "logits"]
        targets = [target for name in names if name not in ("input", "logits") for target in _targets(model, name)]
        targets.append(Target("logits", graph.reader_index("logits")))
        targets = list(dict.fromkeys(targets))
        edges = [
            (s, t)
            for t, target in enumerate(targets)
            for s, source in enumerate(sources)
            if source.last < graph.reader_nodes[target.reader].n_writers
        ]
        return cls(tuple(sources), tuple(targets), tuple(edges))

    @classmethod
    def named(cls, model: Model, edges: Sequence[str]) -> "Links":
        """The edges of these names.

        Raises:
            InputError: an unknown edge.
        """
        sources: dict[str, Source] = {}
        targets: dict[str, Target] = {}
        pairs = []
        for name in dict.fromkeys(edges):
            left, arrow, right = name.partition("->")
            if not arrow:
                raise InputError(f"{name!r} is not an edge; expected a name such as f:m3.12->a5.h2<k>")
            source, target = _source(model, left), _target(model, right)
            if not source.last < model.graph.reader_nodes[target.reader].n_writers:
                raise InputError(f"there is no edge {name!r}: {left} comes after {right}")
            sources.setdefault(left, source)
            targets.setdefault(right, target)
            pairs.append((left, right))
        s, t = list(sources), list(targets)
        return cls(tuple(sources.values()), tuple(targets.values()), tuple((s.index(a), t.index(b)) for a, b in pairs))

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """(source, target) of each edge."""
        return tuple((self.sources[s].name, self.targets[t].name) for s, t in self.edges)

    def keys(self, model: Model) -> list[Key]:
        """The activations whose gradients the targets need."""
        keys: set[Key] = set()
        for target in self.targets:
            reader = model.graph.reader_nodes[target.reader]
            if reader.part in ("q", "k", "v"):
                keys.add((reader.layer, reader.part))
            elif reader.part == "mlp":
                keys |= {(reader.layer, "mlp_in"), (reader.layer, "mlp_out")}
                if model.architecture.blocks[reader.layer].resid_mid is not None:
                    keys.add((reader.layer, "resid_mid"))
        return sorted(keys)


def _source(model: Model, name: str) -> Source:
    graph = model.graph
    if ":" not in name:
        if name not in graph.writer_names:
            raise InputError(f"there is no node {name!r} that writes to the residual stream")
        return Source(name, graph.writer_index(name))
    site = find_site(graph, name, model.widths)
    place = site.point.rpartition(":")[2].rstrip("0123456789")
    if place not in PLACES:
        raise InputError(
            f"{name} has no edges: only parts of what an MLP (mlp_out, transcoder) or attention (attn_out) writes do"
        )
    last = graph.mlp_writer(site.layer) if place == "m" else graph.head_writers(site.layer).stop - 1
    return Source(name, last, site)


def _targets(model: Model, name: str) -> list[Target]:
    """What a node reads: a head its query, key and value."""
    graph = model.graph
    if ":" in name:
        site = find_site(graph, name, model.widths)
        return [_target(model, name)] if site.point.endswith(f":m{site.layer}") else []
    writer = graph.writer_nodes[graph.writer_index(name)]
    if writer.kind == "mlp":
        return [_target(model, name)]
    assert writer.head is not None
    shared = graph.n_heads // graph.n_kv_heads
    readers = [graph.readers_of(writer.layer, "q").start + writer.head]
    readers += [graph.readers_of(writer.layer, part).start + writer.head // shared for part in ("k", "v")]
    return [Target(graph.reader_names[r], r) for r in readers]


def _target(model: Model, name: str) -> Target:
    graph = model.graph
    if ":" not in name:
        if name not in graph.reader_names:
            raise InputError(
                f"there is no {name!r} that reads the residual stream; expected such as a5.h2<k>, m5, f:m5.3 or logits"
            )
        return Target(name, graph.reader_index(name))
    site = find_site(graph, name, model.widths)
    if not site.point.endswith(f":m{site.layer}"):
        raise InputError(f"{name} cannot be the target of an edge: only parts of a dictionary of an MLP are")
    return Target(name, graph.readers_of(site.layer, "mlp").start, site)


class Differences:
    """What each source writes, clean minus replaced, for one batch.

    Attributes:
        logits: of the clean run.
        clean, replacement: all writers' outputs.
    """

    def __init__(self, question: Question, batch: Batch, links: Links, replacements: Replacements) -> None:
        self.question, self.sources = question, links.sources
        model, wide = question.model, question.sum_dtype
        self.logits, self.clean = question.clean_run(batch.suffix)
        self.replacement = question.replacement(batch.suffix, self.clean)
        self.writes: Writes = self.clean.combine(self.replacement, lambda a, b: a.to(wide) - b.to(wide))
        own: Values = {}
        values: Values = {}
        if replacements.sites:
            own = record_values(model.architecture, batch.suffix.clean_tokens, replacements.sites)[1]
            values = replacements.values(question, batch, own)
        self.parts = {key: own[key].to(wide) - values[key].to(wide) for key in own}

    @staticmethod
    def replacements(question: Question, links: Links) -> Replacements:
        """The replacement values of the parts that write."""
        keys = dict.fromkeys((s.site.layer, s.site.point) for s in links.sources if s.site is not None)
        return Replacements.of(question, tuple(Site(key[1], *key, None) for key in keys))

    def write(self, number: int) -> Float[Tensor, "batch pos d_model"]:
        """The difference of what a source writes."""
        source, architecture = self.sources[number], self.question.model.architecture
        if source.site is not None:
            part = self.parts[source.site.layer, source.site.point]
            if source.site.index is None:
                return part
            row = architecture.inserted[source.site.point.rpartition(":")[2]].coder.W_dec[source.site.index]
            return part[..., source.site.index, None] * row.to(part.dtype)
        writer = architecture.graph.writer_nodes[source.last]
        if writer.kind == "input":
            return self.writes.embedding
        if writer.kind == "mlp":
            written = self.writes.mlps[writer.layer]
            assert written is not None
            return written
        heads = expanded_heads(architecture.blocks[writer.layer], self.writes.heads[writer.layer])
        return heads[:, :, writer.head]


class Reading:
    """The gradients of one run at what the targets read, at the residual stream."""

    def __init__(
        self, model: Model, architecture: Architecture, links: Links, live: LiveRun, dtype: torch.dtype
    ) -> None:
        self.model, self.architecture, self.live, self.dtype = model, architecture, live, dtype
        keys = links.keys(model)
        self.gradients, along = live.gradients(keys, again=True)
        self.final = along[-1].detach()

    def of(self, target: Target) -> Float[Tensor, "batch pos d_model"]:
        """The gradient of the metric through this target, at its input from the stream."""
        reader = self.model.graph.reader_nodes[target.reader]
        if reader.part == "logits":
            return self.final.to(self.dtype)
        block = self.architecture.blocks[reader.layer]
        if reader.part == "mlp":
            return self._of_mlp(block) if target.site is None else self._of_part(block, target.site)
        assert reader.head is not None
        g = self.gradients[block.layer, reader.part][:, :, reader.head].to(self.dtype)
        weight = block.projection(reader.part)[reader.head].to(self.dtype)
        return _back(block.attn_norm, self.live.stream[block.layer].detach().to(self.dtype), g @ weight.T)

    def _of_mlp(self, block: Block) -> Tensor:
        return _back(block.mlp_norm, self._stream(block), self.gradients[block.layer, "mlp_in"].to(self.dtype))

    def _of_part(self, block: Block, site: Site) -> Tensor:
        kind, _, place = site.point.rpartition(":")
        insertion = self.architecture.inserted[place]
        coder = insertion.coder
        assert isinstance(coder, Dictionary)
        written = self.gradients[block.layer, "mlp_out"].to(coder.W_dec.dtype)
        if kind == "s":
            assert coder.skip is not None
            return self._from_read(block, insertion, written @ coder.skip)
        read = coder.encoder_input(self._read(block, insertion))
        if kind == "f":
            i = site.index
            slope = coder.activation.slope(read @ coder.W_enc, coder.b_enc)[..., i]
            return self._from_read(
                block, insertion, ((written @ coder.W_dec[i]) * slope)[..., None] * coder.W_enc[:, i]
            )
        slope = coder.activation.slope(read @ coder.W_enc, coder.b_enc)
        explained = self._from_read(block, insertion, ((written @ coder.W_dec.T) * slope) @ coder.W_enc.T)
        if coder.skip is not None:
            explained = explained + self._from_read(block, insertion, written @ coder.skip)
        return self._of_mlp(block) - explained

    def _read(self, block: Block, insertion: Insertion) -> Tensor:
        """What the encoder reads in this run."""
        coder = insertion.coder
        assert isinstance(coder, Dictionary)
        reads = coder.site.reads
        if reads == "resid_mid":
            return self._stream(block)
        if reads == "mlp_normalized":
            return _plain(block.mlp_norm)(self._stream(block))
        return self.live.values[block.layer, "mlp_in" if reads == "mlp_in" else "mlp_out"].detach()

    def _from_read(self, block: Block, insertion: Insertion, g: Tensor) -> Tensor:
        """A gradient at what the encoder reads, at the stream."""
        coder = insertion.coder
        assert isinstance(coder, Dictionary)
        reads = coder.site.reads
        if reads == "resid_mid":
            return g.to(self.dtype)
        if reads == "mlp_out":
            out, into = (self.live.values[block.layer, point] for point in ("mlp_out", "mlp_in"))
            g = torch.autograd.grad(out, into, g.to(out.dtype), retain_graph=True)[0]
        norm = _plain(block.mlp_norm) if reads == "mlp_normalized" else block.mlp_norm
        return _back(norm, self._stream(block), g.to(self.dtype))

    def _stream(self, block: Block) -> Tensor:
        """The stream before the norm of an MLP."""
        if block.resid_mid is not None:
            return self.live.values[block.layer, "resid_mid"].detach().to(self.dtype)
        if block.parallel:
            return self.live.stream[block.layer].detach().to(self.dtype)
        return self.live.values[block.layer, "mlp_in"].detach().to(self.dtype)


def _plain(norm: Norm) -> Norm:
    """The norm without its weight and bias."""
    return replace(norm, weight=None, bias=None)


def _back(norm: Norm, x: Tensor, g: Tensor) -> Tensor:
    """A gradient at a norm's output, at its input."""
    return norm.vjp(x, g.clone()[None])[0]
