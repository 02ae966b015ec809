"""`circuits models`: models that have a short name."""

from typing import Annotated

import typer

from circuits.terminal import console

models_app = typer.Typer(help="Models with a short name: list them, fetch them.", invoke_without_command=True)


@models_app.callback()
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
