"""What heads do with a token they look at, from their weights: the OV circuit over the whole vocabulary.

Two measures of copying. The **eigenvalue score** Σ Re λ / Σ |λ| is over the eigenvalues of the map from tokens to logits,
W_E W_V W_O W_U (Elhage et al. 2021): 1 if all directions of token space come back positive, -1 if all come back negative. The norms act by
their weights, and the embedding at unit scale. The **copying rate** is the share of tokens t among whose k largest logits, of the whole
vocabulary, t itself is, when the head writes what it reads at t (Wang et al. 2022): the stream after the first layer on the prompt
[BOS, t], for heads of the first layer the embedding. The suppression rate counts the k smallest. Rates are of what the head writes at t
minus the mean over the tokens.

The null of the eigenvalue score is that of heads with rotated values (`circuits.descriptions.rotated`); the null of a rate is k divided
by the size of the vocabulary.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.descriptions.attention import head_sites
from circuits.descriptions.output_values import weighted
from circuits.descriptions.probe_prompts import first_token
from circuits.descriptions.rotated import Rotation, projected, rotations
from circuits.engine.architecture import Architecture
from circuits.engine.hooks import Hook, Reached, TokenBatch, inference_state, run
from circuits.errors import InputError
from circuits.graph.nodes import Site
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.progress import Progress
from circuits.results.provenance import Provenance, frozen
from circuits.shown import Shown

CHUNK_BYTES = 64 * 2**20
"""Of logits at a time."""
ROTATED = 39
"""Rotated heads for the null of the eigenvalue score."""


@plain_methods
@dataclass(frozen=True, eq=False, repr=False)
class OvScores(Shown):
    """Copying by heads, from their weights.

    Attributes:
        heads: names.
        eigenvalue: Σ Re λ / Σ |λ|, in [-1, 1].
        eigenvalue_null: its mean over rotated heads.
        eigenvalue_p: share of head and rotated heads with at least this absolute value.
        copying, suppression: shares of tokens whose own logit is among the k largest, or smallest.
        tokens: ids of the source tokens.
        k: see above.
        chance: k divided by the size of the vocabulary.
        provenance: the origin.
    """

    heads: tuple[str, ...]
    eigenvalue: Float[Tensor, " head"]
    eigenvalue_null: Float[Tensor, " head"]
    eigenvalue_p: Float[Tensor, " head"]
    copying: Float[Tensor, " head"]
    suppression: Float[Tensor, " head"]
    tokens: Int[Tensor, " token"]
    k: int
    chance: float
    provenance: Provenance = field(default_factory=lambda: frozen(None))

    def rows(self) -> Sequence[dict[str, Any]]:
        """One row per head; the standard errors of the rates are binomial, over the source tokens."""
        n, rows = len(self.tokens), []
        for i, head in enumerate(self.heads):
            rates = {"copying": float(self.copying[i]), "suppression": float(self.suppression[i])}
            errors = {f"{name} stderr": (rate * (1 - rate) / n) ** 0.5 for name, rate in rates.items()}
            eigen = {
                "eigenvalue": self.eigenvalue,
                "eigenvalue null": self.eigenvalue_null,
                "eigenvalue p": self.eigenvalue_p,
            }
            row = {name: float(column[i]) for name, column in eigen.items()}
            rows.append({"head": head, **row, **rates, **errors, "chance": self.chance})
        return rows

    def __repr__(self) -> str:
        return f"OvScores({len(self.heads)} heads, {len(self.tokens)} tokens)"


@on_model
def ov_scores(
    model: Model,
    heads: str | Sequence[str],
    *,
    k: int = 5,
    tokens: int | None = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> OvScores:
    """Copying and suppression by heads, over the whole vocabulary, which is streamed.

    Args:
        model: a loaded model.
        heads: names, or `heads` for all.
        k: the number of largest logits that count.
        tokens: number of source tokens, drawn from the vocabulary; None: all tokens.
        seed: of the draw and of the rotations.
        progress: called with (heads done, total).

    Raises:
        InputError: not a head, or a number below one.
    """
    d_vocab = int(model.bridge.cfg.d_vocab)
    if not 1 <= k < d_vocab or (tokens is not None and tokens < 2):
        raise InputError(f"k must be between 1 and {d_vocab - 1} and tokens at least 2, got k={k}, tokens={tokens}")
    sites, generator = head_sites(model, heads), torch.Generator().manual_seed(seed)
    drawn = torch.randperm(d_vocab, generator=generator)[: d_vocab if tokens is None else tokens].sort().values
    with inference_state(model.bridge), torch.no_grad():
        across = _token_map(model.architecture)
        turned = list(rotations(model.architecture, ROTATED, seed))
        streams = _after_first_layer(model, drawn)
        rows = []
        for i, site in enumerate(sites):
            rows.append(
                [
                    *_eigenvalues(model.architecture, site, across, turned),
                    *_rates(model.architecture, site, streams, drawn, k),
                ]
            )
            if progress is not None:
                progress(i + 1, len(sites))
    columns = torch.tensor(rows, dtype=torch.float64).unbind(1)
    options = {"k": k, "tokens": tokens, "seed": seed}
    origin = frozen({"method": "ov_scores", "options": options, "model": model.name, "revision": model.revision})
    return OvScores(tuple(site.name for site in sites), *columns, drawn, k, k / d_vocab, origin)  # pyright: ignore[reportCallIssue]


def token_rates(
    model: Model, heads: Sequence[str], tokens: Sequence[int], k: int = 5
) -> dict[str, tuple[float, float]]:
    """Copying and suppression rates of heads on some tokens only, at least two."""
    chosen = torch.tensor(sorted(set(tokens)))
    with inference_state(model.bridge), torch.no_grad():
        streams = _after_first_layer(model, chosen)
        return {site.name: _rates(model.architecture, site, streams, chosen, k) for site in head_sites(model, heads)}


def _chunks(n: int, row_bytes: int) -> Iterator[slice]:
    size = max(1, CHUNK_BYTES // row_bytes)
    return (slice(start, start + size) for start in range(0, n, size))


def _unembedding(architecture: Architecture, part: slice | Tensor) -> Float[Tensor, "token d_model"]:
    """Rows of the unembedding, with the final norm's weights."""
    norm, rows = architecture.final_norm, architecture.bridge.unembed.W_U[:, part].T
    rows = rows if norm.weight is None else rows * norm.weight
    return rows - rows.mean(-1, keepdim=True) if norm.kind == "layer" else rows


