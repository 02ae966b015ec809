"""The `circuits` command: it parses, calls and prints; what it does is in the library.

Exit codes: 0 done; 2 something given cannot be used (one readable line); 1 a bug of ours (a traceback).
Heavy packages are imported inside the commands, so that `circuits --help` answers at once.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuits.errors import InputError

if TYPE_CHECKING:
    from circuits.discover import Discovery
    from circuits.model import Model
    from circuits.pairs import PromptPairs
    from circuits.question import Progress

app = typer.Typer(
    help="Find which heads and MLPs of a language model produce a behaviour, and how they are wired.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="Models with a short name: list them, fetch them.", invoke_without_command=True)
app.add_typer(models_app, name="models")

DEFAULT_MODEL = "smollm2-135m"


@app.command()
def discover(
    target: Annotated[str, typer.Argument(help="A task (see 'circuits tasks') or a JSONL file of prompt pairs.")],
    model: Annotated[str, typer.Option(help="Short name, Hugging Face id, or directory.")] = DEFAULT_MODEL,
    method: Annotated[
        str, typer.Option(help="eap (one gradient) or eap-ig (gradients integrated over inputs).")
    ] = "eap-ig",
    edges: Annotated[int, typer.Option(help="Edges to choose; dead ends are pruned from them.")] = 200,
    by: Annotated[str, typer.Option(help="Rank edges by 'abs' (either sign) or 'signed'.")] = "abs",
    steps: Annotated[int, typer.Option(help="eap-ig: points on the path from ablated to clean.")] = 5,
    quadrature: Annotated[str, typer.Option(help="eap-ig: left, midpoint or right rule.")] = "midpoint",
    metric: Annotated[str | None, typer.Option(help="What is explained. Default: what the task prefers.")] = None,
    ablation: Annotated[str, typer.Option(help="What replaces an ablated value: interchange, zero.")] = "interchange",
    n: Annotated[int | None, typer.Option("--n", help="Pairs. Default: 64 of a task, all of a file.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the pairs and of the random circuits.", min=0, max=2**63 - 1)] = 0,
    random_circuits: Annotated[int, typer.Option(help="Random circuits to compare with.", min=0)] = 5,
    batch_size: Annotated[int | None, typer.Option(help="Pairs at a time. Default: by size.", min=1)] = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0 …")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of a Hugging Face model.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/TARGET-METHOD.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")] = False,
) -> None:
    """Score every edge of a model on a task, choose a circuit, test it and write it down."""
    from circuits.discover import METHODS, check_out, write_run
    from circuits.discover import discover as run_discovery

    if method not in METHODS:
        raise InputError(f"there is no method {method!r}; one of {', '.join(METHODS)}")
    out = check_out(out or Path("runs") / f"{Path(target).stem}-{method}", overwrite)
    source = _find_pairs(target)
    loaded = _load(model, dtype, device, revision)
    pairs = source(loaded, n, seed)
    found = run_discovery(
        loaded, pairs, method=method, edges=edges, by=by, steps=steps, quadrature=quadrature, metric=metric, ablation=ablation,
        n_random=random_circuits, seed=seed, batch_size=batch_size, stage=_stage,
    )  # fmt: skip
    written = write_run(found, pairs, out, overwrite=overwrite)
    _print_summary(found, loaded, pairs, written)


@app.command()
def tasks(
    model: Annotated[str, typer.Option(help="Whose tokenizer makes the example pairs.")] = DEFAULT_MODEL,
) -> None:
    """List the tasks, with an example pair each."""
    from rich.table import Table

    from circuits.plugins import find_task, task_names

    try:
        loaded = _load(model, "float32", "auto", None)
    except InputError as problem:
        print(f"circuits: no examples, since the model is not there: {problem}", file=sys.stderr)
        loaded = None
    table = Table(title="tasks", show_lines=True)
    for heading in ("task", "what it asks", "clean / corrupted", "answer / distractor"):
        table.add_column(heading, overflow="fold")
    for name in task_names():
        task = find_task(name)
        table.add_row(name, task.title, *(_example(task, loaded) if loaded else ("", "")))
    _console().print(table)


def _example(task: Any, model: "Model") -> tuple[str, str]:
    """The two prompts of a task's first pair, and their answers and distractors, as the model's tokenizer shows them."""
    pair = next(iter(task.pairs(model, n=1, seed=0)))
    prompts = "\n".join(model.tokenizer.decode(ids) for ids in (pair.clean, pair.corrupted))
    return prompts, "\n".join(model.tokenizer.decode(ids[:3]) for ids in (pair.answers, pair.distractors))


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the models that have a short name, and whether they are in the cache."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from circuits import zoo

    table = Table(title="models with a short name", caption=f"cache: {zoo.cache_dir()}")
    for heading in ("name", "what it is", "licence", "download", "cached"):
        table.add_column(heading, overflow="fold")
    for entry in zoo.entries():
        cached = "yes" if zoo.is_cached(entry.name) else "no"
        table.add_row(entry.name, entry.description, entry.licence, f"{entry.size / 1e6:.0f} MB", cached)
    _console().print(table)
    _console().print("Any other name is a Hugging Face id or a directory.")


@models_app.command()
def fetch(name: Annotated[str, typer.Argument(help="A short name, such as smollm2-135m.")]) -> None:
    """Download a model and convert it into the cache."""
    from circuits import zoo

    with zoo.rich_progress() as progress:
        path = zoo.fetch(name, progress, full=True)
    _console().print(f"{name} is in {path}", soft_wrap=True)


def _find_pairs(target: str) -> Any:
    """A function of (model, n, seed) that gives the pairs; refuses what is neither a task nor a file before any work."""
    path = Path(target)
    if path.suffix == ".jsonl" or path.is_file():
        from circuits.pairs import PromptPairs

        if not path.is_file():
            raise InputError(f"there is no file {target}")
        return lambda model, n, seed: _first(PromptPairs.from_jsonl(path, model), n)
    from circuits.plugins import find_task

    task = find_task(target)
    return lambda model, n, seed: task.pairs(model, n=64 if n is None else n, seed=seed)


def _first(pairs: "PromptPairs", n: int | None) -> "PromptPairs":
    return pairs if n is None or len(pairs) <= n else pairs[:n]


def _load(name: str, dtype: str, device: str, revision: str | None) -> "Model":
    with _quiet_libraries(), _console_stderr().status(f"loading {name}"):
        from circuits import zoo
        from circuits.model import load_model

        if name not in zoo.names() or zoo.is_cached(name):
            return load_model(name, dtype=dtype, device=device, revision=revision)
    with zoo.rich_progress() as progress:
        zoo.fetch(name, progress)
    with _quiet_libraries(), _console_stderr().status(f"loading {name}"):
        return load_model(name, dtype=dtype, device=device, revision=revision)


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Without the warnings that transformers and TransformerLens print while loading."""
    import logging
    import warnings

    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


