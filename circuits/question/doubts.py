"""Warnings about pairs of prompts, each given once as a `PairsWarning`.

They report that the model does not do the task, its answers cannot follow the prompts, the prompts of a pair are equal,
or prompts are padded. None of these is an error, since a circuit can be computed, but the numbers hide the problem.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING

from torch import Tensor

from circuits.errors import PairsWarning
from circuits.prompts.answer_tokens import continuation, spaced, spaced_distractor, written
from circuits.prompts.pair import Encoder, Pair, TokenIds
from circuits.question.answers import Answers

if TYPE_CHECKING:
    from circuits.prompts.pairs import PromptPairs

LOWEST_ACCURACY = 0.8
"""Below this accuracy, a warning says that the model does not do the task."""
FIRST = 100
"""An answer is expected among this many top-ranked tokens."""
PACKAGES = ("circuits", "tasks", "jaxtyping", "beartype")
"""Packages whose lines are not the user's code."""

_COLLECTED: ContextVar[dict[str, None] | None] = ContextVar("collected", default=None)


def doubt(messages: Iterable[str]) -> None:
    """Issues each message as a `PairsWarning` at the user's line, or adds it to the innermost `collected`."""
    collected = _COLLECTED.get()
    for message in messages:
        if collected is None:
            warnings.warn(f"about these pairs: {message}", PairsWarning, stacklevel=_level_outside(sys._getframe()))
        else:
            collected[message] = None


@contextmanager
def collected() -> Iterator[dict[str, None]]:
    """Collects warnings about pairs, each once and in order, instead of issuing them."""
    messages: dict[str, None] = {}
    token = _COLLECTED.set(messages)
    try:
        yield messages
    finally:
        _COLLECTED.reset(token)


def same_up_to_answer(pairs: Iterable[Pair]) -> list[int]:
    """Indices of the pairs whose prompts agree in every token up to the answer position."""
    return [i for i, pair in enumerate(pairs) if pair.corrupted and pair.prefix > pair.position]


def about_prompts(model: Encoder, pairs: "PromptPairs", ablation: str | None = "interchange") -> list[str]:
    """Warnings about the prompts that need no run of the model.

    Args:
        model: for its tokenizer's padding.
        pairs: prompt pairs.
        ablation: name of an ablation that takes values from the other prompt; None: it uses clean prompts only.
    """
    messages = [] if ablation is None else _same(same_up_to_answer(pairs), len(pairs), ablation)
    padding, token = padded(model, pairs)
    if padding:
        messages.append(
            f"{_which(padding, len(pairs))} a prompt has the padding token {token}: it counts as a token like any other and is "
            "attended to (give prompts without padding; pairs may have different lengths)"
        )
    return messages


def about_answers(model: Encoder, pairs: "PromptPairs", answers: Answers) -> list[str]:
    """Warnings about the answers, after the model has read the clean prompts.

    Args:
        model: for its name and tokenizer.
        pairs: prompt pairs.
        answers: how well the model answers them.
    """
    messages = [
        *_far_down(model, pairs, answers),
        *_without_its_space(model, pairs, answers),
        *_mixed_spaces(model, pairs),
    ]
    if answers.accuracy is not None and answers.accuracy < LOWEST_ACCURACY:
        messages.append(
            f"accuracy {answers.accuracy:.2f} is below {LOWEST_ACCURACY}: {model.name} hardly does this, so a circuit of it "
            "would explain little (use another model, or other words)"
        )
    return messages


def padded(model: Encoder, pairs: "PromptPairs") -> tuple[list[int], str]:
    """Indices of the pairs with padding, and the padding token as text.

    A token used only for padding is padding anywhere. If it also begins, ends or separates texts (GPT-2 pads with its
    one special token), it is padding if it fills an end of the prompt: at the beginning, except for the first token if
    all prompts begin with it; at the end, if it is repeated or the logits are read there. An end-of-text token counts
    as padding in the same way if it is repeated, and if the tokenizer pads with another token or has no padding token.
    """
    tokenizer = model.tokenizer
    pad, eos, *others = (getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "eos", "bos", "unk"))
    if pad is not None:
        alone = pad not in (eos, *others)
        numbers = _with_padding(
            pairs, lambda text, position: alone or _fills_an_end(text, int(pad), position), int(pad)
        )
        if numbers:
            return numbers, repr(str(tokenizer.pad_token))
    if eos is not None and eos != pad and not isinstance(eos, list):
        numbers = _with_padding(pairs, lambda text, _: _is_repeated_at_an_end(text, int(eos)), int(eos))
        if numbers:
            return numbers, repr(str(tokenizer.eos_token))
    return [], ""


