"""The ablation by Gaussian noise on the embeddings of chosen tokens (Meng et al. 2022, 2202.05262)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from circuits.engine.capture import Writes
from circuits.engine.embedding import embedding_std
from circuits.engine.hooks import Hook, TokenBatch, inference_state
from circuits.engine.prefix import Suffix
from circuits.errors import InputError
from circuits.prompts.pair import bounds
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablation import Ablation, RunAblation

if TYPE_CHECKING:
    from circuits.model import Model


@dataclass(frozen=True, eq=False)
class Gaussian(Ablation):
    """A writer's value when Gaussian noise is added to the embeddings of some tokens of the clean prompt.

    Attributes:
        tokens: names of roles, each of a token or several; empty: the tokens in which clean and corrupted prompts differ.
        scale: standard deviation of the noise, in units of the standard deviation of the embeddings' entries over the
            whole vocabulary, as they enter the residual stream: after any factor that the model applies to its
            embedding matrix.
        seed: random seed; the noise of a pair does not depend on the batches.
    """

    tokens: tuple[str, ...] = ()
    scale: float = 3.0
    seed: int = 0
    name: ClassVar[str] = "gaussian"
    help: ClassVar[str] = "its value with noise on the embedding"

    @property
    def label(self) -> str:
        return f"gaussian(tokens={'+'.join(self.tokens) or 'differing'}, scale={self.scale:g}, seed={self.seed})"

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        for i, roles in enumerate(pairs.roles):
            for token in self.tokens:
                if token not in roles:
                    known = ", ".join(roles) or "none"
                    raise InputError(f"gaussian ablation: pair {i} has no role {token!r} (its roles: {known})")
        with inference_state(model.bridge):
            return _GaussianOn(self, pairs, self.scale * embedding_std(model.architecture))

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        raise NotImplementedError("prepare it first")


@dataclass(frozen=True, eq=False)
class _GaussianOn(RunAblation):
    """`Gaussian` for given pairs.

    Attributes:
        sigma: standard deviation of the noise.
    """

    gaussian: Gaussian
    pairs: "PromptPairs"
    sigma: float
    name: ClassVar[str] = "gaussian"

    @property
    def label(self) -> str:
        return self.gaussian.label

    @property
    def needs_difference(self) -> bool:
        return not self.gaussian.tokens

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        return self.gaussian.prepared(model, pairs, batch_size)

    def run(self, model: "Model", suffix: Suffix) -> tuple[TokenBatch, list[Hook]]:
        noise = torch.zeros(*suffix.clean.shape, int(model.bridge.cfg.d_model))
        for row, index in enumerate(suffix.batch.row_index.tolist()):
            pair = self.pairs.pair(index)
            hit = [i for token in self.gaussian.tokens for i in range(*bounds(pair.roles[token]))]
            hit = hit or pair.differing
            generator = torch.Generator().manual_seed((self.gaussian.seed * 1_000_003 + index) % 2**63)
            noise[row, hit] = self.sigma * torch.randn(len(hit), noise.shape[-1], generator=generator)
        noise = noise.to(model.device, model.dtype)
        return suffix.clean_tokens, [(model.architecture.blocks[0].resid_pre, lambda x: x + noise)]
