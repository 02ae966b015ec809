"""A question: model, pairs, metric and ablation, cut into batches that fit into memory.

Methods and evaluations share this code: it moves batches to the device, caches the common prefix, computes the clean
logits that a metric needs, and chooses a batch size.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.engine.capture import Writes, capture_writes, only_writes
from circuits.engine.foreign_hooks import on_points
from circuits.engine.hooks import Hook, inference_state, run
from circuits.engine.live_run import Key, LiveRun, live_run
from circuits.engine.prefix import WITHOUT_CORRUPTED, Suffix, split
from circuits.engine.recompute import recomputed
from circuits.engine.resume import BaseRun, base_run
from circuits.engine.unembedding import logits_of
from circuits.errors import InputError, PairsError
from circuits.model import Model
from circuits.model_calls import hooks_of, using
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.sequences import WAYS_OUT
from circuits.question.ablations import Ablation, AblationLike, get_ablation
from circuits.question.answers import is_unseen, saw
from circuits.question.batch_memory import largest_batch, recomputes
from circuits.question.doubts import about_prompts, doubt
from circuits.question.metric_values import check_columns
from circuits.question.metrics import METRICS, Metric, MetricLike, Targets, get_metric, targets_of


@dataclass(frozen=True, eq=False)
class Batch:
    """Some pairs of a question, on the model's device.

    Values per prompt have one entry per pair, tensors of a run one per row: a pair has one row, or several if an answer has several
    tokens (`circuits.prompts.sequences`).

    Attributes:
        suffix: the prompts without their common prefix.
        targets: the metric's inputs besides the logits.
        tokens: the tokens whose logits the metric reads; None: all of the vocabulary.
    """

    suffix: Suffix
    targets: Targets
    tokens: Int[Tensor, " d_out"] | None = None

    def __len__(self) -> int:
        return len(self.suffix.batch)

    @cached_property
    def targets_read(self) -> Targets:
        """The targets for logits of `tokens`."""
        return self.targets if self.tokens is None else self.targets.among(self.tokens)

    @property
    def n_rows(self) -> int:
        """Rows of tokens per pass."""
        return len(self.suffix.clean)

    def per_pair(self, values: Tensor, dim: int = 0) -> Tensor:
        """Sums over the rows of each pair; `dim`: the axis of rows."""
        forced = self.suffix.batch.forced
        if forced is None:
            return values
        shape = [len(self) if axis == dim % values.ndim else size for axis, size in enumerate(values.shape)]
        return values.new_zeros(shape).index_add_(dim, forced.pair.to(values.device), values)

    def any_row(self, values: Bool[Tensor, " row"]) -> Bool[Tensor, " pair"]:
        """Whether it holds for any row of each pair."""
        return values if self.suffix.batch.forced is None else self.per_pair(values.long()) > 0

    @cached_property
    def index(self) -> Int[Tensor, " pair"]:
        """Indices of the pairs, on the CPU."""
        return self.suffix.batch.index.cpu()

    @cached_property
    def pair_of_row(self) -> list[int]:
        """The pair of each row, by its index."""
        return self.suffix.batch.row_index.tolist()

    @property
    def n_tokens(self) -> int:
        """Tokens per pass."""
        return self.suffix.clean.numel()


@dataclass(frozen=True, eq=False)
class Question:
    """The input of every method; made and validated by `Question.ask`.

    Attributes:
        model: a loaded model.
        pairs: the prompts to explain.
        metric: the metric.
        ablation: the ablation, prepared for these pairs.
        batch_size: pairs per batch.
        asked_size: the batch size that the user gave; None: chosen automatically.
        whole_prompts: compute the common prefix of clean and corrupted prompts too, because the method counts those
            positions although nothing is ablated there.
    """

    model: Model
    pairs: PromptPairs
    metric: Metric
    ablation: Ablation
    batch_size: int
    asked_size: int | None = None
    whole_prompts: bool = False

    @classmethod
    def ask(
        cls,
        model: Model,
        pairs: PromptPairs,
        metric: MetricLike | None = None,
        ablation: AblationLike = "interchange",
        batch_size: int | None = None,
    ) -> "Question":
        """Validates and completes a question.

        Args:
            model: a loaded model.
            pairs: the prompts to explain.
            metric: name, `Metric` or function of (logits, targets); None: the task's default.
            ablation: name or `Ablation`.
            batch_size: pairs per batch; None: at most 64, and as many as keep one copy of all writers' outputs, without
                the common prefix, under 64 MiB (256 MiB on an accelerator), within the model's budget of memory. Results do not depend on it.

        Raises:
            PairsError: no pairs, or pairs that do not fit the model or the metric.
            InputError: unknown metric or ablation, a batch size below one, or a model with hooks that are not allowed.

        Warns:
            PairsWarning: prompts that explain little; see `circuits.question.doubts.about_prompts`.
        """
        if not isinstance(model, Model):
            raise InputError(
                f"expected a circuits.Model, got {type(model).__name__}; load it with circuits.load_model(…)"
            )
        with using(model):
            if bool(model.bridge.compatibility_mode) != model.compatibility_mode:
                raise InputError(
                    f"the compatibility mode of {model.name} was changed after loading; load its bridge again with load_model"
                )
            if len(pairs) == 0:
                raise PairsError("there are no pairs; give at least one")
            pairs.validate_for(model)
            chosen = _suitable_metric(pairs.metric if metric is None else metric, pairs, model)
            unprepared = get_ablation(ablation)
            if batch_size is None:
                size = largest_batch(model, pairs, _shares_prefix(model, unprepared))
            elif batch_size < 1:
                raise InputError(f"batch_size must be at least 1, got {batch_size}")
            else:
                size = batch_size
            return cls(model, pairs, chosen, _prepared(unprepared, model, pairs, size), size, batch_size)

    def again(
        self,
        *,
        metric: MetricLike | None = None,
        ablation: AblationLike | None = None,
        usual_size: int | None = None,
        large_batches: bool = False,
        whole_prompts: bool = False,
    ) -> "Question":
        """The question with some parts changed; the validated and prepared parts are reused.

        Args:
            metric: the new metric; None: unchanged.
            ablation: the new ablation; None: unchanged, and not prepared again.
            usual_size: pairs per batch, unless the user gave a number; None: as many as fit.
            large_batches: allow 192 MiB per batch.
            whole_prompts: see `Question`.

        Raises:
            PairsError: the pairs do not fit the metric.
            InputError: unknown metric or ablation.
        """
        model, pairs = self.model, self.pairs
        with using(model):
            chosen = self.metric if metric is None else _suitable_metric(metric, pairs, model)
            other = self.ablation if ablation is None else get_ablation(ablation)
            size = self.asked_size or usual_size
            if size is None:
                shares_prefix = not whole_prompts and _shares_prefix(model, other)
                size = largest_batch(model, pairs, shares_prefix, large_batches)
            if other is not self.ablation:
                other = _prepared(other, model, pairs, size)
            return Question(model, pairs, chosen, other, size, self.asked_size, whole_prompts)

    def batches(
        self,
        share_prefix: bool | None = None,
        only: int | None = None,
        progress: Progress | None = None,
        forced: bool = True,
    ) -> Iterator[Batch]:
        """The pairs in batches of equal length.

        Args:
            share_prefix: skip the common prefix of clean and corrupted prompts; None: if the ablation and the model
                allow it.
            only: yield only the batch with this index.
            progress: called with (pairs done, total).
            forced: append answers of several tokens to the prompts; False: for methods that read the prompts alone.
        """
        if share_prefix is None:
            share_prefix = self.shares_prefix
        done = 0
        for number, batch in enumerate(self.pairs.batches(self.batch_size, forced)):
            if only is not None and number != only:
                continue
            suffix = split(self.model.bridge, batch.to(self.model.device), share_prefix)
            targets = targets_of(suffix.batch)
            if self.metric.needs_clean_logits:
                targets = targets_of(suffix.batch, self.clean_run(suffix)[0])
            yield Batch(suffix, targets, self.tokens_read(targets))
            done += len(batch)
            if progress is not None:
                progress(done, len(self.pairs))

    def tokens_read(self, targets: Targets) -> Int[Tensor, " d_out"] | None:
        """The tokens whose logits need be computed, where nothing but the metric reads logits; None: all of the vocabulary.

        All, if the metric reads them, if the model computes its logits in an unknown way, or under the user's hooks.
        """
        exact = self.model.report.columns_exact and not _hooked(self.model)
        return self.metric.tokens_read(targets) if exact else None

    @property
    def n_batches(self) -> int:
        """How many batches there are."""
        return sum(1 for _ in self.pairs.batches(self.batch_size))

    @property
    def shares_prefix(self) -> bool:
        """Whether the positions before a pair's first difference are skipped."""
        return not self.whole_prompts and _shares_prefix(self.model, self.ablation)

    def clean_run(self, suffix: Suffix) -> tuple[Float[Tensor, "read d_vocab"], Writes]:
        """Logits and writers' outputs on the clean prompts."""
        logits, writes = capture_writes(self.model.architecture, suffix.clean_tokens)
        saw(suffix.batch, logits)
        return logits, writes

    def clean_writes(self, batch: Batch) -> Writes:
        """Writers' outputs on the clean prompts; also records the answers."""
        if batch.tokens is None:
            return self.clean_run(batch.suffix)[1]
        return only_writes(self.model.architecture, batch.suffix.clean_tokens, self.seeing(batch))

    def base_run(self, batch: Batch, hooks: Sequence[Hook] = ()) -> BaseRun:
        """The clean run under hooks that only record, with the logits of `batch.tokens`; later passes can begin in the middle
        of it."""
        clean, exact = batch.suffix.clean_tokens, self.model.report.resume_exact
        return base_run(self.model.architecture, clean, [*hooks, *self.seeing(batch)], exact, batch.tokens)

    def live_run(
        self,
        batch: Batch,
        keys: Collection[Key],
        hooks: Sequence[Hook] = (),
        embedding: Float[Tensor, "batch pos d_model"] | None = None,
        before: Sequence[Hook] = (),
    ) -> LiveRun:
        """The clean run with its autograd graph; with an `embedding`, the run in which it enters the first block; with hooks `before`,
        the run that these change (`engine.live_run`)."""
        architecture, clean, metric = self.model.architecture, batch.suffix.clean_tokens, self.metric_of
        if embedding is None and not before:
            hooks, metric = [*hooks, *self.seeing(batch)], self.clean_metric
        of_batch = partial(metric, batch)
        with self.within_memory(batch, not before and not self.model.n_inserted):
            return live_run(architecture, clean, of_batch, keys, hooks, embedding, before, batch.tokens)

    def within_memory(self, batch: Batch, possible: bool = True) -> AbstractContextManager[None]:
        """Within, passes with gradients compute blocks again where the model's budget needs it (`engine.recompute`).

        Args:
            batch: the batch of these passes.
            possible: whether the hooks of these passes only look.
        """
        clean = batch.suffix.clean
        wanted = possible and recomputes(self.model, len(clean), clean.shape[1], batch.suffix.start)
        return recomputed(self.model.architecture, wanted)

    def metric_of(self, batch: Batch, logits: Float[Tensor, "read d_out"]) -> Float[Tensor, " pair"]:
        """The metric of a batch, from the logits of `batch.tokens`."""
        return self.metric(logits, batch.targets_read)

    def clean_metric(self, batch: Batch, logits: Float[Tensor, "read d_out"]) -> Float[Tensor, " pair"]:
        """The same of a clean run under the hooks `seeing`; also records the answers (`circuits.question.answers`)."""
        if batch.tokens is None:
            saw(batch.suffix.batch, logits)
        return self.metric_of(batch, logits)

    def seeing(self, batch: Batch) -> list[Hook]:
        """Hooks that record the answers in a clean run with the logits of `batch.tokens`, if these are not all and answers are
        looked for."""
        if batch.tokens is None or not is_unseen(batch.suffix.batch):
            return []
        architecture, clean = self.model.architecture, batch.suffix.clean_tokens

        def see(normed: Float[Tensor, "row pos d_model"]) -> None:
            with torch.no_grad():
                logits = logits_of(architecture, clean.read_from(normed))
                saw(batch.suffix.batch, logits.to(clean.tokens.device))

        return [(architecture.unembed, see)]

    def replacement(self, suffix: Suffix, clean: Writes) -> Writes:
        """The replacement values of all writers."""
        return self.ablation.replacement(self.model, suffix, clean)

    @cached_property
    def sum_dtype(self) -> torch.dtype:
        """The dtype for sums of scores within one prompt: float32 or wider."""
        return torch.promote_types(self.model.dtype, torch.float32)


