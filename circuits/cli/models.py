"""`circuits models`: models that have a short name."""

from typing import TYPE_CHECKING, Annotated, no_type_check

import typer

from circuits.cli import completion
from circuits.cli.options import BatchSize, Dtype, Revision
from circuits.cli.terminal import console, print_json, say, table
from circuits.quiet import quiet_libraries

if TYPE_CHECKING:
    from circuits.methods.edge_memory import MemoryNeed

models_app = typer.Typer(help="Models with a short name: list them, fetch them.", invoke_without_command=True)


@models_app.callback()
@no_type_check  # typer passes a context that is not a typer.Context
def models(context: typer.Context) -> None:
    """List the models that have a short name, and whether they are in the cache."""
    if context.invoked_subcommand is not None:
        return
    from circuits import plugins, zoo

    rows = [
        (entry.name, entry.description, entry.licence, f"{entry.size / 1e6:.0f} MB", "yes" if zoo.is_cached(entry.name) else "no")
        for entry in zoo.entries()
    ]  # fmt: skip
    rows += [(name, plugins.find_model(name).description, "", "none", "built") for name in plugins.model_names()]
    columns = dict.fromkeys(("name", "description", "licence", "download", "cached"), False)
    title, caption = "models with a short name", f"cache: {zoo.cache_dir()}"
    console().print(table(title, columns, rows, caption=caption))
    say("Any other name is a Hugging Face id or a directory.")


@models_app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="A short name, such as smollm2-135m.", autocompletion=completion.fetched_models)
    ],
) -> None:
    """Download a model and convert it into the cache."""
    from circuits import zoo

    with zoo.rich_progress() as progress:
        path = zoo.fetch(name, progress, full=True)
    say(f"{name} is in {path}")


@models_app.command()
def memory(
    name: Annotated[
        str,
        typer.Argument(
            help="A short name, a directory or a Hugging Face id; only config.json is read.",
            autocompletion=completion.fetched_models,
        ),
    ],
    tokens: Annotated[int, typer.Option(help="Tokens of a prompt, after the common prefix.", min=1)] = 20,
    n: Annotated[int, typer.Option("--n", help="Pairs.", min=1)] = 64,
    batch_size: BatchSize = None,
    dtype: Dtype = None,
    revision: Revision = None,
    json: Annotated[bool, typer.Option("--json", help="Print bytes as JSON instead of a table.")] = False,
) -> None:
    """Predict the memory that edge attribution (EAP) needs, from the model's shape alone."""
    with quiet_libraries():
        from circuits.engine.placement import choose_dtype
        from circuits.methods.edge_memory import memory_need, read_config

        kind = choose_dtype(dtype or "float32")
        need = memory_need(read_config(name, revision), tokens=tokens, n=n, batch_size=batch_size, dtype=kind)
    if json:
        print_json(need.to_dict())
    else:
        _print(name, need, f"EAP of {n} pairs of {tokens} tokens, {need.batch_size} per batch, {dtype or 'float32'}")


def _print(name: str, need: "MemoryNeed", asked: str) -> None:
    parts = ("weights", "passes", "contraction", "scores", "peak")
    say(f"{name}: {need.n_parameters / 1e6:,.0f} million parameters, {need.graph.n_edges:,} edges")
    say(f"{asked}: predicted, not measured")
    rows = [(part, f"{getattr(need, part) / 1e9:.2f}") for part in parts]
    console().print(table(None, {"what": False, "GB": True}, rows))
    say("Python and its libraries need about 0.5 GB more.")
