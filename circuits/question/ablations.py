"""Ablations: the value that replaces each writer's output.

Constants (attention output biases, norm biases) belong to no writer, so every ablation leaves them unchanged.

| name | a writer's value becomes |
|---|---|
| `interchange` | its value on the corrupted prompt |
| `zero` | zero |
| `mean` | its mean over all positions of the clean prompts of a reference set |
| `mean_positional` | its mean over the reference prompts of the same length, position by position |
| `gaussian` | its value when noise is added to the embeddings of chosen tokens (Meng et al. 2022, 2202.05262); the noise's standard deviation is 3 times that of the embeddings as they enter the residual stream |
| `resample` | its value on another clean prompt of the same length, drawn once per pair |
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Writes, capture_writes
from circuits.engine.embedding import embedding_std
from circuits.engine.hooks import Hook, TokenBatch, inference_state
from circuits.engine.patch import Patch, Values, record_values
from circuits.engine.prefix import Suffix
from circuits.errors import InputError, locating
from circuits.graph.nodes import Site
from circuits.prompts.pair import bounds
from circuits.prompts.pairs import PromptPairs

if TYPE_CHECKING:
    from circuits.model import Model


class _ByName(ABCMeta):
    """`Ablation("mean", …)` makes the built-in ablation of that name; subclasses are called as usual."""

    if not TYPE_CHECKING:  # which would lose the types of the subclasses' arguments

        def __call__(cls, *given: Any, **options: Any) -> Any:
            return _built_in(*given, **options) if cls is Ablation else super().__call__(*given, **options)


class Ablation(metaclass=_ByName):
    """One way to ablate: a built-in one by its name, with its options; or your own, as a subclass.

    | built in | options |
    |---|---|
    | `interchange`, `zero` | |
    | `mean`, `mean_positional` | `reference`: the pairs whose clean prompts make the mean; by default those of the question |
    | `gaussian` | `tokens`: names of roles; by default the tokens in which the prompts differ. `scale`: default 3. `seed`: default 0 |
    | `resample` | `seed`: default 0 |

    >>> Ablation("gaussian", scale=2.0)
    Gaussian(tokens=(), scale=2.0, seed=0)

    Raises:
        InputError: there is no ablation of that name, or it does not take the option.

    Attributes:
        name: the name in files and on the command line.
        help: the replacement value in a few words, for `--help`.
        keeps_prefix: whether replacements equal the clean values before the first token in which a pair differs, so
            that those positions need not be computed again.
    """

    name: ClassVar[str]
    help: ClassVar[str] = ""
    keeps_prefix: ClassVar[bool] = False

    if TYPE_CHECKING:

        def __init__(self, name: str = ..., **options: Any) -> None: ...

    @property
    def needs_difference(self) -> bool:
        """Whether the ablation needs corrupted prompts, and changes nothing if the two prompts of a pair are equal."""
        return self.keeps_prefix

    @property
    def label(self) -> str:
        """Name and options, for provenance."""
        return self.name

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What identifies the ablation besides its label."""
        return {}

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        """The ablation with its estimates over these pairs, such as means; called once per question."""
        return self

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        """The replacement values of all writers; every subclass has its own.

        Args:
            model: the model.
            suffix: the prompts.
            clean: every writer's output on the clean prompts.
        """
        raise NotImplementedError(f"{type(self).__name__} is an ablation without a method 'replacement'")


