"""`circuits tasks`: what there is to explain, and whether a model does it."""

from typing import TYPE_CHECKING, Annotated, Any, no_type_check

import typer

from circuits.cli.common import DEFAULT_MODEL, LARGEST_SEED, find_pairs, load, print_json
from circuits.cli.file_pairs import FILES, FilePairs, print_unfit
from circuits.cli.groups import grouped
from circuits.cli.options import Device, OneLength
from circuits.cli.terminal import console, table
from circuits.errors import InputError

if TYPE_CHECKING:
    from circuits.model import Model

tasks_app = typer.Typer(help="Tasks: list them, check them on a model.", invoke_without_command=True)


@tasks_app.callback()
@no_type_check  # typer passes a context that is no typer.Context
def tasks(
    context: typer.Context,
    examples: Annotated[
        bool, typer.Option("--examples", help="Show an example pair of each; loads the model.")
    ] = False,
    model: Annotated[str, typer.Option(help="Whose tokenizer makes the example pairs.")] = DEFAULT_MODEL,
) -> None:
    """List the tasks; `circuits tasks check TASK` tells whether a model does one."""
    if context.invoked_subcommand is not None:
        return
    from circuits.plugins import find_task, task_names

    found = {name: find_task(name) for name in task_names()}
    if not examples:
        shown = table("tasks", {"task": False, "what it asks": False, "source": False})
        for name, task in found.items():
            shown.add_row(name, task.description, task.source)
    else:
        loaded = load(model, None, "auto", None)
        shown = table(
            "tasks", {"task": False, "clean / corrupted": False, "answer / distractor": False}, show_lines=True
        )
        for name, task in found.items():
            own = getattr(task, "model", None)
            shown.add_row(name, *_example(task, loaded if own is None else load(own, None, "auto", None)))
    console().print(shown)


@tasks_app.command()
@grouped
def check(
    target: Annotated[str, typer.Argument(metavar="TASK|FILE", help=f"A task, or {FILES}.")],
    reading: FilePairs,
    model: Annotated[
        str, typer.Option(help="A short name (circuits models), a Hugging Face id or a directory.")
    ] = DEFAULT_MODEL,
    n: Annotated[int | None, typer.Option(help="Pairs. Default: 100 of a task, all of a file.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the pairs.", min=0, max=LARGEST_SEED)] = 0,
    one_length: OneLength = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float64, bfloat16 or float16. Default: float32; a built model's own.")
    ] = None,
    device: Device = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the check as JSON instead of tables.")] = False,
) -> None:
    """Does the model do this task? Accuracy, logit differences, and what the tokenizer makes of its words."""
    source, how = find_pairs(target), reading.reading
    loaded = load(model, dtype, device, revision)
    from circuits.cli.terminal_tasks import print_check
    from circuits.evaluation.task import check_pairs, check_task

    if source.task is None:
        pairs = source(loaded, n, seed, bool(one_length), how)
        print_unfit(pairs)
        found = check_pairs(loaded, pairs)
    else:
        found = check_task(loaded, source.task, 100 if n is None else n, seed, one_length=bool(one_length))
    if json:
        print_json(found.to_dict())
    else:
        print_check(found)


def _example(task: Any, model: "Model") -> tuple[str, str]:
    """The two prompts of a task's first pair, and their answers and distractors, as people read them; or why there is none."""
    try:
        pair = next(iter(task.pairs(model, n=1, seed=0)))
    except InputError as problem:  # a task of text for a model without a tokenizer, say
        return str(problem), ""
    prompts = "\n".join(task.text(ids, model) for ids in (pair.clean, pair.corrupted))
    return prompts, "\n".join(task.text(ids[:3], model) for ids in (pair.answers, pair.distractors))
