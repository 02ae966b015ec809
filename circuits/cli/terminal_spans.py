"""Spans drawn under the tokens of a prompt, and the page of `circuits tasks show`."""

import inspect
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from circuits.cli.terminal import console, say
from circuits.errors import PairsError

if TYPE_CHECKING:
    from circuits.model import Model
    from circuits.prompts.pairs import PromptPairs


def span_lines(texts: Sequence[str], names: Sequence[str], width: int) -> list[str]:
    """The text of each span with its name under it, in blocks of two lines that fit the width; a single span may be wider.

    >>> print("\\n".join(span_lines(["When", " Mary", " and", " John"], ["start", "IO", "IO+", "S1"], 22)))
    When  │  Mary │  and
    start │ IO    │ IO+
    <BLANKLINE>
     John
    S1
    """
    cells = [max(len(text), len(name)) for text, name in zip(texts, names, strict=True)]
    blocks: list[list[int]] = []
    used = 0
    for i, cell in enumerate(cells):
        if not blocks or used + 3 + cell > width:
            blocks.append([])
            used = -3
        blocks[-1].append(i)
        used += 3 + cell
    lines: list[str] = []
    for block in blocks:
        lines += [""] if lines else []
        lines += [" │ ".join(row[i].ljust(cells[i]) for i in block).rstrip() for row in (texts, names)]
    return lines


def span_texts(pairs: "PromptPairs", i: int, model: "Model", task: Any = None) -> list[str]:
    """The text of every span of a clean prompt, without line breaks."""
    starts = [*pairs.span_starts(i), len(pairs.clean[i])]
    return [_text(pairs.clean[i][low:high], model, task) for low, high in pairwise(starts)]


def print_spans(pairs: "PromptPairs", i: int, model: "Model", task: Any = None) -> None:
    """Draws the spans of a pair, or says why there are none."""
    try:
        texts = span_texts(pairs, i, model, task)
    except PairsError as problem:
        say(f"no spans: {problem}")
        return
    for line in span_lines(texts, pairs.spans, console().width):
        say(line)


def print_tokens(pairs: "PromptPairs", i: int, model: "Model") -> None:
    """Draws the tokens of a pair's prompts with their indices, and the spans of the clean one if it has roles or spans."""
    for what, prompts in (("clean", pairs.clean), ("corrupted", pairs.corrupted)):
        ids = prompts[i]
        if ids:
            say(f"pair {i}, {what}: {len(ids)} tokens of {model.name}")
            texts = [_text([token], model, None) for token in ids]
            for line in span_lines(texts, [str(at) for at in range(len(ids))], console().width):
                say(line)
    if any((*pairs.roles, *pairs.partitions)):
        say(f"pair {i}, spans")
        print_spans(pairs, i, model)


def task_record(task: Any, pairs: "PromptPairs", model: "Model") -> dict[str, Any]:
    """`circuits tasks show --json`."""
    try:
        names = list(pairs.spans)
    except PairsError:  # a task of another package may have no schema
        names = None
    examples = [
        {
            "clean": task.text(pair.clean, model),
            "corrupted": task.text(pair.corrupted, model),
            "answers": [task.text([token], model) for token in pair.answers],
            "distractors": [task.text([token], model) for token in pair.distractors],
            "spans": names and dict(zip(names, span_texts(pairs, i, model, task), strict=True)),
            "span_starts": names and list(pairs.span_starts(i)),
        }
        for i, pair in enumerate(pairs)
    ]
    facts = {key: getattr(task, key) for key in ("name", "title", "description", "source", "metric", "model")}
    return {**facts, "options": _options(task), "spans": names, "examples": examples}


def print_task(task: Any, pairs: "PromptPairs", model: "Model") -> None:
    """A task: its description, its options, and some pairs with their spans."""
    say(f"{task.title} ({task.label})")
    say(task.description)
    options = ", ".join(f"{name}={value}" for name, value in _options(task).items())
    say(f"source: {task.source}; metric: {task.metric}; options: {options or 'none'}")
    say("")
    say(inspect.getdoc(type(task)) or "")
    for i, pair in enumerate(pairs):
        say("")
        say(f"pair {i}, {len(pair)} tokens of {model.name}")
        for what in ("clean", "corrupted"):
            say(f"{what:>11}: {_shown(task.text(getattr(pair, what), model))}")
        for what in ("answers", "distractors"):
            say(f"{what:>11}: {_some([task.text([token], model) for token in getattr(pair, what)])}")
        say("")
        print_spans(pairs, i, model, task)


def _options(task: Any) -> dict[str, Any]:
    return {field.name: getattr(task, field.name) for field in fields(task)}


def _some(texts: Sequence[str], most: int = 6) -> str:
    listed = ", ".join(_shown(text) for text in texts[:most])
    return f"{listed} and {len(texts) - most} more" if len(texts) > most else listed or "none"


def _text(ids: Sequence[int], model: "Model", task: Any) -> str:
    if task is not None:
        return _shown(task.text(ids, model))
    return " ".join(map(str, ids)) if model.tokenizer is None else _shown(model.tokenizer.decode(list(ids)))


def _shown(text: str) -> str:
    """One line: line breaks and other characters that are not printed are written as in Python."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