def _with_padding(pairs: "PromptPairs", pads: Callable[[TokenIds, int], bool], token: int) -> list[int]:
    """Indices of the pairs in which `token` pads a prompt. `pads` gets a prompt's tokens (without the first if all
    prompts begin with `token`) and its answer position."""
    all_begin = all(prompt[0] == token for prompt in (*pairs.clean, *pairs.corrupted) if prompt)

    def has_padding(pair: Pair) -> bool:
        both = ((pair.clean, pair.position), (pair.corrupted, pair.corrupted_position))
        texts = [(prompt[1:] if all_begin else prompt, position - all_begin) for prompt, position in both if prompt]
        return any(token in text and pads(text, position) for text, position in texts)

    return [i for i, pair in enumerate(pairs) if has_padding(pair)]


def _is_repeated_at_an_end(text: TokenIds, token: int) -> bool:
    return text[:2] == (token,) * 2 or text[-2:] == (token,) * 2


def _fills_an_end(text: TokenIds, pad: int, position: int) -> bool:
    last = len(text)
    while last and text[last - 1] == pad:
        last -= 1
    return text[0] == pad or len(text) - last > 1 or last <= position < len(text)


def _same(same: Sequence[int], n: int, ablation: str) -> list[str]:
    if not same:
        return []
    if len(same) == n:
        subject = f"the clean and the corrupted prompt are the same in all {n} pairs" if n > 1 else "the only pair has the same clean and corrupted prompt"  # fmt: skip
        return [
            f"{subject}, up to the token whose logits are read: {ablation} ablation changes nothing, so every effect is 0 and "
            "there is no faithfulness (give corrupted prompts that differ before that token)"
        ]
    return [
        f"{_which(same, n)} the clean and the corrupted prompt are the same, up to the token whose logits are read: {ablation} "
        "ablation changes nothing there, and means are diluted (change these pairs, or leave them out)"
    ]


def _far_down(model: Encoder, pairs: "PromptPairs", answers: Answers) -> Iterator[str]:
    """Warns if answers are ranked far down: in most pairs, or because a space before them is missing."""
    far = (answers.ranks > FIRST).nonzero()[:, 0].tolist()
    if not far:
        return
    hints = [] if model.tokenizer is None else [_hint(model, pairs.pair(i)) for i in far]
    given = [hint for hint in hints if hint]
    if not given and len(far) <= len(pairs) / 2:
        return
    hint = Counter(given).most_common(1)[0][0] if given else "does it follow the prompt as it is written?"
    median = f"median rank {answers.ranks[far].quantile(0.5):,.0f} of {answers.d_vocab:,}"
    if len(far) == len(pairs):
        yield f"the answer is never among the first {FIRST} tokens ({median}); {hint}"
    else:
        yield f"{_which(far, len(pairs))} the answer is not among the first {FIRST} tokens ({median}); {hint}"


def _without_its_space(model: Encoder, pairs: "PromptPairs", answers: Answers) -> Iterator[str]:
    """Warns if the model's first choice is an answer plus its missing space, although the answer ranks high itself."""
    if model.tokenizer is None:
        return
    near = ((answers.ranks > 1) & (answers.ranks <= FIRST)).nonzero()[:, 0].tolist()
    meant = {
        i: word
        for i in near
        if (word := spaced(model, pair := pairs.pair(i))) and _is(model, pair, word, answers.first[i])
    }
    if meant:
        word = Counter(meant.values()).most_common(1)[0][0]
        yield f"{_which(list(meant), len(pairs))} the model's first choice is the answer with a space before it; did you mean {word!r}?"


def _mixed_spaces(model: Encoder, pairs: "PromptPairs") -> Iterator[str]:
    """Warns if distractors lack the space that their answers have."""
    if model.tokenizer is None:
        return
    meant = {i: word for i, pair in enumerate(pairs) if (word := spaced_distractor(model, pair))}
    if meant:
        word = Counter(meant.values()).most_common(1)[0][0]
        yield f"{_which(list(meant), len(pairs))} the answer begins with a space and a distractor does not; did you mean {word!r}?"


def _is(model: Encoder, pair: Pair, word: str, token: Tensor) -> bool:
    """Whether `word` after the prompt is this token."""
    text = written(model, pair.clean[: pair.position + 1])
    return text is not None and continuation(model, text, word) == [int(token)]


def _hint(model: Encoder, pair: Pair) -> str | None:
    text = written(model, pair.clean[: pair.position + 1])
    if text is not None and text[-1] == " ":
        return "the prompt ends with a space: leave it out there, and begin the answer with it"
    word = spaced(model, pair)
    return None if word is None else f"did you mean {word!r}?"


def _which(numbers: Sequence[int], n: int) -> str:
    """
    >>> _which([4, 7], 64)
    'in 2 of 64 pairs (the first is pair 4)'
    """
    one = f"pair {numbers[0]}" if len(numbers) == 1 else f"the first is pair {numbers[0]}"
    return f"in {len(numbers)} of {n} pairs ({one})"


def _level_outside(frame: FrameType) -> int:
    """The `stacklevel` in this frame of the first line outside the project and its type checks."""
    level = 1
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    return level


def _is_ours(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package in PACKAGES or frame.f_code.co_filename.startswith("<@beartype")
