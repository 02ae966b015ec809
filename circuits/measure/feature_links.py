"""The edges between chosen nodes of a model with dictionaries: which there are, and what their sources write.

A source writes to the residual stream: `input`, a head, an MLP, or a part (feature, error or skip) of a dictionary. A part of `hook_z`
writes through `W_O`, and a part of the stream is already in it: every later reader sees it. A target reads the stream: a head's query, key
or value, an MLP, `logits`, or a part of a dictionary. Parts of an MLP's dictionary together read what the MLP reads, parts of attention's
(`attn_out`, `hook_z`) what all queries, keys and values of the layer read, and parts of the stream's the stream at their place
(`measure.feature_reading`). An edge is the direct path through the stream. A dictionary of the stream in between does not interrupt it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Writes, expanded_heads
from circuits.engine.insertion import Key
from circuits.engine.patch import Values, record_values
from circuits.errors import InputError
from circuits.graph.graph import Graph
from circuits.graph.nodes import Site, find_site
from circuits.measure.component_runs import Replacements
from circuits.model import Model
from circuits.question.question import Batch, Question

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""Places of the residual stream itself."""
ATTENTION = {"a": "attn_out", "z": "z"}
"""Places of attention, and their hook points."""


def place_of(site: Site) -> str:
    """The kind of place of a part: `m`, `a`, `z` or a key of `STREAM`."""
    return site.point.rpartition(":")[2].rstrip("0123456789")


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
        readers: indices of the graph's readers that it is or is a part of; none for a part of the stream.
        n_writers: number of the graph's writers before it.
        site: of a part of a dictionary; None: a reader of the graph.
    """

    name: str
    readers: tuple[int, ...]
    n_writers: int
    site: Site | None = None

    def sees(self, source: Source) -> bool:
        """Whether there is an edge from this source. Two parts of one place of the stream do not see each other."""
        same_kind = (
            self.site is not None
            and source.site is not None
            and {place_of(self.site), place_of(source.site)} <= {*STREAM}
        )
        return source.last + same_kind < self.n_writers


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
            InputError: an unknown node.
        """
        names = list(dict.fromkeys(nodes))
        sources = [_source(model, name) for name in names if name != "logits"]
        targets = [target for name in names if name not in ("input", "logits") for target in _targets(model, name)]
        targets.append(_target(model, "logits"))
        targets = list(dict.fromkeys(targets))
        edges = [(s, t) for t, target in enumerate(targets) for s, source in enumerate(sources) if target.sees(source)]
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
            if not target.sees(source):
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
            for reader in (model.graph.reader_nodes[number] for number in target.readers):
                if reader.part in ("q", "k", "v"):
                    keys.add((reader.layer, reader.part))
                elif reader.part == "mlp":
                    keys |= {(reader.layer, "mlp_in"), (reader.layer, "mlp_out")}
                    if model.architecture.blocks[reader.layer].resid_mid is not None:
                        keys.add((reader.layer, "resid_mid"))
            place = "" if target.site is None else place_of(target.site)
            if target.site is not None and place in (*ATTENTION, "resid_mid"):
                keys.add((target.site.layer, ATTENTION.get(place, "attn_out")))
        return sorted(keys)


def _source(model: Model, name: str) -> Source:
    graph = model.graph
    if ":" not in name:
        if name not in graph.writer_names:
            raise InputError(f"there is no node {name!r} that writes to the residual stream")
        return Source(name, graph.writer_index(name))
    site = find_site(graph, name, model.widths)
    place = place_of(site)
    if place in STREAM:
        return Source(name, _in_stream(graph, site) - 1, site)
    last = graph.mlp_writer(site.layer) if place == "m" else graph.head_writers(site.layer).stop - 1
    return Source(name, last, site)


def _in_stream(graph: Graph, site: Site) -> int:
    """Number of writers whose sum the stream is at that place."""
    if place_of(site) == "resid_mid":
        return graph.head_writers(site.layer).stop
    return graph.n_writers_before_layer(site.layer + (place_of(site) == "resid_post"))


