"""Why a head looks at a token: its attention score as a sum over pairs of writers.

Before the softmax (and a soft cap), the score of query i and key j of a head is bilinear in what it reads, once the scales of the norms
are fixed at the run:

    score = scale · Σ_u Σ_w  R_i N(u_i) W_Q · R_j N(w_j) W_K        u, w: writers before the layer, and `constants`

with N the norm at its scale, R the rotary embedding (after a norm of queries and keys, at its scale). `constants` has the biases: of
attention outputs before, of the norm and of the projection. Terms of one query writer and `constants` say what the query asks of every
key alike, so only differences between keys move attention. (Elhage et al. 2021; IOI's S-inhibition in Wang et al. 2022.)

A model that adds a bias for positions to its scores (ALiBi; Press et al. 2022, 2108.12409) has a further term, `position`. It is
the score that the model itself gives to a query of zeros, so the sum stays a check of all other terms.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.descriptions.attention import head_sites
from circuits.engine.attention import AttentionScores
from circuits.engine.capture import Writes, only_writes, stack
from circuits.engine.check import tolerance
from circuits.engine.hooks import Hook, Reached, TokenBatch, inference_state, run, stop
from circuits.engine.norms import Norm, describe_norm
from circuits.engine.rotary import rotated, stored_tables
from circuits.errors import InputError, ModelError
from circuits.graph.nodes import Site
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.positions import label_bounds, position_axis
from circuits.question.question import Batch, Question
from circuits.results.provenance import Provenance, frozen, provenance
from circuits.shown import Shown

CONSTANTS = "constants"
POSITION = "position"


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class QueryKeyTerms(Shown):
    """The terms of one head's attention score between two tokens.

    Attributes:
        head, query, key: names of the head and of the two tokens' roles.
        writers: names of the terms' writers; then `constants`, and `position` if the model's scores have a bias for positions, whose
            only term is with itself.
        terms: per pair, the writer in the query × the writer in the key.
        score: per pair, the score that they sum to, before a soft cap.
        provenance: the origin.
    """

    head: str
    query: str
    key: str
    writers: tuple[str, ...]
    terms: Float[Tensor, "pair writer writer"]
    score: Float[Tensor, " pair"]
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    @property
    def by_query(self) -> dict[str, float]:
        """Mean over the pairs of what each writer in the query adds, with all writers in the key."""
        return dict(zip(self.writers, self.terms.sum(2).mean(0).tolist(), strict=True))

    @property
    def by_key(self) -> dict[str, float]:
        """Mean over the pairs of what each writer in the key adds, with all writers in the query."""
        return dict(zip(self.writers, self.terms.sum(1).mean(0).tolist(), strict=True))

    def rows(self) -> Sequence[dict[str, Any]]:
        """One row per pair of writers: mean term and standard error."""
        mean, n = self.terms.mean(0), len(self.terms)
        stderr = self.terms.std(0) / n**0.5 if n > 1 else torch.full_like(mean, torch.nan)
        return [
            {"in query": a, "in key": b, "term": float(mean[i, j]), "stderr": float(stderr[i, j])}
            for i, a in enumerate(self.writers) for j, b in enumerate(self.writers)
        ]  # fmt: skip

    def strongest(self, n: int = 10) -> list[tuple[str, str, float, float]]:
        """(writer in the query, writer in the key, mean term, standard error) of the n largest terms by absolute value."""
        ordered = self._shown_rows()[:n]
        return [(row["in query"], row["in key"], row["term"], row["stderr"]) for row in ordered]

    def minus(self, other: "QueryKeyTerms") -> "QueryKeyTerms":
        """The difference from another key of the same query: why the head looks here and not there.

        Raises:
            InputError: another head, query or other pairs.
        """
        if (self.head, self.query, self.terms.shape) != (other.head, other.query, other.terms.shape):
            raise InputError("only terms of one head and query on the same pairs can be subtracted")
        key = f"{self.key} - {other.key}"
        return QueryKeyTerms(
            self.head,
            self.query,
            key,
            self.writers,
            self.terms - other.terms,
            self.score - other.score,
            self.provenance,
        )

    def _shown_rows(self) -> Sequence[dict[str, Any]]:
        return sorted(self.rows(), key=lambda row: -abs(row["term"]))

    def __repr__(self) -> str:
        mean = float(self.score.mean())
        return f"QueryKeyTerms({self.head}, {self.query} looks at {self.key}: {mean:.4g} on {len(self.score)} pairs)"


@on_model
def query_key_terms(
    model: Model,
    pairs: PromptPairs,
    head: str,
    *,
    query: str | None = None,
    key: str,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> QueryKeyTerms:
    """Splits a head's attention score between two tokens of the clean prompts into terms of writer × writer.

    Args:
        model: a loaded model.
        pairs: the prompts; only the clean ones are run.
        head: its name.
        query, key: roles, or token numbers as text; query None: the answer position.
        batch_size: pairs at a time.
        progress: called with (pairs done, total).

    Raises:
        InputError: not a head, or a key after its query.
        PairsError: the pairs lack these roles.
        ModelError: the terms do not sum to the model's own score.
    """
    (site,) = head_sites(model, head)
    for role in (query, key):
        if role is not None and not role.isdecimal():
            position_axis(pairs, [role])
    question = Question.ask(model, pairs, None, "zero", batch_size).again(whole_prompts=True)
    n = model.graph.reader_nodes[model.graph.reader_index(f"{head}<q>")].n_writers
    terms = torch.zeros(len(pairs), n + 2, n + 2, dtype=torch.float64)
    with inference_state(model.bridge), torch.no_grad():
        for batch in question.batches(progress=progress, forced=False):
            at_query = batch.suffix.position if query is None else _token(query, batch, pairs)
            at_key = _token(key, batch, pairs)
            if bool((at_key > at_query).any() or (at_query >= batch.suffix.clean.shape[1]).any()):
                raise InputError(
                    f"in some prompt the key {key} comes after the query, which cannot see it, or the query is not there"
                )
            terms[batch.index] = _Run(question, batch, site, n).terms(at_query, at_key).to("cpu", torch.float64)
    writers = (*model.graph.writer_names[:n], CONSTANTS, POSITION)
    if not terms[:, -1, -1].any():
        writers, terms = writers[:-1], terms[:, :-1, :-1]
    origin = provenance(question, "query_key_terms", {"head": head, "query": query, "key": key})
    return QueryKeyTerms(head, query or "answer position", key, writers, terms, terms.sum((1, 2)), origin)


def _token(label: str, batch: Batch, pairs: PromptPairs) -> Tensor:
    """The one token of a label in each prompt."""
    ends = [label_bounds(label, i, pairs) for i in batch.suffix.batch.index.tolist()]
    if any(stop - start != 1 for start, stop in ends):
        raise InputError(f"{label} has several tokens in some prompt; terms are between single tokens: name one")
    return torch.tensor([start for start, _ in ends], device=batch.suffix.clean.device)


class _Run:
    """One batch's run with everything that a head's queries and keys are made of."""

    def __init__(self, question: Question, batch: Batch, site: Site, n_writers: int) -> None:
        assert site.index is not None
        self.architecture, self.layer, self.head = question.model.architecture, site.layer, site.index
        self.block = self.architecture.blocks[site.layer]
        self.seen: dict[str, Tensor] = {}
        hooks: list[Hook] = []
        points = {"x": self.block.resid_pre, "cos": self.block.rule.cos, "sin": self.block.rule.sin,
                  "q": self.block.q, "k": self.block.k}  # fmt: skip
        for name, point in points.items():
            if point is not None:
                hooks.append((point, lambda x, name=name: self.seen.__setitem__(name, x.detach())))
        scores = AttentionScores(self.architecture, [self.layer])
        with scores:
            writes = only_writes(self.architecture, batch.suffix.clean_tokens, [*hooks, *scores.hooks()])
        self.scores: Float[Tensor, "batch query key"] = scores.layers[self.layer][:, self.head]
        self.writes: Writes = writes
        self.wide, self.n, self.tokens = question.sum_dtype, n_writers, batch.suffix.clean
        self.rows = torch.arange(len(batch), device=batch.suffix.clean.device)

    def terms(self, at_query: Int[Tensor, " batch"], at_key: Int[Tensor, " batch"]) -> Float[Tensor, "batch term term"]:
        """Terms of writers and constants, and the position's bias last.

        Raises:
            InputError: the key is outside the head's window.
            ModelError: the terms do not sum to what the softmax got.
        """
        sides = self.side("q", at_query), self.side("k", at_key)
        made = torch.einsum("bue,bwe->buw", *sides) * self.block.rule.scale
        made = torch.nn.functional.pad(made, (0, 1, 0, 1))
        made[:, -1, -1] = self.position_bias()[at_query, at_key].to(made)
        self.check(made.sum((1, 2)), at_query, at_key)
        return made

    def position_bias(self) -> Float[Tensor, "query key"]:
        """The score of a query of zeros: the bias of positions, and the mask. It is the same for all prompts of one length."""
        scores = AttentionScores(self.architecture, [self.layer])
        position = torch.full((1,), self.tokens.shape[1] - 1, device=self.tokens.device)
        hooks = [(self.block.q, torch.zeros_like), *scores.hooks(), (self.block.z, stop)]
        with scores, contextlib.suppress(Reached):
            run(self.architecture, TokenBatch(self.tokens[:1], position), hooks)
        return scores.layers[self.layer][0, self.head]

    def side(self, part: str, at: Tensor) -> Float[Tensor, "batch writer d_head"]:
        """Every writer's part of the query or key at some tokens, and the constants' part last."""
        block, wide = self.block, self.wide
        picked = self.writes.map(lambda t: t[self.rows, at][:, None])
        x = self.seen["x"][self.rows, at].to(wide)
        first = stack(self.architecture, picked, wide)[:, : self.n, 0]
        constants = x - first.sum(1)
        parts = torch.cat([first, constants[:, None]], 1)
        normed = block.attn_norm.frozen(x[:, None], parts[:, None])[:, 0]
        if block.attn_norm.bias is not None:
            normed = torch.cat([normed[:, :-1], normed[:, -1:] + block.attn_norm.bias.to(wide)], 1)
        weight, bias = block.projection(part), block.projection_bias(part)
        index = self.head if part == "q" else self.head // (self.architecture.n_heads // self.architecture.n_kv_heads)
        projected = normed @ weight[index].to(wide)
        if bias is not None:
            projected = torch.cat(
                [projected[:, :-1], projected[:, -1:] + bias.reshape(len(weight), -1)[index].to(wide)], 1
            )
        own = block.rule.q_norm if part == "q" else block.rule.k_norm
        if own is not None:
            projected = self._own_norm(describe_norm(own), self.seen[part][self.rows, at].to(wide), projected, index)
        tables = self._tables(at)
        if tables is None:
            return projected
        cos, sin = (table[:, None].to(wide) for table in tables)
        return rotated(projected, cos, sin, block.rule.adjacent)

    def _tables(
        self, at: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch rotated"], Float[Tensor, "batch rotated"]] | None:
        """The rotation's cos and sin at some tokens; None without a rotation."""
        if "cos" in self.seen:
            cos, sin = (self.seen[name].expand(len(self.rows), -1, -1)[self.rows, at] for name in ("cos", "sin"))
            return cos, sin
        stored = stored_tables(self.block.attention.original_component)
        return None if stored is None else (stored[0].to(at.device)[at], stored[1].to(at.device)[at])

    def _own_norm(
        self,
        norm: Norm,
        whole: Float[Tensor, "batch head d_head"],
        parts: Float[Tensor, "batch writer d_head"],
        index: int,
    ) -> Float[Tensor, "batch writer d_head"]:
        """Parts of a query or key through its norm, which is over one head or over all heads together (OLMo 2)."""
        if norm.kind == "other" or norm.bias is not None:
            raise ModelError(f"layer {self.layer}: the norm of its queries or keys is of an unknown kind")
        if norm.weight is not None and norm.weight.shape[-1] == whole[0].numel() != parts.shape[-1]:
            r, _ = norm.scale_and_direction(whole.flatten(1))
            weight = norm.weight.reshape(whole.shape[1:])[index]
            return parts if r is None else parts * r[:, None] * weight
        return norm.frozen(whole[:, None, index], parts[:, None])[:, 0]

    def check(self, total: Float[Tensor, " batch"], at_query: Tensor, at_key: Tensor) -> None:
        """Raises ModelError if the terms do not sum to what the softmax got."""
        cap = self.block.rule.softcap
        made = total if cap is None else cap * torch.tanh(total / cap)
        wanted = self.scores[self.rows, at_query, at_key].to(made.dtype)
        limit = 10 * tolerance(self.scores.dtype) * max(1.0, float(wanted.abs().max()))
        if bool((wanted <= torch.finfo(self.scores.dtype).min / 2).any()):
            raise InputError("the key is outside the window of this head in some prompt")
        if not bool(((made - wanted).abs() <= limit).all()):
            raise ModelError(
                f"layer {self.layer}: the terms do not sum to the model's attention score (off by "
                f"{float((made - wanted).abs().max()):.2g}), so this head cannot be split"
            )
