"""Checks of prompt pairs with a model, before anything is attributed.

A circuit means nothing if the model does not show the behaviour, or if the prompts repeat each other. The checks measure how often
the model is right, how far clean and corrupted prompts are apart, and how the tokenizer splits the text.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.hooks import TokenBatch, inference_state, run
from circuits.model import Model
from circuits.model_calls import on_model
from circuits.plain_torch import plain_methods
from circuits.prompts.pair import Pair, TokenIds
from circuits.prompts.pairs import PromptPairs
from circuits.prompts.source import Source
from circuits.question.answers import saw, watched
from circuits.question.doubts import about_answers, about_prompts, padded, same_up_to_answer
from circuits.question.metrics import Metric, get_metric, targets_of
from circuits.shown import Shown


@dataclass(frozen=True)
class Mean:
    """A mean over pairs, and its standard error (None for a single pair)."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Values:
    """One number on the clean and on the corrupted prompts, both for the clean prompts' answers; corrupted: None if there are none."""

    clean: Mean
    corrupted: Mean | None


@dataclass(frozen=True)
class WordList:
    """A task's word list: the number of entries, and the entries left out because they are not single tokens of the model."""

    entries: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Merging:
    """Pairs in which an answer or distractor merges with the end of the prompt when both are encoded as one text."""

    pairs: int
    example: str | None


@plain_methods
@dataclass(frozen=True, repr=False)
class TaskCheck(Shown):
    """Results of `check_pairs`.

    Attributes:
        source, model: names of the pairs' source and of the model.
        pairs: number of pairs.
        metric: the pairs' preferred metric.
        accuracy: share of prompts on which the best answer is above every distractor; None if pairs lack distractors.
        values: that metric; None if it needs distractors and pairs lack them.
        logit_difference: the answers' mean logit minus the distractors'; None if pairs lack distractors.
        flips: share of pairs whose logit difference changes sign between the clean and the corrupted prompt (for pairs that
            prefer a probability difference: whose probability difference does); None if pairs lack distractors or corrupted
            prompts.
        lengths: tokens of a prompt -> number of pairs.
        prefixes: leading tokens shared by a pair's two prompts -> number of pairs.
        merging: answers that merge with the prompt; None without a tokenizer.
        equal_pairs, equal_clean: pairs that repeat both prompts, or the clean prompt, of an earlier pair.
        word_lists: the task's word lists, by name; empty for pairs from other sources.
        top_1_rate: share of clean prompts on which an answer has the highest logit.
        median_rank: median rank of the best answer on the clean prompts; 1 = the highest logit.
        same_prompts: pairs whose prompts are the same up to the token whose logits are read.
        padded: pairs with padding tokens.
        doubts: the warnings of `circuits.question.doubts` about these pairs.
    """

    source: str
    model: str
    pairs: int
    metric: str
    accuracy: Values | None
    values: Values | None
    logit_difference: Values | None
    flips: float | None
    lengths: Mapping[int, int]
    prefixes: Mapping[int, int]
    merging: Merging | None
    equal_pairs: int
    equal_clean: int
    word_lists: Mapping[str, WordList] = field(default_factory=dict)
    top_1_rate: float | None = None
    median_rank: float | None = None
    same_prompts: int = 0
    padded: int = 0
    doubts: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons against using these pairs, one sentence each."""
        warnings = list(self.doubts)
        if self.accuracy is None:
            warnings.insert(0, "pairs without distractors: there is no accuracy and no logit difference")
        if self.merging is not None and self.merging.pairs:
            warnings.append(
                f"in {self.merging.pairs} of {self.pairs} pairs an answer or distractor merges with the end of the prompt "
                f"(such as {self.merging.example}): the model hardly ever saw these tokens in this order"
            )
        if self.equal_pairs:
            warnings.append(f"{self.equal_pairs} of {self.pairs} pairs repeat an earlier pair, and so count twice")
        return tuple(warnings)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        data = {**asdict(self, dict_factory=_finite), "warnings": list(self.warnings)}
        del data["doubts"]  # included in the warnings
        return data


@on_model
def check_task(model: Model, task: Any, n: int = 100, seed: int = 0, *, one_length: bool = False) -> TaskCheck:
    """`check_pairs` of n pairs of a task, with the entries of its word lists that the model's tokenizer excludes.

    Args:
        model: a loaded model.
        task: a `tasks.Task`.
        n, seed, one_length: see `Task.pairs`.

    Raises:
        InputError: the task cannot make n pairs for this model.
    """
    pairs = Source(task)(model, n, seed, one_length)
    usable = task.usable_words(model)
    lists = {name: _word_list(entries, usable[name]) for name, entries in task.word_lists.items()}
    return check_pairs(model, pairs, word_lists=lists)


@on_model
def check_pairs(
    model: Model,
    pairs: PromptPairs,
    *,
    word_lists: Mapping[str, WordList] | None = None,
    batch_size: int = 32,
) -> TaskCheck:
    """Measures how well a model does the task of the pairs, and lists irregularities of the pairs.

    Args:
        model: a loaded model.
        pairs: the prompts to check.
        word_lists: for the report, see `TaskCheck`.
        batch_size: pairs at a time; results do not depend on it.

    Raises:
        InputError: the pairs do not fit the model, or prefer an unknown metric.
    """
    pairs.validate_for(model)
    has_distractors = all(pairs.distractors)
    preferred = get_metric(pairs.metric)
    asked = [get_metric("accuracy"), get_metric("logit_difference"), preferred]
    metrics = list(dict.fromkeys(metric for metric in asked if has_distractors or not metric.needs_distractors))
    with watched(len(pairs), model.d_vocab) as answers:
        measured = _measure(model, pairs, metrics, batch_size)
    values = {
        name: Values(_mean(rows[0]), _mean(rows[1]) if pairs.has_corrupted else None) for name, rows in measured.items()
    }
    signs = preferred.name if preferred.name == "probability_difference" else "logit_difference"
    both = has_distractors and pairs.has_corrupted
    flips = float((measured[signs].prod(0) < 0).double().mean()) if both else None
    texts = list(zip(pairs.clean, pairs.corrupted, strict=True))
    return TaskCheck(
        source=pairs.source,
        model=model.name,
        pairs=len(pairs),
        metric=preferred.name,
        accuracy=values.get("accuracy"),
        values=values.get(preferred.name),
        logit_difference=values.get("logit_difference"),
        flips=flips,
        lengths=_counts(len(pair) for pair in pairs),
        prefixes=_counts(pair.prefix for pair in pairs),
        merging=None if model.tokenizer is None else _merging(model, pairs),
        equal_pairs=len(texts) - len(set(texts)),
        equal_clean=len(texts) - len(set(pairs.clean)),
        word_lists=word_lists or {},
        top_1_rate=answers.top_1_rate,
        median_rank=answers.median_rank,
        same_prompts=len(same_up_to_answer(pairs)),
        padded=len(padded(model, pairs)[0]),
        doubts=tuple([*about_answers(model, pairs, answers), *about_prompts(model, pairs)]),
    )


def _measure(
    model: Model, pairs: PromptPairs, metrics: Sequence[Metric], batch_size: int
) -> dict[str, Float[Tensor, "run prompt"]]:
    """Each metric on the clean (row 0) and, if there are any, on the corrupted prompts (row 1)."""
    rows = 1 + pairs.has_corrupted
    values = {metric.name: torch.empty(rows, len(pairs), dtype=torch.float64) for metric in metrics}
    with inference_state(model.bridge), torch.no_grad():
        for batch in pairs.batches(batch_size):
            here = batch.to(model.device)
            both = ((here.clean, here.position), (here.corrupted, here.corrupted_position))
            ran = [
                run(model.architecture, TokenBatch(tokens, position)) for tokens, position in both if tokens is not None
            ]
            saw(here, ran[0])
            targets = targets_of(here, ran[0])
            for metric in metrics:
                for row, logits in enumerate(ran):
                    values[metric.name][row, batch.index] = metric(logits, targets).to("cpu", torch.float64)
    return values


def _mean(values: Float[Tensor, " prompt"]) -> Mean:
    n = len(values)
    return Mean(float(values.mean()), float(values.std()) / n**0.5 if n > 1 else None)


def _finite(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Replaces NaN and infinities by None: JSON has neither."""
    return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in items}


