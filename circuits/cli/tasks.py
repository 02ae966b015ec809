"""`circuits tasks`: what there is to explain."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.cli.common import DEFAULT_MODEL, load
from circuits.errors import InputError
from circuits.terminal import console

if TYPE_CHECKING:
    from circuits.model import Model


def tasks(
    model: Annotated[str, typer.Option(help="Whose tokenizer makes the example pairs of text.")] = DEFAULT_MODEL,
) -> None:
    """List the tasks, with an example pair each."""
    from rich.table import Table

    from circuits.plugins import find_task, task_names

    try:
        loaded = load(model, None, "auto", None)
    except InputError as problem:
        print(f"circuits: no examples, since the model is not there: {problem}", file=sys.stderr)
        loaded = None
    table = Table(title="tasks", show_lines=True)
    for heading in ("task", "what it asks", "clean / corrupted", "answer / distractor"):
        table.add_column(heading, overflow="fold")
    for name in task_names():
        task = find_task(name)
        own = getattr(task, "model", None)
        asked = loaded if own is None else load(own, None, "auto", None)
        table.add_row(name, task.title, *(_example(task, asked) if asked else ("", "")))
    console().print(table)


def _example(task: Any, model: "Model") -> tuple[str, str]:
    """The two prompts of a task's first pair, and their answers and distractors, as people read them; or why there is none."""
    try:
        pair = next(iter(task.pairs(model, n=1, seed=0)))
    except InputError as problem:  # a task of text for a model without a tokenizer, say
        return str(problem), ""
    prompts = "\n".join(task.text(ids, model) for ids in (pair.clean, pair.corrupted))
    return prompts, "\n".join(task.text(ids[:3], model) for ids in (pair.answers, pair.distractors))
