"""The `circuits` command: it parses, calls the library and prints.

One command a file. Exit codes: 0 done; 2 the input cannot be used (one readable line); 3 runs of a study failed; 1 a bug (a
traceback). Heavy packages are imported inside the commands, after their checks, so that `--help` and most mistakes are answered at
once.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from circuits import quiet
from circuits.cli.compare import compare
from circuits.cli.describe import describe
from circuits.cli.dictionary import dictionary_app
from circuits.cli.discover import discover
from circuits.cli.dissociate import dissociate
from circuits.cli.doctor import doctor
from circuits.cli.evaluate import evaluate
from circuits.cli.export import export
from circuits.cli.inspect import inspect
from circuits.cli.methods import methods_app
from circuits.cli.mib import mib_app
from circuits.cli.models import models_app
from circuits.cli.pairs import pairs_app
from circuits.cli.report import report
from circuits.cli.streams import lasting_streams
from circuits.cli.study import study_app
from circuits.cli.tasks import tasks_app
from circuits.cli.transfer import transfer
from circuits.cli.view import view
from circuits.errors import ContentWarning, DamageWarning, InputError, PairsWarning, of_machine

app = typer.Typer(
    help="Find which heads and MLPs of a language model produce a behaviour, and how they are wired.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def settings(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the messages of other libraries while loading.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions that results depend on, and stop.", is_eager=True)
    ] = False,
) -> None:
    if version:
        from circuits.results.provenance import versions

        print("\n".join(f"{name} {number}" for name, number in versions().items()))
        raise typer.Exit
    quiet.verbose = verbose


for command in (discover, evaluate, describe, inspect, compare, dissociate, transfer, export, view, report, doctor):
    app.command()(command)
app.add_typer(study_app, name="study")
app.add_typer(methods_app, name="methods")
app.add_typer(tasks_app, name="tasks")
app.add_typer(models_app, name="models")
app.add_typer(pairs_app, name="pairs")
app.add_typer(mib_app, name="mib")
app.add_typer(dictionary_app, name="dictionary")


def _shown(usual: Callable[..., Any]) -> Callable[..., Any]:
    """Shows warnings about files and pairs in one line; those about pairs once each."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
        if issubclass(category, DamageWarning | ContentWarning):
            print(f"circuits: {message}", file=sys.stderr)
        elif issubclass(category, PairsWarning):
            if str(message) not in seen:
                print(f"circuits: warning: {message}", file=sys.stderr)
            seen.add(str(message))
        else:
            usual(message, category, *more, **named)

    return show


USAGE: Any = typer.BadParameter.__mro__[1]
"""What typer raises for a command line that it cannot parse; typer itself has no name for it, only its version of click."""


def main() -> None:
    """Entry point of the `circuits` command."""
    try:
        with lasting_streams():
            code = _performed()
    except InputError as problem:  # standard output itself cannot be written to
        code = _refused(problem)
    sys.exit(code)


def _performed() -> int:
    """Runs the command; returns the exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _shown(warnings.showwarning)
            warnings.simplefilter("always", ContentWarning)
            code = app(standalone_mode=False) or 0
    except (InputError, USAGE) as problem:
        code = _refused(problem)
    except typer.Abort:
        code = 1
    except Exception as problem:
        message = of_machine(problem)
        if message is None:
            raise
        code = _refused(InputError(message))
    if code == 130:
        print("circuits: interrupted; no file was left half written", file=sys.stderr)
    return code


def _refused(problem: Any) -> int:
    """Prints in one line what cannot be used; returns the exit code."""
    if isinstance(problem, InputError):
        print(f"circuits: {problem}", file=sys.stderr)
    elif type(problem).__name__ == "NoArgsIsHelpError":
        problem.show()
    else:
        command = problem.ctx.command_path if problem.ctx is not None else "circuits"
        print(f"circuits: {problem.format_message()} ({command} --help shows all options)", file=sys.stderr)
    return 2
