"""What `circuits tasks check` shows: how well the model does it, the prompts, and the words left out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from circuits.cli.terminal import console, table

if TYPE_CHECKING:
    from circuits.evaluation.task import Mean, TaskCheck, Values

SHOWN = 6
"""Words of a list, or counts, that are written out."""


def print_check(found: "TaskCheck") -> None:
    """Tables of a check, and its warnings."""
    screen = console()
    screen.print(_measured(found), _prompts(found))
    if found.word_lists:
        screen.print(_words(found))
    for warning in found.warnings:
        screen.print(f"warning: {warning}", style="yellow", soft_wrap=True)


def _measured(found: "TaskCheck") -> Any:
    shown = table(
        f"{found.source} in {found.model}, {found.pairs} pair{'s' * (found.pairs != 1)}",
        {"mean ± std. error": False, "clean": True, "corrupted": True},
    )
    rows = {"accuracy": found.accuracy, "logit difference": found.logit_difference}
    if found.metric not in ("accuracy", "logit_difference"):
        rows[found.metric.replace("_", " ")] = found.values
    for name, values in rows.items():
        shown.add_row(name, *_cells(values))
    for name, value in (
        ("top-1 rate of the answer", found.top_1_rate),
        ("median rank of the answer", found.median_rank),
    ):
        shown.add_row(name, "–" if value is None else f"{value:.4g}", "")
    return shown


def _cells(values: "Values | None") -> tuple[str, str]:
    return ("–", "–") if values is None else (_mean(values.clean), _mean(values.corrupted))


def _mean(mean: "Mean") -> str:
    return f"{mean.value:.2f}" if mean.stderr is None else f"{mean.value:.2f} ± {mean.stderr:.2f}"


def _prompts(found: "TaskCheck") -> Any:
    shown = table("prompts", {"": False, " ": False}, show_header=False)
    merging = found.merging
    shown.add_row("sign flips with the corruption", "–" if found.flips is None else f"{found.flips:.2f} of the pairs")
    shown.add_row("tokens", _distribution(found.lengths))
    shown.add_row("leading tokens that a pair shares", _distribution(found.prefixes))
    shown.add_row("answers that merge with the prompt", "–" if merging is None else f"{merging.pairs} pairs")
    shown.add_row("the same clean and corrupted prompt", f"{found.same_prompts} pairs")
    shown.add_row("with padding tokens", f"{found.padded} pairs")
    shown.add_row("duplicates", f"{found.equal_pairs} pairs, {found.equal_clean} clean prompts")
    return shown


def _distribution(counts: Mapping[int, int]) -> str:
    """
    >>> _distribution({14: 1, 16: 9})
    '14 (1 pair), 16 (9 pairs)'
    """
    if len(counts) <= SHOWN:
        return ", ".join(f"{value} ({n} pair{'s' * (n != 1)})" for value, n in counts.items())
    mean = sum(value * n for value, n in counts.items()) / sum(counts.values())
    return f"{min(counts)} to {max(counts)}, mean {mean:.1f}"


def _words(found: "TaskCheck") -> Any:
    shown = table("words", {"list": False, "used": True, "of": True, "left out: not single tokens": False})
    for name, words in found.word_lists.items():
        out = words.left_out
        told = ", ".join(out[:SHOWN]) + (f" and {len(out) - SHOWN} more" if len(out) > SHOWN else "")
        shown.add_row(name, str(words.entries - len(out)), str(words.entries), told or "–")
    return shown
