"""Ablations: the value that replaces each writer's output.

Constants (attention output biases, norm biases) belong to no writer, so every ablation leaves them unchanged.

| name | a writer's value becomes |
|---|---|
| `interchange` | its value on the corrupted prompt |
| `zero` | zero |
| `mean` | its mean over all positions of the clean prompts of a reference set |
| `mean_positional` | its mean over the reference prompts of the same length, position by position |
| `optimal` | a constant of its own, trained so that ablating random sets of nodes changes the model least (Li & Janson 2024, 2409.09951); see `circuits.question.optimal_constants` |
| `gaussian` | its value when noise is added to the embeddings of chosen tokens (Meng et al. 2022, 2202.05262); the noise's standard deviation is 3 times that of the embeddings as they enter the residual stream |
| `resample` | its value on another clean prompt of the same length, drawn once per pair |
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch

from circuits.engine.capture import Writes
from circuits.engine.hooks import Hook, TokenBatch
from circuits.engine.prefix import Suffix
from circuits.errors import InputError
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablation import ABLATIONS, Ablation, RunAblation, built_in
from circuits.question.mean_ablations import Mean, MeanPositional, OverReference
from circuits.question.noise_ablation import Gaussian
from circuits.question.optimal_ablation import Optimal

if TYPE_CHECKING:
    from circuits.model import Model

__all__ = [
    "ABLATIONS", "Ablation", "AblationLike", "Gaussian", "Interchange", "Mean", "MeanPositional", "Optimal", "OverReference", "Resample",
    "RunAblation",
    "Zero", "get_ablation",
]  # fmt: skip


class Interchange(RunAblation):
    """A writer's value on the corrupted prompt."""

    name = "interchange"
    help: ClassVar[str] = "its value on the corrupted prompt"
    keeps_prefix = True
    of_corrupted = True

    def run(self, model: "Model", suffix: Suffix) -> tuple[TokenBatch, list[Hook]]:
        return suffix.corrupted_tokens, []


class Zero(Ablation):
    """Zero, including the embedding."""

    name = "zero"

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        return clean.map(torch.zeros_like)


@dataclass(frozen=True, eq=False)
class Resample(RunAblation):
    """A writer's value on another pair's clean prompt of the same length.

    Attributes:
        seed: random seed.
    """

    seed: int = 0
    partners: "tuple[tuple[int, ...], ...]" = field(default=(), repr=False)
    name: ClassVar[str] = "resample"
    help: ClassVar[str] = "its value on another prompt"

    @property
    def label(self) -> str:
        return f"resample(seed={self.seed})"

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        generator = torch.Generator().manual_seed(self.seed)
        by_length: dict[int, list[int]] = {}
        for i, tokens in enumerate(pairs.clean):
            by_length.setdefault(len(tokens), []).append(i)
        partners: dict[int, int] = {}
        for length, members in by_length.items():
            if len(members) < 2:
                raise InputError(
                    f"pair {members[0]} is the only one of {length} tokens: there is no other to resample from"
                )
            order = [members[k] for k in torch.randperm(len(members), generator=generator).tolist()]
            partners |= dict(zip(order, [*order[1:], order[0]], strict=True))
        return replace(self, partners=tuple(pairs.clean[partners[i]] for i in range(len(pairs))))

    def run(self, model: "Model", suffix: Suffix) -> tuple[TokenBatch, list[Hook]]:
        tokens = torch.tensor([self.partners[i] for i in suffix.batch.row_index.tolist()], device=suffix.clean.device)
        tokens = torch.cat([tokens, suffix.batch.clean[:, tokens.shape[1] :]], dim=1)  # the same answers behind them
        return suffix.with_tokens(tokens[:, suffix.start :]), []


ABLATIONS.update(
    (ablation.name, ablation) for ablation in (Interchange, Zero, Mean, MeanPositional, Optimal, Gaussian, Resample)
)

AblationLike = str | Ablation
"""The name of an ablation, or an `Ablation`."""


def get_ablation(ablation: AblationLike) -> Ablation:
    """Returns an ablation given by name, or the given `Ablation`.

    Raises:
        InputError: an unknown name; the message suggests similar ones.
    """
    return ablation if isinstance(ablation, Ablation) else built_in(ablation)
