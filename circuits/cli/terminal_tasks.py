"""Tables of `circuits tasks check`: how well the model does the task, the prompts, and the words left out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from circuits.cli.terminal import console, say_all, table

if TYPE_CHECKING:
    from circuits.evaluation.task import Mean, TaskCheck, Values

SHOWN = 6
"""How many words of a list, or counts, are written out."""


def print_check(check: "TaskCheck") -> None:
    """Tables of a check, and its warnings."""
    console().print(_measured(check), _prompts(check))
    if check.word_lists:
        console().print(_words(check))
    say_all("warning", check.warnings)


def _measured(check: "TaskCheck") -> Any:
    measured = {"accuracy": check.accuracy, "logit difference": check.logit_difference}
    if check.metric not in ("accuracy", "logit_difference"):
        measured[check.metric.replace("_", " ")] = check.values
    ranks = {"top-1 rate of the answer": check.top_1_rate, "median rank of the answer": check.median_rank}
    rows = [(name, *_cells(values)) for name, values in measured.items()]
    rows += [(name, "–" if value is None else f"{value:.4g}", "") for name, value in ranks.items()]
    title = f"{check.source} in {check.model}, {check.pairs} pair{'s' * (check.pairs != 1)}"
    return table(title, {"mean ± std. error": False, "clean": True, "corrupted": True}, rows)


def _cells(values: "Values | None") -> tuple[str, str]:
    return ("–", "–") if values is None else (_mean(values.clean), _mean(values.corrupted))


def _mean(mean: "Mean | None") -> str:
    if mean is None:
        return "–"
    return f"{mean.value:.2f}" if mean.stderr is None else f"{mean.value:.2f} ± {mean.stderr:.2f}"


def _prompts(check: "TaskCheck") -> Any:
    rows = [
        ("sign flips with the corruption", "–" if check.flips is None else f"{check.flips:.2f} of the pairs"),
        ("tokens", _distribution(check.lengths)),
        ("leading tokens that a pair shares", _distribution(check.prefixes)),
        ("answers that merge with the prompt", "–" if check.merging is None else f"{check.merging.pairs} pairs"),
        ("the same clean and corrupted prompt", f"{check.same_prompts} pairs"),
        ("with padding tokens", f"{check.padded} pairs"),
        ("duplicates", f"{check.equal_pairs} pairs, {check.equal_clean} clean prompts"),
    ]
    return table("prompts", {"": False, " ": False}, rows, show_header=False)


def _distribution(counts: Mapping[int, int]) -> str:
    """
    >>> _distribution({14: 1, 16: 9})
    '14 (1 pair), 16 (9 pairs)'
    """
    if len(counts) <= SHOWN:
        return ", ".join(f"{value} ({n} pair{'s' * (n != 1)})" for value, n in counts.items())
    mean = sum(value * n for value, n in counts.items()) / sum(counts.values())
    return f"{min(counts)} to {max(counts)}, mean {mean:.1f}"


def _words(check: "TaskCheck") -> Any:
    rows = []
    for name, words in check.word_lists.items():
        out = words.left_out
        named = ", ".join(out[:SHOWN]) + (f" and {len(out) - SHOWN} more" if len(out) > SHOWN else "")
        rows.append((name, str(words.entries - len(out)), str(words.entries), named or "–"))
    return table("words", {"list": False, "used": True, "of": True, "left out: not single tokens": False}, rows)
