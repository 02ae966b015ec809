"""The logits of a model with edges ablated at some tokens only.

As `engine.ablate`, with a mask that says for every edge at which spans of tokens it is kept (`circuits.graph.places`). At a token of
span S, a reader sees

    x + Σ_{edges ablated at S} (replacement - current)

A key or value that a head reads at S may differ between the queries that read it (edges with destinations). The prompts are then
copied (`engine.by_query`), which takes as many passes' work as there are different sets of keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.ablate import ablated_logits
from circuits.engine.architecture import Architecture, Block
from circuits.engine.by_query import QueryCopies
from circuits.engine.capture import Writes
from circuits.engine.differences import CollectedDifferences, live_readers
from circuits.engine.hooks import run
from circuits.engine.prefix import Suffix
from circuits.graph.places import PlacedGraph


@dataclass(frozen=True, eq=False)
class KeptAtPlaces:
    """A mask over places, by span; the last span is that of tokens in no span of the graph, where nothing is kept.

    Attributes:
        graph: the graph over places.
        alone: kept edges of readers that are the same for every query: [reader, span, writer].
        for_query: by the span of the query, for keys and values; None: these are the same for every query too.
    """

    graph: PlacedGraph
    alone: Bool[Tensor, "reader span writer"]
    for_query: Bool[Tensor, "query reader span writer"] | None

    @classmethod
    def from_mask(cls, graph: PlacedGraph, keep: Bool[Tensor, "writer column"]) -> "KeptAtPlaces":
        places, base, device = graph.places, graph.base, keep.device
        n_spans = len(places.spans)
        readers, sources, queries = (
            torch.tensor(column, device=device)
            for column in zip(
                *((r, p.source, -1 if p.destination is None else p.destination) for r, p in graph.columns), strict=True
            )
        )
        alone = torch.zeros(base.n_readers, n_spans + 1, base.n_writers, dtype=torch.bool, device=device)
        shared, by_query = queries < 0, queries >= 0
        alone[readers[shared], sources[shared]] = keep.t()[shared]
        if not bool(by_query.any()):
            return cls(graph, alone, None)
        for_query = alone.new_zeros(n_spans + 1, *alone.shape)
        for_query[queries[by_query], readers[by_query], sources[by_query]] = keep.t()[by_query]
        if places.partition:  # a query before a span never reads it; let it see what the first one sees that does
            for query in range(n_spans):
                for span in range(query + 1, n_spans):
                    for_query[query, :, span] = for_query[span, :, span]
            for_query[n_spans] = for_query[n_spans - 1]
        if bool((for_query == for_query[:1]).all()):
            return cls(graph, alone | for_query[0], None)
        return cls(graph, alone, for_query)

    def everywhere(self, covered: bool) -> Bool[Tensor, "writer reader"] | None:
        """The mask without places if it is the same at all of them, so that the pass without places computes it.

        Args:
            covered: whether every token is in a span.
        """
        if self.for_query is not None or not covered:
            return None
        alone = self.alone[:, :-1]
        logits = self.graph.base.n_readers - 1
        read = self.graph.places.read
        if read is not None:  # elsewhere nothing reads
            alone = alone.clone()
            alone[logits] = alone[logits, self.graph.places.index(read[0])]
        return alone[:, 0].t() if bool((alone == alone[:, :1]).all()) else None


class AblatedAtPlaces(CollectedDifferences):
    """The hooks of one ablated forward pass with a mask over places; as `engine.ablate.Ablated`.

    Attributes:
        copies: for every set of keys and values that some query sees, the mask [reader, span, writer].
        queries: the copy that each query sees.
    """

    def __init__(
        self, architecture: Architecture, replacement: Writes, kept: KeptAtPlaces, spans: Int[Tensor, "batch pos"]
    ) -> None:
        graph, embedding = architecture.graph, replacement.embedding
        # On the host, as in `engine.ablate.Ablated`.
        edges, of_tokens = graph.edge_mask.t()[:, None], spans.cpu()
        alone = edges & ~kept.alone.cpu()
        self.copies, copy_of = alone[None], torch.zeros(alone.shape[1], dtype=torch.long)
        keys = torch.tensor([reader.part in ("k", "v") for reader in graph.reader_nodes])
        if kept.for_query is not None:
            queries = edges & ~kept.for_query.cpu()
            different, copy_of = queries[:, keys].unique(dim=0, return_inverse=True)
            self.copies = alone.repeat(len(different), 1, 1, 1)
            self.copies[:, keys] = different
        anywhere = self.copies[:, :, of_tokens.unique()].any(2).any(0)
        lacking = anywhere.any(1).tolist()
        alive = live_readers(architecture, ~self.copies.all(2).all(0).t() & graph.edge_mask)
        edited = [a and b for a, b in zip(lacking, alive, strict=True)]
        n_writers = torch.tensor([reader.n_writers for reader in graph.reader_nodes])
        from_replacement = 2 * self.copies.sum(-1) > n_writers[:, None]
        batch, pos, d_model = embedding.shape
        difference = embedding.new_empty(batch, pos, graph.n_writers, d_model).transpose(1, 2)  # writers side by side
        super().__init__(architecture, edited, replacement, from_replacement, difference)
        self.spans = spans.to(embedding.device)
        self.queries = QueryCopies(len(self.copies), copy_of[of_tokens].to(embedding.device))

    def inputs(
        self, readers: Sequence[int], x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch slot pos d_model"]:
        n = len(self.difference)
        if self.graph.reader_nodes[readers[0]].part not in ("k", "v"):
            return self.queries.tiled(self._inputs(self.copies[0], self.from_replacement[0], readers, x[:n]))
        seen = [self._inputs(*copy, readers, x[:n]) for copy in zip(self.copies, self.from_replacement, strict=True)]
        return torch.cat(seen)

    def _inputs(
        self, missing: Tensor, turned: Tensor, readers: Sequence[int], x: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch slot pos d_model"]:
        reader = self.graph.reader_nodes[readers[0]]
        turned = turned[readers]  # [slot, span]
        signs = missing[readers, :, : reader.n_writers].to(x.dtype) - turned[..., None].to(x.dtype)
        difference = self.difference.transpose(1, 2)[:, :, : reader.n_writers]
        used = signs.flatten(0, 1).any(0)
        if 4 * int(used.sum()) < reader.n_writers:
            columns = used.nonzero()[:, 0]
            signs, difference = signs[..., columns], difference[:, :, columns]
        by_token = signs.transpose(0, 1).to(difference.device)[self.spans].flatten(0, 1)
        summed = by_token @ difference.flatten(0, 1)  # [batch pos, slot, d_model]
        start = x.to(difference.device)[:, :, None]
        if bool(turned.any()):
            replaced = self.replaced_at(reader)[:, :, None]
            start = torch.where(turned.t().to(start.device)[self.spans][..., None], replaced, start)
        return (start + summed.unflatten(0, self.spans.shape)).transpose(1, 2).to(x.device)

    def _on_heads(self, block: Block, z: Tensor) -> Tensor | None:
        first = self.queries.merged(z)
        super()._on_heads(block, first)
        return self.queries.tiled(first) if self.queries.n > 1 else None


def ablated_at_places(
    architecture: Architecture,
    suffix: Suffix,
    replacement: Writes,
    graph: PlacedGraph,
    keep: Bool[Tensor, "writer column"],
    spans: Int[Tensor, "batch pos"],
    tokens: Int[Tensor, " d_out"] | None = None,
) -> Float[Tensor, "read d_out"]:
    """Logits on the clean prompts with every edge ablated where `keep` does not keep it.

    Args:
        architecture: the model.
        suffix: the prompts.
        replacement: the replacement values of ablated writers.
        graph: the model's graph over places.
        keep: True at the kept edges of `graph`.
        spans: the span of every token of the suffix; -1: none, nothing is kept there. If the mask is the same at all places and
            every token has one, the result has the same bits as `ablated_logits`.
        tokens: see `run`.
    """
    kept = KeptAtPlaces.from_mask(graph, keep)
    everywhere = kept.everywhere(covered=not bool((spans < 0).any()))
    if everywhere is not None:
        return ablated_logits(architecture, suffix, replacement, everywhere, tokens=tokens)
    ablation = AblatedAtPlaces(architecture, replacement, kept, spans)
    with torch.no_grad():
        return run(architecture, suffix.clean_tokens.copied(ablation.queries.n), ablation.hooks(), tokens)