def _targets(model: Model, name: str) -> list[Target]:
    """What a node reads: a head its query, key and value."""
    graph = model.graph
    if ":" in name:
        return [_target(model, name)]
    writer = graph.writer_nodes[graph.writer_index(name)]
    if writer.kind == "mlp":
        return [_target(model, name)]
    assert writer.head is not None
    shared = graph.n_heads // graph.n_kv_heads
    readers = [graph.readers_of(writer.layer, "q").start + writer.head]
    readers += [graph.readers_of(writer.layer, part).start + writer.head // shared for part in ("k", "v")]
    return [_target(model, graph.reader_names[r]) for r in readers]


def _target(model: Model, name: str) -> Target:
    graph = model.graph
    if ":" not in name:
        if name not in graph.reader_names:
            raise InputError(
                f"there is no {name!r} that reads the residual stream; expected such as a5.h2<k>, m5, f:m5.3 or logits"
            )
        number = graph.reader_index(name)
        return Target(name, (number,), graph.reader_nodes[number].n_writers)
    site = find_site(graph, name, model.widths)
    if place_of(site) in STREAM:
        return Target(name, (), _in_stream(graph, site), site)
    parts = ("mlp",) if place_of(site) == "m" else ("q", "k", "v")
    slices = [graph.readers_of(site.layer, part) for part in parts]
    readers = tuple(number for one in slices for number in range(one.start, one.stop))
    return Target(name, readers, graph.reader_nodes[readers[0]].n_writers, site)


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
        self.own: Values = {}
        self.values: Values = {}
        if replacements.sites:
            self.own = record_values(model.architecture, batch.suffix.clean_tokens, replacements.sites)[1]
            self.values = replacements.values(question, batch, self.own)

    @staticmethod
    def replacements(question: Question, links: Links) -> Replacements:
        """The replacement values of the parts that write."""
        keys = dict.fromkeys((s.site.layer, s.site.point) for s in links.sources if s.site is not None)
        # Behind a norm, what a part of z writes depends on the whole of z.
        blocks = question.model.architecture.blocks
        keys |= {
            (layer, f"w:{point[2:]}"): None
            for layer, point in keys
            if point[2] == "z" and not blocks[layer].linear_heads
        }
        return Replacements.prepare(question, tuple(Site(key[1], *key, None) for key in keys))

    def write(self, number: int) -> Float[Tensor, "batch pos d_model"]:
        """The difference of what a source writes."""
        source, architecture = self.sources[number], self.question.model.architecture
        if source.site is not None:
            clean, replaced = (self._part(source.site, values) for values in (self.own, self.values))
            return clean - replaced
        writer = architecture.graph.writer_nodes[source.last]
        if writer.kind == "input":
            return self.writes.embedding
        if writer.kind == "mlp":
            written = self.writes.mlps[writer.layer]
            assert written is not None
            return written
        heads = expanded_heads(architecture.blocks[writer.layer], self.writes.heads[writer.layer])
        return heads[:, :, writer.head]

    def _part(self, site: Site, values: Values) -> Float[Tensor, "batch pos d_model"]:
        """What a part writes, with the values of one run."""
        place, architecture = site.point.rpartition(":")[2], self.question.model.architecture
        block, wide = architecture.blocks[site.layer], self.question.sum_dtype
        part = values[site.layer, site.point].to(wide)
        if site.index is not None:
            part = part[..., site.index, None] * architecture.inserted[place].coder.W_dec[site.index].to(wide)
        if place_of(site) != "z":
            return part
        weight = block.output_projection.to(wide).flatten(0, 1)
        write = part @ weight * block.scale
        if block.post_norm is None:
            return write
        total = values[site.layer, f"w:{place}"].to(wide) @ weight
        return block.post_norm.frozen(total if block.output_bias is None else total + block.output_bias.to(wide), write)