class RunAblation(Ablation):
    """An ablation that takes all values from one other run of the model.

    Attributes:
        of_corrupted: whether that run is of the corrupted prompts, so that values come from the tokens aligned with the clean
            ones (`circuits.prompts.aligned`).
    """

    of_corrupted: ClassVar[bool] = False

    @abstractmethod
    def run(self, model: "Model", suffix: Suffix) -> tuple[TokenBatch, list[Hook]]:
        """The prompts of that run, and its hooks."""

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        writes = capture_writes(model.architecture, *self.run(model, suffix))[1]
        return writes.map(suffix.on_clean) if self.of_corrupted else writes

    def values(
        self, model: "Model", suffix: Suffix, sites: Sequence[Site]
    ) -> tuple[Float[Tensor, "read d_vocab"], Values]:
        """The logits of that run, and its activations at the sites, at the clean tokens."""
        batch, hooks = self.run(model, suffix)
        logits, values = record_values(model.architecture, batch, sites, hooks)
        return logits, self.on_clean(suffix, values)

    def on_clean(self, suffix: Suffix, values: Values) -> Values:
        """That run's activations, at the clean tokens."""
        return {key: suffix.on_clean(value) for key, value in values.items()} if self.of_corrupted else values

    def on_own(self, suffix: Suffix, values: Values) -> Values:
        """The clean run's activations, at the tokens of that run."""
        return {key: suffix.on_corrupted(value) for key, value in values.items()} if self.of_corrupted else values

    def own_patches(self, suffix: Suffix, patches: Sequence[Patch]) -> list[Patch]:
        """Patches of the clean run, at the tokens of that run."""
        if not self.of_corrupted:
            return list(patches)
        return [
            patch if patch.tokens is None else replace(patch, tokens=suffix.on_corrupted(patch.tokens))
            for patch in patches
        ]


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
class OverReference(Ablation):
    """A mean over the clean prompts of a reference set.

    Attributes:
        reference: the reference set; None: the pairs of the question.
    """

    reference: "PromptPairs | None" = None

    @property
    def label(self) -> str:
        return self.name if self.reference is None else f"{self.name}(over {self.reference.source})"

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {} if self.reference is None else {"reference_sha256": self.reference.digest()}

    def _clean_writes(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> Iterator[Writes]:
        """The writers' outputs on the clean prompts of the reference set, or of these pairs."""
        if self.reference is not None:
            with locating(f"the reference of ablation {self.name}: "):
                self.reference.validate_for(model)
        with inference_state(model.bridge):
            for batch in (pairs if self.reference is None else self.reference).batches(batch_size, forced=False):
                batch = batch.to(model.device)
                yield capture_writes(model.architecture, TokenBatch(batch.clean, batch.position))[1]


@dataclass(frozen=True, eq=False)
class Mean(OverReference):
    """A writer's mean over the clean prompts of a reference set and their positions.

    Attributes:
        reference: the reference set; None: the pairs of the question.
    """

    means: Writes | None = field(default=None, repr=False)
    name: ClassVar[str] = "mean"
    help: ClassVar[str] = "its mean over prompts and positions"

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        total, n = None, 0
        for writes in self._clean_writes(model, pairs, batch_size):
            summed = writes.map(lambda x: x.to(_wide(x)).sum((0, 1), keepdim=True))
            total = summed if total is None else total.plus(summed)
            n += writes.embedding.shape[0] * writes.embedding.shape[1]
        assert total is not None
        return replace(self, means=total.map(lambda x: (x / n).to(model.dtype)))

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        assert self.means is not None
        return clean.combine(self.means, lambda value, mean: mean.expand_as(value))


@dataclass(frozen=True, eq=False)
class MeanPositional(OverReference):
    """A writer's mean at each position, over the clean reference prompts of the same length.

    Attributes:
        reference: the reference set; None: the pairs of the question.
    """

    means: dict[int, Writes] = field(default_factory=dict, repr=False)
    name: ClassVar[str] = "mean_positional"
    help: ClassVar[str] = "its mean at that position"

    def prepared(self, model: "Model", pairs: "PromptPairs", batch_size: int) -> "Ablation":
        if pairs.several_tokens:
            raise InputError(
                "mean_positional ablation has no mean at the positions of answers of several tokens, which stand behind the "
                "prompts; use the ablation 'mean', or first_token=True (--first-token)"
            )
        counts: dict[int, int] = {}
        totals: dict[int, Writes] = {}
        for writes in self._clean_writes(model, pairs, batch_size):
            length = writes.embedding.shape[1]
            summed = writes.map(lambda x: x.to(_wide(x)).sum(0, keepdim=True))
            totals[length] = totals[length].plus(summed) if length in totals else summed
            counts[length] = counts.get(length, 0) + writes.embedding.shape[0]
        for i, tokens in enumerate(pairs.clean):
            if counts.get(len(tokens), 0) < 2:
                raise InputError(
                    f"pair {i} has {len(tokens)} tokens, and the reference set {counts.get(len(tokens), 0)} prompts of that "
                    "length: a mean by position needs at least 2 (use more pairs, or ablation 'mean')"
                )
        means = {
            length: total.map(lambda x, n=counts[length]: (x / n).to(model.dtype)) for length, total in totals.items()
        }
        return replace(self, means=means)

    def replacement(self, model: "Model", suffix: Suffix, clean: Writes) -> Writes:
        means = self.means[suffix.start + suffix.clean.shape[1]]
        return clean.combine(means, lambda value, mean: mean[:, suffix.start :].expand_as(value))


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
    help: ClassVar[str] = "its value under noise on the embedding"

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


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


ABLATIONS: dict[str, type[Ablation]] = {
    ablation.name: ablation for ablation in (Interchange, Zero, Mean, MeanPositional, Gaussian, Resample)
}


AblationLike = str | Ablation
"""The name of an ablation, or an `Ablation`."""


def get_ablation(ablation: AblationLike) -> Ablation:
    """Returns an ablation given by name, or the given `Ablation`.

    Raises:
        InputError: an unknown name; the message suggests similar ones.
    """
    return ablation if isinstance(ablation, Ablation) else _built_in(ablation)


def _built_in(name: Any = "", **options: Any) -> Ablation:
    """See `Ablation`."""
    if not isinstance(name, str) or name not in ABLATIONS:
        near = get_close_matches(str(name), ABLATIONS, n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"there is no ablation {name!r}{hint} (one of {', '.join(ABLATIONS)})")
    kind = ABLATIONS[name]
    known = [option.name for option in fields(kind) if option.repr] if is_dataclass(kind) else []
    for option in options:
        if option not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no options"
            raise InputError(f"ablation {name} does not take {option!r}; it {takes}")
    reference = options.get("reference")
    if not isinstance(reference, PromptPairs | None):
        raise InputError(
            f"ablation {name}: reference must be PromptPairs, not {type(reference).__name__}; "
            "PromptPairs.from_file(path, model) reads them"
        )
    return kind(**options)