def look(question: Question) -> None:
    """Makes the clean runs that an open `watched` still lacks (`circuits.question.answers`)."""
    model = question.model
    with inference_state(model.bridge), torch.no_grad():
        for batch in question.pairs.batches(question.batch_size):
            if is_unseen(batch):
                suffix = split(model.bridge, batch.to(model.device), question.shares_prefix)
                saw(suffix.batch, run(model.architecture, suffix.clean_tokens))


def _shares_prefix(model: Model, ablation: Ablation) -> bool:
    """Whether to skip the prefix; False under the user's hooks, which may depend on positions."""
    return ablation.keeps_prefix and model.report.prefix_exact and not _hooked(model)


def _hooked(model: Model) -> bool:
    """Whether the model has hooks of the user's."""
    return bool(hooks_of(model)) or on_points(model.bridge)


def _suitable_metric(metric: MetricLike, pairs: PromptPairs, model: Model) -> Metric:
    """The metric, after a check that the pairs have what it needs, and that it reads the logits that it declares."""
    chosen = get_metric(metric)
    if chosen.needs_distractors:
        for i, distractors in enumerate(pairs.distractors):
            if not distractors:
                raise PairsError(
                    f"pair {i}: {chosen.name} needs distractors, but this pair has none; give some, or take a metric of the "
                    "answers alone, such as log_probability"
                )
    if not chosen.sequences:
        for i, pair in enumerate(pairs):
            if pair.forced:
                raise PairsError(f"pair {i}: an answer has several tokens, and {chosen.name} takes one; {WAYS_OUT}")
    if chosen.answers_only and METRICS.get(chosen.name) is not chosen:
        targets = targets_of(next(pairs.batches(2)).to(model.device))
        tokens = chosen.tokens_read(targets)
        if tokens is not None:
            check_columns(chosen.name, chosen.function, targets, tokens, model.d_vocab)
    return chosen


def _prepared(ablation: Ablation, model: Model, pairs: PromptPairs, batch_size: int) -> Ablation:
    """Prepares the ablation for these pairs; warns of prompts that explain little under it."""
    prepared = ablation.prepared(model, pairs, batch_size)
    if prepared.needs_difference and not pairs.has_corrupted:
        raise PairsError(
            f"{prepared.label} ablation needs corrupted prompts, and these pairs have none; {WITHOUT_CORRUPTED}"
        )
    doubt(about_prompts(model, pairs, prepared.name if prepared.needs_difference else None))
    return prepared
