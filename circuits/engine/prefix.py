"""The part of a batch that must be computed, given the common prefix of clean and corrupted prompts.

Before the first token in which a pair differs, both runs are equal: there is nothing to ablate and nothing to
attribute. Those positions are computed once and kept as keys and values; later passes run the rest only. This is exact
for causal models; the check at loading tests whether a model takes the cache exactly.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from transformer_lens import TransformerBridge

from circuits.engine.hooks import Cache, Hook, TokenBatch, hooked
from circuits.errors import PairsError
from circuits.prompts.batch import PairBatch

WITHOUT_CORRUPTED = (
    "give each pair one, or choose an ablation that needs none: zero, mean, mean_positional, optimal, resample, or gaussian with the names "
    "of roles (--ablation gaussian --noise-tokens subject)"
)


@dataclass(frozen=True, eq=False)
class Suffix:
    """A batch of pairs without their common prefix.

    Attributes:
        clean, corrupted: token ids from position `start` on; corrupted is None without corrupted prompts.
        position: the read positions, counted from `start`.
        start: length of the cached prefix (0: none).
        batch: the whole batch.
    """

    clean: Int[Tensor, "row pos"]
    corrupted: Int[Tensor, "row other"] | None
    position: Int[Tensor, " read"]
    start: int
    batch: PairBatch
    _cache: Cache | None = None

    @property
    def clean_tokens(self) -> TokenBatch:
        """The clean prompts for a pass."""
        return self.with_tokens(self.clean)

    @property
    def corrupted_tokens(self) -> TokenBatch:
        """The corrupted prompts for a pass.

        Raises:
            PairsError: there are none.
        """
        if self.corrupted is None:
            raise PairsError(
                f"these values are those of corrupted prompts, and the pairs have none; {WITHOUT_CORRUPTED}"
            )
        return TokenBatch(self.corrupted, self.batch.corrupted_position - self.start, self._cache, self.row)

    @property
    def alignment(self) -> Int[Tensor, "row pos"] | None:
        """The corrupted token that belongs to each clean token, both counted from `start`; None: the one at the same position."""
        whole = self.batch.alignment
        return None if whole is None else whole[:, self.start :] - self.start

    def on_clean(self, values: Shaped[Tensor, "row other ..."]) -> Shaped[Tensor, "row pos ..."]:
        """Values at the corrupted tokens, at the clean tokens that they belong to."""
        return values if self.alignment is None else _picked(values, self.alignment)

    def on_corrupted(self, values: Shaped[Tensor, "row pos ..."]) -> Shaped[Tensor, "row other ..."]:
        """Values at the clean tokens, at the corrupted tokens that they belong to (`circuits.prompts.aligned.back`)."""
        if self.alignment is None or self.corrupted is None:
            return values
        tokens = torch.arange(self.corrupted.shape[1], device=self.corrupted.device).expand(len(self.corrupted), -1)
        before = torch.searchsorted(self.alignment.contiguous(), tokens.contiguous(), right=True) - 1
        met = self.alignment.gather(1, before.clamp(min=0)) == tokens
        return _picked(values, torch.where(met & (before >= 0), before, before + 1).clamp(max=self.clean.shape[1] - 1))

    @property
    def row(self) -> Int[Tensor, " read"] | None:
        """The row of each read position; None: each row is read once, in order."""
        return None if self.batch.forced is None else self.batch.forced.row

    def with_tokens(self, tokens: Int[Tensor, "row pos"]) -> TokenBatch:
        """Other tokens after the same prefix."""
        return TokenBatch(tokens, self.position, self._cache, self.row)


def _picked(values: Tensor, tokens: Int[Tensor, "row to"]) -> Tensor:
    """`values` [row, from, …] at other tokens."""
    rows = torch.arange(len(tokens), device=values.device)[:, None]
    return values[rows, tokens.to(values.device)]


def prefix_cache(bridge: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> Cache:
    """Keys and values of `tokens`, computed by the model itself."""
    nowhere: Hook = (bridge.hook_dict["unembed.hook_in"], lambda normed: normed[:, :0])  # nothing uses the logits
    with torch.no_grad(), hooked([nowhere]):
        _, cache = bridge(tokens, return_type="logits_and_cache", use_cache=True)
    return cache


def split(bridge: TransformerBridge, batch: PairBatch, share: bool) -> Suffix:
    """The suffix of a batch; with `share=False` the whole batch.

    Sharing is valid if replacement values differ from clean ones only after the prefix, as for interchange ablation.
    """
    start = batch.prefix if share else 0
    cache = prefix_cache(bridge, batch.clean[:, :start]) if start else None
    corrupted = None if batch.corrupted is None else batch.corrupted[:, start:]
    return Suffix(batch.clean[:, start:], corrupted, batch.position - start, start, batch, cache)
