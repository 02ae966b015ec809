"""`circuits models`: models that have a short name."""

from functools import partial
from typing import Annotated, no_type_check

import typer

from circuits.cli.common import print_json
from circuits.cli.options import BatchSize, Revision
from circuits.cli.terminal import console
from circuits.quiet import quiet_libraries

models_app = typer.Typer(help="Models with a short name: list them, fetch them.", invoke_without_command=True)


@models_app.callback()
@no_type_check  # typer passes a context that is no typer.Context
def models(context: typer.Context) -> None:
    """List the models that have a short name, and whether they are in the cache."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from circuits import plugins, zoo

    table = Table(title="models with a short name", caption=f"cache: {zoo.cache_dir()}")
    for heading in ("name", "what it is", "licence", "download", "cached"):
        table.add_column(heading, overflow="fold")
    for entry in zoo.entries():
        cached = "yes" if zoo.is_cached(entry.name) else "no"
        table.add_row(entry.name, entry.description, entry.licence, f"{entry.size / 1e6:.0f} MB", cached)
    for name in plugins.model_names():
        table.add_row(name, plugins.find_model(name).description, "", "none", "built")
    console().print(table)
    console().print("Any other name is a Hugging Face id or a directory.")


@models_app.command()
def fetch(name: Annotated[str, typer.Argument(help="A short name, such as smollm2-135m.")]) -> None:
    """Download a model and convert it into the cache."""
    from circuits import zoo

    with zoo.rich_progress() as progress:
        path = zoo.fetch(name, progress, full=True)
    console().print(f"{name} is in {path}", soft_wrap=True)


@models_app.command()
def memory(
    name: Annotated[
        str, typer.Argument(help="A short name, a directory or a Hugging Face id; only config.json is read.")
    ],
    tokens: Annotated[int, typer.Option(help="In a prompt, behind the common prefix.", min=1)] = 20,
    n: Annotated[int, typer.Option("--n", help="Pairs.", min=1)] = 64,
    batch_size: BatchSize = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    revision: Revision = None,
    json: Annotated[bool, typer.Option("--json", help="Print bytes as JSON instead of a table.")] = False,
) -> None:
    """Predict the memory that edge attribution (EAP) needs, from the model's shape alone."""
    from rich.table import Table

    with quiet_libraries():
        from circuits.engine.placement import choose_dtype
        from circuits.methods.edge_memory import memory_need, read_config

        kind = choose_dtype(dtype)
        need = memory_need(read_config(name, revision), tokens=tokens, n=n, batch_size=batch_size, dtype=kind)
    if json:
        print_json(need.to_dict())
        return
    table = Table()
    table.add_column("what")
    table.add_column("GB", justify="right")
    for part in ("weights", "passes", "contraction", "scores", "peak"):
        table.add_row(part, f"{getattr(need, part) / 1e9:.2f}")
    say = partial(console().print, soft_wrap=True)
    say(f"{name}: {need.n_parameters / 1e6:,.0f} million parameters, {need.graph.n_edges:,} edges")
    say(f"EAP of {n} pairs of {tokens} tokens, {need.batch_size} at a time, {dtype}: predicted, not measured")
    say(table)
    say("Python and its libraries come on top, some 0.5 GB.")
