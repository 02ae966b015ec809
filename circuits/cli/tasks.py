"""`circuits tasks`: the tasks, one of them with examples, and whether a model does them."""

from typing import TYPE_CHECKING, Annotated, Any, no_type_check

import typer

from circuits.cli import completion
from circuits.cli.common import DEFAULT_MODEL, LARGEST_SEED, find_pairs, load
from circuits.cli.file_pairs import FILES, FilePairs, OfMetric, note_unfit
from circuits.cli.groups import grouped
from circuits.cli.options import Device, Dtype, OneLength, Revision
from circuits.cli.terminal import console, print_json, table
from circuits.errors import InputError
from circuits.methods.catalogue import check_known
from circuits.prompts.source import Source

if TYPE_CHECKING:
    from circuits.model import Model

tasks_app = typer.Typer(help="Tasks: list them, show one, check one on a model.", invoke_without_command=True)


@tasks_app.callback()
@no_type_check  # typer passes a context that is not a typer.Context
def tasks(
    context: typer.Context,
    examples: Annotated[
        bool, typer.Option("--examples", help="Show an example pair of each; loads the model.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="The model whose tokenizer makes the example pairs.", autocompletion=completion.models)
    ] = DEFAULT_MODEL,
) -> None:
    """List the tasks; `circuits tasks show TASK` shows one, `circuits tasks check TASK` measures whether a model does it."""
    if context.invoked_subcommand is not None:
        return
    from circuits.plugins import load_task, task_names

    known = {name: load_task(name) for name in task_names()}
    if not examples:
        rows = [(name, task.description, task.source) for name, task in known.items()]
        console().print(table("tasks", {"task": False, "description": False, "source": False}, rows))
        return
    usual, rows = load(model, None, "auto", None), []
    for name, task in known.items():
        own = getattr(task, "model", None)
        rows.append((name, *_example(task, usual if own is None else load(own, None, "auto", None))))
    columns = {"task": False, "clean / corrupted": False, "answer / distractor": False}
    console().print(table("tasks", columns, rows, show_lines=True))


@tasks_app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="TASK", help="A task, such as ioi or 'ioi(order=ABBA)'.", autocompletion=completion.tasks
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Whose tokenizer makes the examples. Default: the task's own model, or smollm2-135m.",
            autocompletion=completion.models,
        ),
    ] = None,
    n: Annotated[int, typer.Option(help="Examples.", min=1)] = 2,
    seed: Annotated[int, typer.Option(help="Random seed of the examples.", min=0, max=LARGEST_SEED)] = 0,
    device: Device = "cpu",
    revision: Revision = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show a task: its description, its options, and examples with their spans drawn under the tokens."""
    from circuits.plugins import check_model_path, check_task, load_task

    check_task(name)
    check_model_path(model or DEFAULT_MODEL)
    from circuits.cli.terminal_spans import print_task, task_record

    task = load_task(name)
    loaded = load(model or getattr(task, "model", None) or DEFAULT_MODEL, None, device, revision)
    pairs = task.pairs(loaded, n=n, seed=seed)
    if json:
        print_json(task_record(task, pairs, loaded))
    else:
        print_task(task, pairs, loaded)


@tasks_app.command()
@grouped
def check(
    target: Annotated[
        str, typer.Argument(metavar="TASK|FILE", help=f"A task, or {FILES}.", autocompletion=completion.tasks)
    ],
    reading: FilePairs,
    model: Annotated[
        str,
        typer.Option(
            help="A short name (circuits models), a Hugging Face id or a directory.", autocompletion=completion.models
        ),
    ] = DEFAULT_MODEL,
    metric: OfMetric = None,
    n: Annotated[int | None, typer.Option(help="Pairs. Default: 100 of a task, all of a file.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the pairs.", min=0, max=LARGEST_SEED)] = 0,
    one_length: OneLength = None,
    dtype: Dtype = None,
    device: Device = "auto",
    revision: Revision = None,
    json: Annotated[bool, typer.Option("--json", help="Print the check as JSON instead of tables.")] = False,
) -> None:
    """Check whether a model can do a task: accuracy, logit differences, and words of several tokens."""
    source = find_pairs(target)
    how = reading.check(source, _of_file(source, metric))
    loaded = load(model, dtype, device, revision)
    from circuits.cli.terminal_tasks import print_check
    from circuits.evaluation.task import check_pairs, check_task

    if source.task is None:
        pairs = source(loaded, n, seed, bool(one_length), how)
        note_unfit(pairs)
        result = check_pairs(loaded, pairs)
    else:
        result = check_task(loaded, source.task, 100 if n is None else n, seed, one_length=bool(one_length))
    if json:
        print_json(result.to_dict())
    else:
        print_check(result)


def _of_file(source: Source, metric: str | None) -> str | None:
    check_known("metric", metric)
    if source.given is not None and metric is not None:
        raise InputError("metric is for a file of prompts; a task has its own")
    return metric


def _example(task: Any, model: "Model") -> tuple[str, str]:
    """The two prompts of a task's first pair, and its answers and distractors, as text; or why there is no pair."""
    try:
        pair = next(iter(task.pairs(model, n=1, seed=0)))
    except InputError as problem:  # a task of text for a model without a tokenizer, for example
        return str(problem), ""
    prompts = "\n".join(task.text(ids, model) for ids in (pair.clean, pair.corrupted))
    return prompts, "\n".join(task.text(ids[:3], model) for ids in (pair.answers, pair.distractors))
