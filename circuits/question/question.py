"""A question: this model, these pairs, this metric, this ablation — cut into batches that fit.

Every method and every evaluation asks the same kind of question; what they share (moving batches to the device, caching
the common prefix, computing the clean logits that a metric compares with, choosing a batch size) is here.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.engine.capture import Writes, capture_writes
from circuits.engine.hooks import Hook, inference_state, run
from circuits.engine.live_run import Key, LiveRun, live_run
from circuits.engine.prefix import Suffix, split
from circuits.engine.resume import BaseRun, base_run
from circuits.errors import InputError, PairsError
from circuits.model import Model
from circuits.model_calls import hooks_of, using
from circuits.progress import Progress
from circuits.prompts.pairs import PromptPairs
from circuits.question.ablations import Ablation, AblationLike, get_ablation
from circuits.question.answers import is_unseen, saw
from circuits.question.doubts import about_prompts, doubt
from circuits.question.metrics import Metric, MetricLike, Targets, get_metric, targets_of

BATCH_BYTES = {"cpu": 64 * 2**20}
ACCELERATOR_BATCH_BYTES = 256 * 2**20
LARGE_BATCH_BYTES = 192 * 2**20
"""For a batch that goes through the model many times, so that the fixed cost of a pass matters more."""
LARGEST_BATCH = 64


@dataclass(frozen=True, eq=False)
class Batch:
    """Some pairs of a question, on the model's device.

    Attributes:
        suffix: the prompts behind their common prefix.
        targets: what the metric needs besides logits.
    """

    suffix: Suffix
    targets: Targets

    def __len__(self) -> int:
        return len(self.suffix.clean)

    @property
    def index(self) -> Int[Tensor, " batch"]:
        """Numbers of the pairs, on the processor."""
        return self.suffix.batch.index.cpu()

    @property
    def n_tokens(self) -> int:
        """Tokens in one pass."""
        return self.suffix.clean.numel()


@dataclass(frozen=True, eq=False)
class Question:
    """What a method is asked: made by `Question.ask`, which validates.

    Attributes:
        model: a loaded model.
        pairs: the prompts to explain.
        metric: what is measured.
        ablation: what replaces an ablated value, ready for these pairs.
        batch_size: pairs at a time.
        asked_size: the batch size that the user asked for; None: left open.
        whole_prompts: never leave out what clean and corrupted prompts have in common in front, because the method counts
            those positions although nothing is ablated there.
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
            metric: name, `Metric` or function of (logits, targets); None: the one the task prefers.
            ablation: name or `Ablation`.
            batch_size: pairs at a time; None: as many as keep one copy of all writers' outputs, behind the common prefix,
                under 64 MiB (256 MiB on an accelerator), at most 64. Results do not depend on it.

        Raises:
            PairsError: no pairs, or pairs that do not fit the model or the metric.
            InputError: unknown metric or ablation, a batch size below one, or a model with hooks that it does not allow.

        Warns:
            PairsWarning: prompts that say little, see `circuits.question.doubts.about_prompts`.
        """
        if not isinstance(model, Model):
            raise InputError(
                f"expected a circuits.Model, got {type(model).__name__}; load it with circuits.load_model(…)"
            )
        with using(model):
            if bool(model.bridge.compatibility_mode) != model.compatibility_mode:
                raise InputError(
                    f"the compatibility mode of {model.name} was switched after loading; load_model(its bridge) again"
                )
            if len(pairs) == 0:
                raise PairsError("there are no pairs; give at least one")
            pairs.validate_for(model)
            chosen = _suitable_metric(pairs.metric if metric is None else metric, pairs)
            unprepared = get_ablation(ablation)
            if batch_size is None:
                size = _fitting_batch_size(model, pairs, _shares_prefix(model, unprepared))
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
        """The same question with some things changed; what was validated and prepared is used again.

        Args:
            metric: in place of its own; None: its own.
            ablation: in place of its own; None: its own, which is not prepared a second time.
            usual_size: pairs at a time, unless the user asked for another number; None: as many as fit.
            large_batches: let 192 MiB fit.
            whole_prompts: see the attributes.

        Raises:
            PairsError: the pairs do not fit the metric.
            InputError: unknown metric or ablation.
        """
        model, pairs = self.model, self.pairs
        with using(model):
            chosen = self.metric if metric is None else _suitable_metric(metric, pairs)
            other = self.ablation if ablation is None else get_ablation(ablation)
            size = self.asked_size or usual_size
            if size is None:
                shares_prefix = not whole_prompts and _shares_prefix(model, other)
                size = _fitting_batch_size(model, pairs, shares_prefix, large_batches)
            if other is not self.ablation:
                other = _prepared(other, model, pairs, size)
            return Question(model, pairs, chosen, other, size, self.asked_size, whole_prompts)

    def batches(
        self, share_prefix: bool | None = None, only: int | None = None, progress: Progress | None = None
    ) -> Iterator[Batch]:
        """The pairs in batches of equal length.

        Args:
            share_prefix: leave out what clean and corrupted prompts have in common in front; None: where the ablation
                and the model allow it.
            only: the batch of this number alone.
            progress: called with (pairs done, in all).
        """
        if share_prefix is None:
            share_prefix = self.shares_prefix
        done = 0
        for number, batch in enumerate(self.pairs.batches(self.batch_size)):
            if only is not None and number != only:
                continue
            suffix = split(self.model.bridge, batch.to(self.model.device), share_prefix)
            targets = targets_of(suffix.batch)
            if self.metric.needs_clean_logits:
                targets = targets_of(suffix.batch, self.clean_run(suffix)[0])
            yield Batch(suffix, targets)
            done += len(suffix.clean)
            if progress is not None:
                progress(done, len(self.pairs))

    @property
    def n_batches(self) -> int:
        """How many batches there are."""
        return sum(1 for _ in self.pairs.batches(self.batch_size))

    @property
    def shares_prefix(self) -> bool:
        """Whether positions in front of a pair's first difference are left out."""
        return not self.whole_prompts and _shares_prefix(self.model, self.ablation)

    def clean_run(self, suffix: Suffix) -> tuple[Float[Tensor, "batch d_vocab"], Writes]:
        """Logits and writers' outputs on the clean prompts."""
        logits, writes = capture_writes(self.model.architecture, suffix.clean_tokens)
        saw(suffix.batch, logits)
        return logits, writes

    def base_run(self, batch: Batch, hooks: Sequence[Hook] = ()) -> BaseRun:
        """The clean run under hooks that only record, from which passes can begin in the middle."""
        return base_run(self.model.architecture, batch.suffix.clean_tokens, hooks, self.model.report.resume_exact)

    def live_run(
        self,
        batch: Batch,
        keys: Collection[Key],
        hooks: Sequence[Hook] = (),
        embedding: Float[Tensor, "batch pos d_model"] | None = None,
    ) -> LiveRun:
        """The clean run, of which gradients can be asked; with an `embedding`, the run where that enters the first block."""

        def metric(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
            return self.clean_metric(batch, logits) if embedding is None else self.metric(logits, batch.targets)

        return live_run(self.model.architecture, batch.suffix.clean_tokens, metric, keys, hooks, embedding)

    def clean_metric(self, batch: Batch, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric of a batch's clean run; where the answers are watched, it is seen (`circuits.question.answers`)."""
        saw(batch.suffix.batch, logits)
        return self.metric(logits, batch.targets)

    def replacement(self, suffix: Suffix, clean: Writes) -> Writes:
        """What replaces ablated writers."""
        return self.ablation.replacement(self.model, suffix, clean)

    @cached_property
    def sum_dtype(self) -> torch.dtype:
        """The dtype in which scores of one prompt are summed: float32 or wider."""
        return torch.promote_types(self.model.dtype, torch.float32)


def look(question: Question) -> None:
    """Makes clean runs of pairs whose answers are watched and were not seen yet (`circuits.question.answers`)."""
    model = question.model
    with inference_state(model.bridge), torch.no_grad():
        for batch in question.pairs.batches(question.batch_size):
            if is_unseen(batch):
                suffix = split(model.bridge, batch.to(model.device), question.shares_prefix)
                saw(suffix.batch, run(model.architecture, suffix.clean_tokens))


def _shares_prefix(model: Model, ablation: Ablation) -> bool:
    """Not under hooks of the user, which may depend on positions."""
    hooked = any(point.fwd_hooks or point.bwd_hooks for point in model.bridge.hook_dict.values())
    return ablation.keeps_prefix and model.report.prefix_exact and not hooked and not hooks_of(model)


def _suitable_metric(metric: MetricLike, pairs: PromptPairs) -> Metric:
    """The metric, if it can be computed on these pairs."""
    chosen = get_metric(metric)
    if chosen.needs_distractors:
        for i, distractors in enumerate(pairs.distractors):
            if not distractors:
                raise PairsError(f"pair {i}: {chosen.name} needs distractors, but this pair has none")
    return chosen


def _prepared(ablation: Ablation, model: Model, pairs: PromptPairs, batch_size: int) -> Ablation:
    """The ablation, ready for these pairs; warns of prompts that say little under it."""
    prepared = ablation.prepared(model, pairs, batch_size)
    doubt(about_prompts(model, pairs, prepared.name if prepared.needs_difference else None))
    return prepared


def _fitting_batch_size(model: Model, pairs: PromptPairs, share_prefix: bool, large: bool = False) -> int:
    prefix = min(min(pair.prefix, pair.position) for pair in pairs) if share_prefix else 0
    longest = max(len(tokens) for tokens in pairs.clean) - prefix
    width = 4 if model.dtype.itemsize < 4 else model.dtype.itemsize
    place = model.graph.n_writers * int(model.bridge.cfg.d_model) * width
    return default_batch_size(place, longest, model.device.type, large)


def default_batch_size(place_bytes: int, n_positions: int, device: str, large: bool = False) -> int:
    """Pairs at a time, where all writers take `place_bytes` at one position of one prompt; see `Question.ask`."""
    budget = max(BATCH_BYTES.get(device, ACCELERATOR_BATCH_BYTES), LARGE_BATCH_BYTES * large)
    return max(1, min(LARGEST_BATCH, budget // (n_positions * place_bytes)))
