"""The `circuits` command: it parses, calls and prints; what it does is in the library.

One command a file. Exit codes: 0 done; 2 something given cannot be used (one readable line); 3 a
study in which runs failed; 1 a bug of ours (a traceback). Heavy packages are imported inside the commands, so that `circuits --help` answers at once.
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from circuits import quiet
from circuits.cli.compare import compare
from circuits.cli.discover import discover
from circuits.cli.evaluate import evaluate
from circuits.cli.export import export
from circuits.cli.models import models_app
from circuits.cli.pairs import pairs_app
from circuits.cli.report import report
from circuits.cli.streams import lasting_streams
from circuits.cli.study import study_app
from circuits.cli.tasks import tasks_app
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
        bool, typer.Option("--verbose", "-v", help="Show what the libraries underneath say while loading.")
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


for command in (discover, evaluate, compare, export, view, report):
    app.command()(command)
app.add_typer(study_app, name="study")
app.add_typer(tasks_app, name="tasks")
app.add_typer(models_app, name="models")
app.add_typer(pairs_app, name="pairs")


def _shown(usual: Callable[..., Any]) -> Callable[..., Any]:
    """Shows our warnings about files and pairs in one line, each once."""
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
"""What typer raises for a command line that it cannot read; it has a name in whichever click typer comes with, not in typer."""
SPINS = "1000"
"""How often a thread of torch's looks whether there is work before it sleeps: what libgomp itself takes where there are more threads
than processors. Its default of 300,000 took up to six times as long on a machine that others used as well (README, What it costs)."""


def main() -> None:
    """Entry point of the `circuits` command."""
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = SPINS
    try:
        with lasting_streams():
            code = _performed()
    except InputError as problem:  # of standard output itself
        code = _refused(problem)
    sys.exit(code)


def _performed() -> int:
    """Does what the command line asks; the exit code."""
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
        said = of_machine(problem)
        if said is None:
            raise
        code = _refused(InputError(said))
    if code == 130:
        print("circuits: interrupted; what is finished is kept, the rest was not written", file=sys.stderr)
    return code


def _refused(problem: Any) -> int:
    """Says in one line what cannot be used; the exit code."""
    if isinstance(problem, InputError):
        print(f"circuits: {problem}", file=sys.stderr)
    elif type(problem).__name__ == "NoArgsIsHelpError":
        problem.show()
    else:
        command = problem.ctx.command_path if problem.ctx is not None else "circuits"
        print(f"circuits: {problem.format_message()} ({command} --help tells more)", file=sys.stderr)
    return 2
