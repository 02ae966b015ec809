"""Attention patterns of heads as arrays, and their means between the named tokens of a task."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.descriptions.tokens import token_texts
from circuits.engine.architecture import Architecture
from circuits.engine.final_writes import pattern_point
from circuits.engine.hooks import Hook, TokenBatch, inference_state, run
from circuits.errors import InputError
from circuits.graph.nodes import Site, select_sites
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pair import bounds
from circuits.prompts.pairs import PromptPairs
from circuits.question.positions import label_bounds, position_axis
from circuits.question.question import Question
from circuits.results.provenance import Provenance, frozen, provenance
from circuits.shown import Shown, from_above

OTHER = "other"
"""The label of all keys that no role names."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class SpanMeans(Shown):
    """Attention between named tokens: for each head the mean over pairs of its weight from a query role to a key role.

    Attributes:
        heads: names.
        queries, keys: roles; the last key `other` has the rest of each row's attention.
        mean, stderr: over the pairs; a standard error is NaN with one pair.
        n_pairs: number of pairs.
    """

    heads: tuple[str, ...]
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    mean: Float[Tensor, "head query key"]
    stderr: Float[Tensor, "head query key"]
    n_pairs: int

    def rows(self) -> Sequence[dict[str, Any]]:
        """One row per head, query role and key role; keys after their query, which it cannot see, are 0."""
        return [
            {"head": head, "query": query, "key": key, "attention": float(self.mean[h, i, j]),
             "stderr": float(self.stderr[h, i, j])}
            for h, head in enumerate(self.heads) for i, query in enumerate(self.queries) for j, key in enumerate(self.keys)
        ]  # fmt: skip

    def _shown_rows(self) -> Sequence[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -row["attention"])

    def __repr__(self) -> str:
        return f"SpanMeans({len(self.heads)} heads, {len(self.queries)} × {len(self.keys)} roles, {self.n_pairs} pairs)"


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class Attention(Shown):
    """Attention patterns on the clean prompts.

    Attributes:
        pattern: head -> weights of each query on each key; 0 after the end of a prompt that is shorter than the longest.
        tokens: each prompt's tokens as text.
        pairs: the prompts.
        provenance: the origin.
    """

    pattern: Mapping[str, Float[Tensor, "pair query key"]]
    tokens: tuple[tuple[str, ...], ...]
    pairs: PromptPairs
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.pattern)

    def by_span(self, roles: Sequence[str] | None = None) -> SpanMeans:
        """Means between named tokens.

        Args:
            roles: names of roles or spans; None: all roles that every pair has, and the answer position as `answer position`.
                From a role of several tokens it is the mean, to one the sum. Two roles of one token both show its attention,
                and `other` leaves the token out once.

        Raises:
            PairsError: the pairs lack these roles.
        """
        labels, per_pair = self.between(roles, other=True)
        n = per_pair.shape[1]
        stderr = per_pair.std(1) / n**0.5 if n > 1 else torch.full_like(per_pair[:, 0], torch.nan)
        return SpanMeans(self.heads, labels, (*labels, OTHER), per_pair.mean(1), stderr, n)

    def between(
        self, roles: Sequence[str] | None = None, other: bool = False
    ) -> tuple[tuple[str, ...], Float[Tensor, "head pair query key"]]:
        """The attention of each pair between named tokens, and the names.

        Args:
            roles: see `by_span`; `answer position` may be among them.
            other: add a last key, the rest of each row's attention.

        Raises:
            PairsError: the pairs lack these roles.
        """
        labels = self._labels(roles)
        stacked = torch.stack([self.pattern[head] for head in self.heads]).double()
        inside = self._tokens(labels, stacked.shape[-1])
        queries = inside / inside.sum(-1, keepdim=True)
        keys = torch.cat([inside, 1 - inside.amax(0, keepdim=True)]) if other else inside
        return labels, torch.einsum("hnqk,inq,jnk->hnij", stacked, queries, keys)

    def _labels(self, roles: Sequence[str] | None) -> tuple[str, ...]:
        if roles is not None:
            named = [role for role in roles if role != ANSWER_POSITION]
            answer = (ANSWER_POSITION,) * (len(named) < len(roles))
            return (*((position_axis(self.pairs, named) or ()) if named or not answer else ()), *answer)
        common = [role for role in self.pairs.roles[0] if all(role in other for other in self.pairs.roles)]
        return (*sorted(common, key=lambda role: bounds(self.pairs.roles[0][role])), ANSWER_POSITION)

    def _tokens(self, labels: Sequence[str], longest: int) -> Float[Tensor, "label pair token"]:
        """1 at the tokens of each label in each pair, else 0."""
        inside = torch.zeros(len(labels), len(self.pairs), longest, dtype=torch.float64)
        for i, label in enumerate(labels):
            for n, position in enumerate(self.pairs.positions):
                start, stop = (
                    (position, position + 1) if label == ANSWER_POSITION else label_bounds(label, n, self.pairs)
                )
                inside[i, n, start:stop] = 1
        return inside

    def rows(self) -> Sequence[dict[str, Any]]:
        """The rows of `by_span`."""
        return self.by_span().rows()

    def plot(self, head: str | None = None, pair: int = 0) -> Any:
        """A heat map of one head on one prompt, as a plotly figure; None: the first head."""
        return from_above("plot")(self, head=self.heads[0] if head is None else head, pair=pair)

    def __repr__(self) -> str:
        return f"Attention({len(self.heads)} heads, {len(self.pairs)} pairs)"