def _token_map(architecture: Architecture) -> Float[Tensor, "d_model d_model"]:
    """Σ_tokens unembedding ⊗ embedding, the embedding at the norms' unit scale: what every head's eigenvalues need of the vocabulary."""
    embedding, norm = architecture.bridge.embed.W_E, architecture.blocks[0].attn_norm
    total = embedding.new_zeros(embedding.shape[1], embedding.shape[1])
    for part in _chunks(len(embedding), embedding.shape[1] * embedding.element_size()):
        rows = embedding[part]
        rows = rows - rows.mean(-1, keepdim=True) if norm.kind == "layer" else rows
        if norm.kind in ("layer", "rms"):
            rows = rows * (rows.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
        total += _unembedding(architecture, part).T @ rows
    return total


def _eigenvalues(
    architecture: Architecture,
    site: Site,
    across: Float[Tensor, "d_model d_model"],
    turned: Sequence[Rotation],
) -> tuple[float, float, float]:
    """The eigenvalue score of a head, its mean over rotated heads, and p."""
    block, index = architecture.blocks[site.layer], site.index
    assert index is not None
    group = architecture.n_heads // architecture.n_kv_heads
    values = [w[index // group] for w in (block.projection("v"), *(o.projection(block, "v") for o in turned))]
    through = weighted(block.post_norm, block.output_projection[index]) @ across
    weight = block.attn_norm.weight
    through = through if weight is None else through * weight
    own, *others = (_positive(through @ value) for value in values)
    p = (1 + sum(abs(other) >= abs(own) for other in others)) / (1 + len(others))
    return own, sum(others) / len(others), p


def _positive(matrix: Float[Tensor, "d_head d_head"]) -> float:
    values = torch.linalg.eigvals(matrix.double().cpu())
    size = float(values.abs().sum())
    return float(values.real.sum()) / size if size > 0 else 0.0


def _after_first_layer(model: Model, tokens: Int[Tensor, " token"]) -> tuple[Tensor, Tensor]:
    """The streams before the first and behind it, at each token of the prompts [BOS, token]."""
    blocks, bos = list(model.architecture.blocks), first_token(model, None)
    kept: list[list[Tensor]] = [[], []]

    def keep(x: Tensor, which: int) -> None:
        kept[which].append(x[:, -1].detach())
        if which == 1:
            raise Reached(x)

    behind = blocks[1].resid_pre if len(blocks) > 1 else model.architecture.final
    hooks: list[Hook] = [(blocks[0].resid_pre, lambda x: keep(x, 0)), (behind, lambda x: keep(x, 1))]
    for part in _chunks(len(tokens), 64 * int(model.bridge.cfg.d_model) * 4):
        prompts = torch.stack([torch.full_like(tokens[part], bos), tokens[part]], 1).to(model.device)
        with contextlib.suppress(Reached):
            run(
                model.architecture,
                TokenBatch(prompts, torch.ones(len(prompts), dtype=torch.long, device=model.device)),
                hooks,
            )
    return torch.cat(kept[0]), torch.cat(kept[1])


def _rates(
    architecture: Architecture, site: Site, streams: tuple[Tensor, Tensor], tokens: Int[Tensor, " token"], k: int
) -> tuple[float, float]:
    """Copying and suppression of one head: ranks of the own token, counted over chunks of the vocabulary."""
    block, index = architecture.blocks[site.layer], site.index
    assert index is not None
    group = architecture.n_heads // architecture.n_kv_heads
    x = block.attn_norm(streams[0 if site.layer == 0 else 1])
    values = projected(block, "v", x)[:, index // group]
    write = weighted(block.post_norm, (values - values.mean(0)) @ block.output_projection[index])
    tokens = tokens.to(write.device)
    own = (write * _unembedding(architecture, tokens)).sum(1, keepdim=True)
    above, below = torch.zeros_like(tokens), torch.zeros_like(tokens)
    d_vocab = architecture.bridge.unembed.W_U.shape[1]
    for part in _chunks(d_vocab, len(tokens) * write.element_size()):
        logits = write @ _unembedding(architecture, part).T
        same = torch.arange(d_vocab, device=write.device)[part] == tokens[:, None]
        above += ((logits >= own) & ~same).sum(1)
        below += ((logits <= own) & ~same).sum(1)
    return float((above < k).double().mean()), float((below < k).double().mean())
