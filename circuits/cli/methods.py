"""`circuits methods`: the methods, and the options of each."""

from typing import Annotated, no_type_check

import typer

from circuits.cli import completion
from circuits.cli.terminal import console, say, table
from circuits.methods.catalogue import DECLARED, declared
from circuits.methods.method import Declared
from circuits.methods.options import Option

methods_app = typer.Typer(
    help="Methods of 'circuits discover': list them, show the options of one.", invoke_without_command=True
)
RESULTS = {"edges": "scores of edges", "nodes": "scores of nodes", "circuit": "a circuit"}


@methods_app.callback()
@no_type_check  # typer passes a context that is not a typer.Context
def methods(context: typer.Context) -> None:
    """List the methods; `circuits methods show METHOD` shows the options of one."""
    if context.invoked_subcommand is not None:
        return
    rows = [(name, RESULTS[method.gives], method.help) for name, method in DECLARED.items()]
    console().print(table("methods", {"method": False, "result": False, "how": False}, rows))
    say("'circuits methods show METHOD' shows the options of a method")


@methods_app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="METHOD", help="A method, such as eap-ig.", autocompletion=completion.methods)
    ],
) -> None:
    """Show what a method returns, and its options for 'circuits discover'."""
    method = declared(name)
    say(facts(method).replace("`", ""))
    rows = [(f"--{option.spelled}", value(option), default(option), option.help) for option in method.takes]
    columns = {"option": False, "value": False, "default": False, "": False}
    console().print(table(f"options of {method.name}", columns, rows, show_lines=True))


def facts(method: Declared) -> str:
    """A method in a few sentences."""
    sentences = [f"Returns {RESULTS[method.gives]}: {method.help}."]
    asks = "ablation" not in method.unasked
    sentences.append(f"Default ablation: `{method.ablation}`." if asks else "Takes no metric and no ablation.")
    if method.divided:
        sentences.append("One run can be divided among workers.")
    if method.resumable:
        without = f", except with `{'`, `'.join(method.unrecorded)}`" if method.unrecorded else ""
        sentences.append(f"`--resume` continues a killed run{without}.")
    return " ".join(sentences)


def value(option: Option) -> str:
    """The values that an option takes."""
    if option.choices:
        return ", ".join(option.choices)
    return f"{option.kind.described}{f', {option.bounds}' if option.bounds else ''}"


def default(option: Option) -> str:
    """The default of an option; empty: there is none."""
    if option.required:
        return "required"
    if isinstance(option.default, bool):
        return "yes" if option.default else "no"
    return "" if option.default is None else str(option.default)