ANSWER_POSITION = "answer position"


@on_model
def attention(
    model: Model,
    pairs: PromptPairs,
    heads: str | Sequence[str] | None = None,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Attention:
    """Attention patterns of heads on the clean prompts.

    Args:
        model: a model that shows its attention patterns.
        pairs: the prompts; only the clean ones are run.
        heads: names such as `a5.h2`; None: all heads.
        batch_size: pairs at a time.
        progress: called with (pairs done, total).

    Raises:
        InputError: a node that is not a head.
        ModelError: the model does not show its attention patterns.
    """
    question = Question.ask(model, pairs, None, "zero", batch_size).again(whole_prompts=True)
    sites = head_sites(model, heads)
    longest = max(map(len, pairs.clean))
    patterns = {site.name: torch.zeros(len(pairs), longest, longest) for site in sites}
    with inference_state(model.bridge):
        for batch in question.batches(progress=progress, forced=False):
            seen = recorded_patterns(model.architecture, batch.suffix.clean_tokens, {site.layer for site in sites})
            for site in sites:
                here = seen[site.layer][:, site.index].float().cpu()
                patterns[site.name][batch.index, : here.shape[1], : here.shape[2]] = here
    texts = tuple(token_texts(model, prompt) for prompt in pairs.clean)
    options = {"heads": [site.name for site in sites]}
    return Attention(patterns, texts, pairs, provenance(question, "attention", options))


def head_sites(model: Model, heads: str | Sequence[str] | None) -> tuple[Site, ...]:
    """The sites of heads by name, or of all.

    Raises:
        InputError: a node that is not a head.
    """
    if isinstance(heads, str) and heads != "heads":
        heads = [heads]
    sites = select_sites(model.graph, "heads" if heads is None else heads, model.widths)
    wrong = [site.name for site in sites if site.point != "z" or site.entry is not None]
    if wrong:
        raise InputError(f"expected heads such as a5.h2, got {wrong[0]!r}")
    return sites


def recorded_patterns(
    architecture: Architecture, batch: TokenBatch, layers: Collection[int], hooks: Sequence[Hook] = ()
) -> dict[int, Float[Tensor, "batch head query key"]]:
    """The attention patterns of some layers in one pass; `hooks` run first.

    Raises:
        ModelError: a layer does not show its pattern.
    """
    seen: dict[int, Tensor] = {}

    def recording() -> Iterator[Hook]:
        for layer in sorted(layers):
            point = pattern_point(architecture, architecture.blocks[layer])
            yield point, lambda x, layer=layer: seen.__setitem__(layer, x.detach())

    with torch.no_grad():
        run(architecture, batch, [*hooks, *recording()])
    return seen