def _counts(values: Iterable[int]) -> dict[int, int]:
    return dict(sorted(Counter(values).items()))


def _word_list(entries: Sequence[str | tuple[str, ...]], usable: Sequence[tuple[str, ...]]) -> WordList:
    rows = [(entry,) if isinstance(entry, str) else tuple(entry) for entry in entries]
    kept = set(usable)
    return WordList(len(rows), tuple(" ".join(row) for row in rows if row not in kept))


def _merging(model: Model, pairs: PromptPairs) -> Merging:
    """Pairs whose prompt survives decoding and encoding alone, but not with an answer or distractor after it."""
    merged = [token for pair in pairs for token in [_merged_token(model, pair)] if token is not None]
    return Merging(len(merged), repr(model.tokenizer.decode([merged[0]])) if merged else None)


def _merged_token(model: Model, pair: Pair) -> int | None:
    prompt = pair.clean[: pair.position + 1]
    if not _survives(model, prompt):
        return None
    return next((token for token in pair.answers + pair.distractors if not _survives(model, (*prompt, token))), None)


def _survives(model: Model, tokens: TokenIds) -> bool:
    """Whether the tokens, decoded and encoded again, are the same."""
    start = 1 if tokens[0] == model.tokenizer.bos_token_id else 0
    text = model.tokenizer.decode(list(tokens[start:]), clean_up_tokenization_spaces=False)
    return tuple(model.encode(text)) == tokens