@contextlib.contextmanager
def _stage(name: str) -> Iterator["Progress"]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:>20}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=_console_stderr()) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_summary(found: "Discovery", model: "Model", pairs: "PromptPairs", out: Path) -> None:
    from rich.table import Table

    numbers = found.summary()
    table = Table(title=f"{pairs.source or 'pairs'} in {model.name}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    accuracy = "–" if found.accuracy is None else f"{found.accuracy:.2f}"
    rows = [
        ("pairs", str(len(pairs))),
        ("accuracy of the model", accuracy),
        (f"{numbers['metric']}, clean", f"{numbers['clean']:.3f}"),
        (f"{numbers['metric']}, everything ablated ({numbers['ablation']})", f"{numbers['ablated']:.3f}"),
        (f"{numbers['metric']}, circuit", f"{numbers['circuit']:.3f}"),
        ("edges of the circuit", f"{numbers['edges']} of {numbers['edges_in_graph']}"),
        ("edges chosen before dead ends were pruned", str(found.options["edges"])),
        ("nodes of the circuit", str(numbers["nodes"])),
        ("faithfulness", _decimal(numbers["faithfulness"])),
        (
            f"faithfulness of {len(numbers['random_circuits'])} random circuits",
            _decimal(numbers["random_faithfulness"]),
        ),
        ("seconds", ", ".join(f"{stage} {s:.1f}" for stage, s in found.seconds.items())),
    ]
    for row in rows:
        table.add_row(*row)
    strongest = Table(title="strongest edges", title_justify="left")
    strongest.add_column("edge")
    strongest.add_column("in the circuit")
    strongest.add_column("effect", justify="right")
    strongest.add_column("std. error", justify="right")
    for edge, score, stderr in found.scores.strongest(10):
        strongest.add_row(
            edge,
            "yes" if edge in found.circuit else "no",
            f"{score:+.4f}",
            "–" if stderr != stderr else f"{stderr:.4f}",
        )
    console = _console()
    console.print(table, strongest)
    console.print(f"written to {out} (open {out / 'circuit.html'} in a browser)", soft_wrap=True)


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False)


def _console_stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True, markup=False)


def main() -> None:
    """Entry point of the `circuits` command."""
    try:
        app()
    except InputError as problem:
        print(f"circuits: {problem}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:
            print("circuits: interrupted; what was not finished was not written", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
